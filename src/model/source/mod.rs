//! Where model files come from: embedded in the binary, a folder, or the Hugging Face hub.
//!
//! All calls block. They run before the server listens and in the command line tools, never on the
//! async runtime.

mod embedded;
mod files;
mod folder;
mod hub;
mod progress;

use std::path::{Path, PathBuf};

pub use files::{Blob, ModelFiles};
pub use hub::listing::{Cached, cached};
pub use hub::options::{HubOptions, Token};

use super::known;
use crate::error::ModelError;

/// The branch that a hub repository is read at when nothing else is said.
const DEFAULT_REVISION: &str = "main";

/// Where one model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Embedded,
    Folder(PathBuf),
    /// `revision` is a branch, a tag or a commit.
    Hub {
        repo_id: String,
        revision: String,
    },
}

impl Source {
    /// Reads what a user writes after `--model`.
    ///
    /// A folder that exists wins over a hub repository of the same name: what is on this machine
    /// must never be replaced by a download.
    ///
    /// # Errors
    /// The text is neither a folder nor a possible repository name, or a revision is given to
    /// something that has none.
    pub fn parse(model: &str, revision: Option<&str>) -> Result<Self, ModelError> {
        let model = model.trim();
        if matches!(model, "embedded" | "default" | embedded::NAME) {
            return without_revision(Self::Embedded, model, revision);
        }
        let path = expand_home(model);
        let path_like = model.starts_with(['.', '/', '~']) || path.is_absolute();
        if path_like || (!model.is_empty() && path.is_dir()) {
            return without_revision(Self::Folder(path), model, revision);
        }
        parse_hub(model, revision)
    }

    /// Makes the files readable, fetching them first where that is needed.
    ///
    /// # Errors
    /// The folder is not there, or the hub does not give the files.
    pub fn open(&self, hub: &HubOptions) -> Result<ModelFiles, ModelError> {
        match self {
            Self::Embedded => Ok(ModelFiles::open_embedded()),
            Self::Folder(path) => ModelFiles::open_folder(path),
            Self::Hub { repo_id, revision } => hub::open(repo_id, revision, hub),
        }
    }
}

fn without_revision(
    source: Source,
    model: &str,
    revision: Option<&str>,
) -> Result<Source, ModelError> {
    match revision {
        None => Ok(source),
        Some(_) => {
            Err(ModelError::invalid(model, "revision", "only a hub repository has revisions"))
        }
    }
}

/// `~/models/x`, which a shell leaves alone in `--model=~/models/x` and in a TOML file.
fn expand_home(model: &str) -> PathBuf {
    match (model.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => Path::new(model).to_path_buf(),
    }
}

fn parse_hub(model: &str, revision: Option<&str>) -> Result<Source, ModelError> {
    let (repo_id, inline) = match model.split_once('@') {
        Some((repo_id, inline)) => (repo_id, Some(inline)),
        None => (model, None),
    };
    let revision = match (inline, revision) {
        (Some(inline), Some(given)) if inline != given => {
            let message = format!("'{inline}' after the name, but '{given}' given besides");
            return Err(ModelError::invalid(model, "revision", message));
        }
        (Some(one), _) | (None, Some(one)) => one,
        (None, None) => known::find(repo_id).map_or(DEFAULT_REVISION, |known| &known.revision),
    };
    if !is_repo_id(repo_id) {
        let message = "no such folder, and not a hub repository name ('org/name') either";
        return Err(ModelError::invalid(model, "model", message));
    }
    if !is_revision(revision) {
        let message = format!("'{revision}' is not a branch, tag or commit");
        return Err(ModelError::invalid(model, "revision", message));
    }
    Ok(Source::Hub { repo_id: repo_id.to_owned(), revision: revision.to_owned() })
}

/// The hub's own rule. It also keeps the name safe in a path: no `..`, no separator but one slash.
fn is_repo_id(repo_id: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let part = |part: &str| {
        part.chars().all(word)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && !part.ends_with(['-', '.'])
            && !part.contains("..")
            // Two dashes separate the parts of a cache folder's name.
            && !part.contains("--")
    };
    repo_id.len() <= 96 && repo_id.split('/').count() <= 2 && repo_id.split('/').all(part)
}

/// What git allows in a name, less what would be special in a path or a URL.
fn is_revision(revision: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '=');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(word);
    revision.len() <= 200 && !revision.contains("..") && revision.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo_id: &str, revision: &str) -> Source {
        Source::Hub { repo_id: repo_id.into(), revision: revision.into() }
    }

    #[test]
    fn a_model_name_says_where_its_files_are() {
        let parse = |model| Source::parse(model, None).unwrap();
        for name in ["embedded", "default", "rerankd-default", " default "] {
            assert_eq!(parse(name), Source::Embedded, "{name}");
        }
        assert_eq!(parse("./m"), Source::Folder("./m".into()));
        assert_eq!(parse("/srv/m"), Source::Folder("/srv/m".into()));
        assert_eq!(parse("BAAI/bge-reranker-base"), hub("BAAI/bge-reranker-base", "main"));
        assert_eq!(parse("bert-base-uncased"), hub("bert-base-uncased", "main"));
        assert_eq!(parse("org/name@refs/pr/3"), hub("org/name", "refs/pr/3"));
        assert_eq!(Source::parse("org/name", Some("v2")).unwrap(), hub("org/name", "v2"));
        assert_eq!(Source::parse("org/name@v2", Some("v2")).unwrap(), hub("org/name", "v2"));
    }

    #[test]
    fn a_folder_that_exists_is_never_taken_for_a_repository() {
        assert_eq!(Source::parse("src/model", None).unwrap(), Source::Folder("src/model".into()));
    }

    #[test]
    fn a_name_that_could_leave_the_cache_is_refused() {
        for bad in ["", "a/b/c", "org/..", "..", "org/na me", "org/", "a--b/c", "org\\x", "org/-x"]
        {
            let folder = matches!(Source::parse(bad, None), Ok(Source::Folder(_)));
            assert!(folder || Source::parse(bad, None).is_err(), "{bad}");
        }
        for bad in ["", "../x", "a//b", ".git", "a b", "x?y", "x#y"] {
            assert!(Source::parse("org/name", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_revision_needs_a_repository_and_only_one_of_them() {
        assert!(Source::parse("embedded", Some("main")).is_err());
        assert!(Source::parse("./m", Some("main")).is_err());
        assert!(Source::parse("org/name@v1", Some("v2")).is_err());
    }
}
