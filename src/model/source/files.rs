//! A model's files, wherever they are: read one by name, or say clearly what is missing.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::Deserialize;

use super::{embedded, folder};
use crate::error::ModelError;

const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
/// The largest models on the hub have a few hundred shards.
const MAX_SHARDS: usize = 1024;
/// How many names a message lists before it says how many more there are.
const MAX_NAMES_SHOWN: usize = 12;

/// The bytes of one file.
pub enum Blob {
    Static(&'static [u8]),
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(bytes) => bytes,
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Static(_) => "Static",
            Self::Mapped(_) => "Mapped",
            Self::Owned(_) => "Owned",
        };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

/// One model's files. Reading them needs no network any more.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    name: String,
    revision: Option<String>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Embedded,
    Folder(PathBuf),
}

impl ModelFiles {
    pub(super) fn open_embedded() -> Self {
        Self { name: embedded::NAME.to_owned(), revision: None, place: Place::Embedded }
    }

    /// The model is named after its folder.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn open_folder(path: &Path) -> Result<Self, ModelError> {
        let shown = path.display().to_string();
        // The real path gives `--model .` a name, and survives a later change of the work folder.
        let root = std::fs::canonicalize(path)
            .map_err(|source| ModelError::Io { file: shown.clone(), source })?;
        if !root.is_dir() {
            return Err(ModelError::invalid(shown, "model", "not a folder"));
        }
        let name = root.file_name().map_or(shown, |name| name.to_string_lossy().into_owned());
        Ok(Self { name, revision: None, place: Place::Folder(root) })
    }

    /// A snapshot in the hub's cache: a folder that knows its commit.
    pub(super) fn open_snapshot(repo_id: &str, commit: &str, root: PathBuf) -> Self {
        let (name, revision) = (repo_id.to_owned(), Some(commit.to_owned()));
        Self { name, revision, place: Place::Folder(root) }
    }

    /// What clients call the model: the repository, the folder's name, or the embedded model's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit, where it is known.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// Where the files lie; `None` for the embedded model.
    pub fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Embedded => None,
            Place::Folder(root) => Some(root),
        }
    }

    /// The files in the folder and one level below, with their sizes in bytes.
    pub fn sizes(&self) -> Vec<(String, u64)> {
        let size = |name: &String| match &self.place {
            Place::Embedded => embedded::get(name).map_or(0, |bytes| bytes.len() as u64),
            Place::Folder(root) => {
                std::fs::metadata(root.join(name)).map_or(0, |metadata| metadata.len())
            }
        };
        self.names().into_iter().map(|name| (name.clone(), size(&name))).collect()
    }

    /// The file's bytes, `None` where the model has no such file. Large files are not copied.
    ///
    /// # Errors
    /// The name leads out of the model, or the file cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<Blob>, ModelError> {
        check_name(file)?;
        match &self.place {
            Place::Embedded => Ok(embedded::get(file).map(Blob::Static)),
            Place::Folder(root) => {
                let path = root.join(file);
                folder::read(&path)
                    .map_err(|source| ModelError::Io { file: path.display().to_string(), source })
            }
        }
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// As [`Self::read`], or there is no such file; then the message names the files there are.
    pub fn require(&self, file: &str) -> Result<Blob, ModelError> {
        self.read(file)?.ok_or_else(|| self.missing(file))
    }

    /// The safetensors files that together hold the weights: one, or the shards of the index.
    ///
    /// # Errors
    /// The model has neither, or its index is not one.
    pub fn weight_files(&self) -> Result<Vec<String>, ModelError> {
        if self.has(WEIGHTS) {
            return Ok(vec![WEIGHTS.to_owned()]);
        }
        match self.read(WEIGHTS_INDEX)? {
            Some(index) => shards(&index),
            None => Err(no_weights(&self.name, &self.names())),
        }
    }

    fn has(&self, file: &str) -> bool {
        match &self.place {
            Place::Embedded => embedded::get(file).is_some(),
            Place::Folder(root) => root.join(file).is_file(),
        }
    }

    fn names(&self) -> Vec<String> {
        match &self.place {
            Place::Embedded => embedded::names(),
            Place::Folder(root) => folder::names(root),
        }
    }

    fn missing(&self, file: &str) -> ModelError {
        if file == WEIGHTS {
            return no_weights(&self.name, &self.names());
        }
        let place = match &self.place {
            Place::Embedded => "this build".to_owned(),
            Place::Folder(root) => root.display().to_string(),
        };
        let hint = format!("{place} has {}", list(&self.names()));
        ModelError::Missing { model: self.name.clone(), file: file.to_owned(), hint }
    }
}

/// Which files of a listing hold the weights, known before anything is downloaded.
pub(super) enum Weights {
    Single(&'static str),
    Sharded { index: &'static str },
}

pub(super) fn find_weights(model: &str, names: &[String]) -> Result<Weights, ModelError> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(WEIGHTS) {
        Ok(Weights::Single(WEIGHTS))
    } else if has(WEIGHTS_INDEX) {
        Ok(Weights::Sharded { index: WEIGHTS_INDEX })
    } else {
        Err(no_weights(model, names))
    }
}

/// Says what to do for the formats that are met in practice and that this server does not read.
fn no_weights(model: &str, names: &[String]) -> ModelError {
    let find = |is_one: fn(&str) -> bool| names.iter().find(|name| is_one(name));
    let from_elsewhere = "take the repository that it was converted from, with model.safetensors";
    let pickle = find(|name| name.starts_with("pytorch_model")).map(|name| {
        let message = "(a pickle can run code): take a revision with model.safetensors, or convert with \
                       save_pretrained(..., safe_serialization=True)";
        (name, message.to_owned())
    });
    let converted = |format: &str, is_one| {
        find(is_one).map(|name| (name, format!("and not from {format}: {from_elsewhere}")))
    };
    let other = pickle
        .or_else(|| converted("GGUF", |name| name.ends_with(".gguf")))
        .or_else(|| converted("ONNX", |name| name.ends_with(".onnx")));
    match other {
        Some((name, message)) => {
            let message = format!("weights are read from safetensors only {message}");
            ModelError::unsupported(model, name, message)
        }
        None => ModelError::Missing {
            model: model.to_owned(),
            file: WEIGHTS.to_owned(),
            hint: format!("there is {}", list(names)),
        },
    }
}

/// Lists names in one line of bounded length.
pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no files".to_owned();
    }
    let shown: Vec<&str> = names.iter().take(MAX_NAMES_SHOWN).map(String::as_str).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Refuses a name that could lead out of the model's folder. Names come from the operator, but also
/// from a repository's JSON (`weight_map`, `modules.json`), which its author writes.
pub(super) fn check_name(file: &str) -> Result<(), ModelError> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let safe = file.len() <= 255
        && file.split('/').all(plain)
        // `\` and `:` are separators on Windows; control characters would reach a log line.
        && !file.contains(|c: char| c == '\\' || c == ':' || c.is_control());
    if safe {
        return Ok(());
    }
    let shown: String = file.escape_debug().take(80).collect();
    Err(ModelError::invalid(shown, "file name", "leads out of the model's folder"))
}

/// The distinct shards of an index, sorted.
pub(super) fn shards(index: &[u8]) -> Result<Vec<String>, ModelError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let invalid = |message: String| Err(ModelError::invalid(WEIGHTS_INDEX, "weight_map", message));
    let index: Index = match serde_json::from_slice(index) {
        Ok(index) => index,
        Err(e) => return invalid(e.to_string()),
    };
    let mut shards: Vec<String> = index.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return invalid(format!("{} shards, not 1 to {MAX_SHARDS}", shards.len()));
    }
    for shard in &shards {
        check_name(shard)?;
        if !shard.ends_with(".safetensors") {
            return invalid(format!("'{shard}' is not a safetensors file"));
        }
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[(&str, &[u8])]) -> (tempfile::TempDir, ModelFiles) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let files = ModelFiles::open_folder(folder.path()).unwrap();
        (folder, files)
    }

    #[test]
    fn a_large_file_is_mapped_and_a_small_one_read() {
        let large = vec![7u8; 2 << 20];
        let (_folder, files) = folder_with(&[("config.json", b"{}"), (WEIGHTS, &large)]);
        assert!(matches!(files.require("config.json").unwrap(), Blob::Owned(_)));
        let weights = files.require(WEIGHTS).unwrap();
        assert!(matches!(weights, Blob::Mapped(_)));
        assert_eq!(&weights[..], &large[..]);
    }

    #[test]
    fn a_missing_file_is_named_with_the_files_there_are() {
        let (_folder, files) = folder_with(&[("config.json", b"{}"), ("1_Pooling/x.json", b"{}")]);
        assert!(files.read("tokenizer.json").unwrap().is_none());
        let message = files.require("tokenizer.json").unwrap_err().to_string();
        assert!(message.contains("no file 'tokenizer.json'"), "{message}");
        assert!(message.contains("1_Pooling/x.json, config.json"), "{message}");
    }

    #[test]
    fn a_pickle_is_not_read_and_the_message_says_what_to_do() {
        let (_folder, files) = folder_with(&[("pytorch_model.bin", b"x")]);
        for error in [files.require(WEIGHTS).unwrap_err(), files.weight_files().unwrap_err()] {
            assert!(error.to_string().contains("safetensors only"), "{error}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let (_folder, files) = folder_with(&[("config.json", b"{}")]);
        for bad in ["../x", "/etc/passwd", "a/../../x", "", "a//b", "..\\x", "C:x", "a\nb", "./x"] {
            assert!(matches!(files.read(bad), Err(ModelError::Invalid { .. })), "{bad:?}");
        }
    }

    #[test]
    fn an_index_cannot_name_a_file_outside_the_model() {
        let index = br#"{"weight_map": {"a": "../../etc/passwd.safetensors"}}"#;
        assert!(shards(index).unwrap_err().to_string().contains("leads out"));
        let index = br#"{"weight_map": {"a": "b.safetensors", "c": "a.safetensors", "d": "b.safetensors"}}"#;
        assert_eq!(shards(index).unwrap(), ["a.safetensors", "b.safetensors"]);
        assert!(shards(br#"{"weight_map": {"a": "x.bin"}}"#).is_err());
        assert!(shards(br#"{"weight_map": {}}"#).is_err());
        assert!(shards(b"[]").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_in_a_files_place_is_an_error_and_not_a_hang() {
        let (folder, files) = folder_with(&[]);
        std::fs::create_dir(folder.path().join("config.json")).unwrap();
        assert!(files.read("config.json").is_err());
    }

    #[test]
    fn the_embedded_model_is_whole_and_never_copied() {
        let files = ModelFiles::open_embedded();
        for file in ["config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS] {
            assert!(matches!(files.require(file).unwrap(), Blob::Static(_)), "{file}");
        }
        assert_eq!(files.weight_files().unwrap(), [WEIGHTS]);
    }
}
