//! The hub's three requests: a revision's commit and files, a file's identity, a file's bytes.
//!
//! Written over `ureq` because the hub's own crate (hf-hub 0.5) cannot keep what we promise: it
//! sends the token to the storage host on a redirect, names files after an unchecked `ETag`, trusts
//! a resumed file without a hash, knows neither offline mode nor timeouts, and panics on a bad
//! `Location`.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, Method, Uri};
use serde::Deserialize;
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::failure::{Failure, Retries};
use super::options::{HubOptions, Token};

/// A listing of the largest repositories has a few MB.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// The hub needs two: a renamed repository, then the storage host.
const MAX_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two reads, not over a whole file: a slow line is no fault, a silent one is.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
    retry_pause: Duration,
    repo_id: String,
}

/// What a revision is at the moment.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) commit: String,
    pub(super) files: BTreeSet<String>,
}

/// Which bytes a file name stands for.
#[derive(Debug)]
pub(super) struct FileId {
    /// Safe as a file name. For a large file it is the SHA-256 of its bytes.
    pub(super) etag: String,
    pub(super) size_bytes: u64,
}

impl FileId {
    /// The hash to check, where the hub tells one. Small files are named by a git hash instead,
    /// which the hub does not promise to keep.
    pub(super) fn sha256(&self) -> Option<&str> {
        let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        (self.etag.len() == 64 && self.etag.chars().all(hex)).then_some(self.etag.as_str())
    }
}

impl Client {
    pub(super) fn new(repo_id: &str, options: &HubOptions) -> Result<Self, Failure> {
        let mut config = Agent::config_builder()
            // Redirects are walked here: the token must not follow them to another host.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(STALL_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .user_agent(concat!("rerankd/", env!("CARGO_PKG_VERSION")));
        if !options.use_proxy {
            config = config.proxy(None);
        }
        if let Some(file) = &options.ca_file {
            let roots = read_roots(file)?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint: options.endpoint.clone(),
            token: options.token.clone(),
            retry_pause: options.retry_pause,
            repo_id: repo_id.to_owned(),
        })
    }

    pub(super) fn retries(&self) -> Retries {
        Retries::new(self.retry_pause)
    }

    /// Asks which commit a branch or tag is at, and which files it has.
    pub(super) fn revision(&self, revision: &str) -> Result<Revision, Failure> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (repo_id, escaped) = (&self.repo_id, escape(revision));
        let url = format!("{}/api/models/{repo_id}/revision/{escaped}", self.endpoint);
        let what = format!("{repo_id} at '{revision}'");
        let body = self.retries().run(|| {
            let answer = self.walk(&Method::GET, &url, None, false)?.expect_success(&what)?;
            let body = answer.body.into_with_config().limit(MAX_LISTING_BYTES).read_to_vec();
            body.map_err(|e| Failure::of_error(e, &what))
        })?;
        let info: Info = serde_json::from_slice(&body)
            .map_err(|e| Failure::broken(format!("the answer for {what} is no listing: {e}")))?;
        if !is_commit(&info.sha) {
            return Err(Failure::broken(format!("'{}' is not a commit", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Revision { commit: info.sha, files })
    }

    /// Asks which bytes a file is, without fetching them.
    pub(super) fn file_id(&self, commit: &str, file: &str) -> Result<FileId, Failure> {
        let url = self.file_url(commit, file);
        let what = format!("{file} of {}", self.repo_id);
        self.retries().run(|| {
            // The storage host's headers know the bytes but not the hub's name for them.
            let answer = self.walk(&Method::HEAD, &url, None, true)?;
            if !answer.status.is_redirection() {
                return answer.expect_success(&what)?.file_id(&what);
            }
            answer.file_id(&what)
        })
    }

    /// Starts to fetch a file's bytes, from an offset on.
    pub(super) fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<Answer, Failure> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let what = format!("{file} of {}", self.repo_id);
        let url = self.file_url(commit, file);
        let answer = self.walk(&Method::GET, &url, range.as_deref(), false)?;
        // 416: our partial file is not a beginning of the file. The caller starts again.
        if answer.status.as_u16() == 416 { Ok(answer) } else { answer.expect_success(&what) }
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(escape).collect();
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.repo_id, file.join("/"))
    }

    /// Follows redirects by hand. With `stay` it stops at the one that leaves the endpoint.
    fn walk(
        &self,
        method: &Method,
        url: &str,
        range: Option<&str>,
        stay: bool,
    ) -> Result<Answer, Failure> {
        let mut url = parse_url(url)?;
        let home = url.clone();
        let mut seen = HeaderMap::new();
        for _ in 0..MAX_REDIRECTS {
            let at_home = same_origin(&url, &home);
            let mut request = http::Request::builder()
                .method(method)
                .uri(url.clone())
                // The hashes are of the plain bytes.
                .header("accept-encoding", "identity");
            if let Some(range) = range {
                request = request.header("range", range);
            }
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            // No word of the cause: it could quote the token.
            let request = request.body(()).map_err(|_| {
                Failure::broken("HF_TOKEN or the URL has characters that HTTP does not allow")
            })?;
            let host = url.host().unwrap_or_default().to_owned();
            let response = self.agent.run(request).map_err(|e| Failure::of_error(e, &host))?;
            let (parts, body) = response.into_parts();
            let next = match parts.headers.get("location") {
                Some(location) if parts.status.is_redirection() => Some(join(&url, location)?),
                _ => None,
            };
            if at_home {
                keep_identity(&mut seen, &parts.headers);
            }
            match next {
                Some(next) if !stay || same_origin(&next, &home) => {
                    // Else a network in between could read or replace the bytes.
                    if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                        return Err(Failure::broken(format!("{host} redirects https to http")));
                    }
                    url = next;
                }
                _ => {
                    return Ok(Answer { status: parts.status, headers: parts.headers, seen, body });
                }
            }
        }
        Err(Failure::broken(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// A final answer, with what the hub said about the file on the way to it.
pub(super) struct Answer {
    pub(super) status: http::StatusCode,
    pub(super) headers: HeaderMap,
    /// The identity headers of the endpoint's own answers, the last one winning.
    seen: HeaderMap,
    pub(super) body: Body,
}

impl Answer {
    fn expect_success(self, what: &str) -> Result<Self, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        Err(Failure::of_status(self.status, &self.headers, what))
    }

    fn file_id(&self, what: &str) -> Result<FileId, Failure> {
        let seen = |name: &str| self.seen.get(name).and_then(|value| value.to_str().ok());
        let Some(etag) = seen("x-linked-etag").or_else(|| seen("etag")) else {
            let hint = "is HF_ENDPOINT the hub's own address, without a redirect before it?";
            return Err(Failure::broken(format!("{what}: the answer has no ETag; {hint}")));
        };
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
        // It becomes a file name.
        if etag.is_empty() || etag.len() > 128 || !etag.chars().all(safe) {
            return Err(Failure::broken(format!("{what}: the ETag '{etag}' is not a hash")));
        }
        let length =
            if self.status.is_success() { self.headers.get("content-length") } else { None };
        let length = length.and_then(|value| value.to_str().ok());
        let size = seen("x-linked-size").or(length).and_then(|size| size.parse().ok());
        let size_bytes =
            size.ok_or_else(|| Failure::broken(format!("{what}: the answer has no size")))?;
        Ok(FileId { etag: etag.to_owned(), size_bytes })
    }

    /// Where in the file the body starts. A server may ignore `Range` and send all of it.
    pub(super) fn start(&self) -> Option<u64> {
        if self.status.as_u16() != 206 {
            return Some(0);
        }
        let range = self.headers.get("content-range")?.to_str().ok()?;
        range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
    }
}

fn keep_identity(seen: &mut HeaderMap, headers: &HeaderMap) {
    for name in ["etag", "x-linked-etag", "x-linked-size"] {
        if let Some(value) = headers.get(name) {
            seen.insert(name, value.clone());
        }
    }
}

pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

fn read_roots(file: &std::path::Path) -> Result<RootCerts, Failure> {
    let pem = std::fs::read(file).map_err(Failure::disk(file))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let Ok(PemItem::Certificate(certificate)) = item {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(Failure::broken(format!("{} has no PEM certificate", file.display())));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

fn parse_url(url: &str) -> Result<Uri, Failure> {
    let uri: Uri = url.parse().map_err(|e| Failure::broken(format!("{url}: {e}")))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(Failure::broken(format!("{url}: not an http or https address"))),
    }
}

/// The address of a redirect. Its text is never shown: a signed address is a secret.
fn join(base: &Uri, location: &http::HeaderValue) -> Result<Uri, Failure> {
    let bad = || Failure::broken("a redirect leads to an address that is not one");
    let location = location.to_str().map_err(|_| bad())?;
    let absolute = if location.starts_with('/') && !location.starts_with("//") {
        let origin = base.authority().map_or("", http::uri::Authority::as_str);
        format!("{}://{origin}{location}", base.scheme_str().unwrap_or("https"))
    } else {
        location.to_owned()
    };
    parse_url(&absolute).map_err(|_| bad())
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// One part of a path. What is not plainly a letter of it is escaped byte by byte.
fn escape(part: &str) -> String {
    let mut escaped = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&parse_url(a).unwrap(), &parse_url(b).unwrap());
        assert!(same("https://hub.co/a", "https://HUB.co:443/b"));
        assert!(!same("https://hub.co/a", "http://hub.co/a"));
        assert!(!same("https://hub.co/a", "https://cdn.hub.co/a"));
        assert!(!same("http://127.0.0.1:1/a", "http://127.0.0.1:2/a"));
    }

    #[test]
    fn a_redirect_is_read_against_the_address_it_came_from() {
        let base = parse_url("https://hub.co/a/b").unwrap();
        let join = |location: &str| join(&base, &location.parse().unwrap());
        assert_eq!(join("/c?d=e").unwrap().to_string(), "https://hub.co/c?d=e");
        assert_eq!(join("https://cdn.co/x").unwrap().host(), Some("cdn.co"));
        for bad in ["//evil.co/x", "file:///etc/passwd", "c/d", ""] {
            assert!(join(bad).is_err(), "{bad}");
        }
    }
}
