//! A hub, a model on it, an empty cache, and what a test asks of them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rerankd::model::source::{HubOptions, ModelFiles, Source};

use super::server::{Host, Hub, REPO, Seen};

/// Large enough to be mapped, and different at every offset.
pub(crate) fn weights() -> Vec<u8> {
    (0..2_000_000u32).flat_map(u32::to_le_bytes).take(3 << 20).collect()
}

pub(crate) const CONFIG: &[u8] = br#"{"model_type": "bert"}"#;

/// A repository's files, by name.
pub(crate) type Files<'a> = &'a [(&'a str, &'a [u8])];

pub(crate) fn model(weights: &[u8]) -> Vec<(&str, &[u8])> {
    vec![("config.json", CONFIG), ("tokenizer.json", b"{}"), ("model.safetensors", weights)]
}

/// A hub, a cache of its own, and a client's settings for both.
pub(crate) struct Bench {
    pub(crate) hub: Hub,
    pub(crate) cache: tempfile::TempDir,
    pub(crate) options: HubOptions,
}

impl Bench {
    pub(crate) fn with(files: Files<'_>) -> Self {
        let hub = Hub::with(files);
        let cache = tempfile::tempdir().unwrap();
        let mut options = HubOptions::from_env(|_| None);
        options.endpoint = hub.endpoint.clone();
        options.cache_dir = Some(cache.path().to_path_buf());
        options.retry_pause = Duration::from_millis(1);
        Self { hub, cache, options }
    }

    pub(crate) fn new() -> Self {
        Self::with(&model(&weights()))
    }

    pub(crate) fn open_at(&self, revision: &str) -> Result<ModelFiles, String> {
        let source = Source::parse(REPO, Some(revision)).unwrap();
        source.open(&self.options).map_err(|e| {
            let text = e.to_string();
            assert!(!text.contains('\n') && text.len() < 1000, "not one line: {text}");
            assert!(!text.contains("sesame") && !text.contains("hf_secret"), "a secret in: {text}");
            text
        })
    }

    pub(crate) fn open(&self) -> Result<ModelFiles, String> {
        self.open_at("main")
    }

    pub(crate) fn error(&self) -> String {
        self.open().map(|_| ()).unwrap_err()
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.cache.path().join("models--org--name")
    }

    pub(crate) fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo().join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The requests to the storage host.
pub(crate) fn to_storage(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter().filter(|seen| seen.host == Host::Storage).collect()
}

pub(crate) fn asked_for(seen: &[Seen], part: &str) -> usize {
    seen.iter().filter(|seen| seen.path.contains(part)).count()
}
