//! How to reach the hub: the environment variables that users of its Python client already set.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A secret that no log line and no error can show.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Settings of the hub client, read once.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Without a slash at its end.
    pub endpoint: String,
    /// The folder that holds `models--org--name`. `None` where neither a variable nor a home folder
    /// says where it is; that is an error only once a repository is opened.
    pub cache_dir: Option<PathBuf>,
    pub token: Option<Token>,
    /// Only what is in the cache; no connection is made.
    pub offline: bool,
    /// Certificates to trust in place of the built-in Mozilla roots, as PEM: for a proxy or a
    /// mirror inside a company.
    pub ca_file: Option<PathBuf>,
    /// Whether `HTTPS_PROXY` and its kin hold. The values are read from the process environment.
    pub use_proxy: bool,
    /// The pause before the first retry; every further one is twice as long.
    pub retry_pause: Duration,
}

impl HubOptions {
    /// Reads the variables through `get_env`, so that a test never touches those of its process.
    pub fn from_env(get_env: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get_env(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| get(name));
        let home = first(&["HOME", "USERPROFILE"]).map(PathBuf::from);
        let path = |text: String| expand_home(&text, home.as_deref());

        let hf_home = get("HF_HOME").map(path).or_else(|| {
            let caches = get("XDG_CACHE_HOME").map(path);
            let caches = caches.or_else(|| home.as_ref().map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache_dir = first(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
            .map(path)
            .or_else(|| hf_home.as_ref().map(|hf_home| hf_home.join("hub")));
        let token_file = get("HF_TOKEN_PATH")
            .map(path)
            .or_else(|| hf_home.as_ref().map(|hf_home| hf_home.join("token")));
        let token = first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
            .or_else(|| token_file.and_then(|file| std::fs::read_to_string(file).ok()))
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());

        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            cache_dir,
            token: token.map(Token),
            offline: first(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
                .is_some_and(|value| is_true(&value)),
            ca_file: first(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]).map(path),
            use_proxy: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]).is_some()
                || first(&["HTTP_PROXY", "http_proxy"]).is_some(),
            retry_pause: Duration::from_millis(500),
        }
    }
}

/// The Python client's reading of a boolean variable.
fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn expand_home(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(env: &[(&str, &str)]) -> HubOptions {
        let env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        HubOptions::from_env(|name| {
            env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    fn cache_dir(env: &[(&str, &str)]) -> String {
        options(env).cache_dir.unwrap().display().to_string()
    }

    #[test]
    fn the_cache_is_where_the_python_client_has_it() {
        assert_eq!(cache_dir(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache_dir(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(cache_dir(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache_dir(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert_eq!(cache_dir(&[("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert!(options(&[]).cache_dir.is_none());
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let set = options(&[("HF_ENDPOINT", ""), ("HF_TOKEN", " "), ("HF_HUB_OFFLINE", "")]);
        assert_eq!(set.endpoint, DEFAULT_ENDPOINT);
        assert!(set.token.is_none() && !set.offline && !set.use_proxy);
    }

    #[test]
    fn offline_is_read_as_the_python_client_reads_it() {
        for yes in ["1", "true", "YES", "on"] {
            assert!(options(&[("HF_HUB_OFFLINE", yes)]).offline, "{yes}");
        }
        assert!(!options(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert!(options(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_or_the_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let from_file = options(&[("HF_HOME", home)]);
        assert_eq!(from_file.token.as_ref().unwrap().expose(), "hf_file");
        let from_env = options(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]);
        assert_eq!(from_env.token.as_ref().unwrap().expose(), "hf_env");
        assert!(!format!("{from_file:?} {from_env:?}").contains("hf_"));
    }
}
