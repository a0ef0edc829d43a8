//! Public models that run here, one TOML each in `models/public`, inside the program: what to expect of a download
//! before there is one, and the prompt of those whose files do not say it.

use std::sync::LazyLock;

use serde::Deserialize;

/// A model on the hub.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    pub hub_id: String,
    /// The branch or tag that is fetched when nothing else is said.
    pub revision: String,
    /// As config.json names it.
    pub architecture: String,
    pub head: Head,
    /// Tokens in a pair that it was made for; longer ones are cut, whatever its positions would allow.
    pub max_length: usize,
    pub parameters_millions: u32,
    /// As its card says.
    pub licence: String,
    /// `[prompt]`, as a folder's `model.toml` has it.
    pub prompt: Option<toml::Table>,
}

/// What becomes of the hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    Classifier,
    /// The logits of two words of a language model.
    Answers,
    Cosine,
}

impl Head {
    pub fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Answers => "answers",
            Self::Cosine => "cosine",
        }
    }
}

macro_rules! embed {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../models/public/", $name, ".toml")))),+]
    };
}

static FILES: &[(&str, &str)] = embed![
    "Alibaba-NLP--gte-multilingual-reranker-base",
    "Alibaba-NLP--gte-reranker-modernbert-base",
    "BAAI--bge-reranker-base",
    "BAAI--bge-reranker-large",
    "BAAI--bge-reranker-v2-gemma",
    "BAAI--bge-reranker-v2-m3",
    "Qwen--Qwen3-Reranker-0.6B",
    "Qwen--Qwen3-Reranker-4B",
    "antoinelouis--crossencoder-camembert-base-mmarcoFR",
    "cross-encoder--ms-marco-MiniLM-L12-v2",
    "cross-encoder--ms-marco-MiniLM-L6-v2",
    "cross-encoder--ms-marco-electra-base",
    "cross-encoder--qnli-distilroberta-base",
    "mixedbread-ai--mxbai-rerank-base-v1",
    "mixedbread-ai--mxbai-rerank-base-v2",
    "mixedbread-ai--mxbai-rerank-large-v1",
    "mixedbread-ai--mxbai-rerank-large-v2",
    "mixedbread-ai--mxbai-rerank-xsmall-v1",
    "sentence-transformers--all-MiniLM-L6-v2",
    "tomaarsen--Qwen3-Reranker-0.6B-seq-cls",
    "tomaarsen--reranker-ModernBERT-large-gooaq-bce",
];

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let read = |(_, text): &(&str, &str)| toml::from_str(text).expect("a test reads every file");
    FILES.iter().map(read).collect()
});

/// All of them, by name.
pub fn all() -> &'static [Known] {
    &KNOWN
}

/// The one that the hub has under this name.
pub fn find(hub_id: &str) -> Option<&'static Known> {
    all().iter().find(|known| known.hub_id.eq_ignore_ascii_case(hub_id))
}

/// The table of the README.
pub fn markdown() -> String {
    use std::fmt::Write;
    let mut table = "| model | architecture | head | tokens | parameters | licence |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for Known { hub_id, architecture, head, max_length, parameters_millions, licence, .. } in all()
    {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {hub_id} | {architecture} | {} | {max_length} | {parameters_millions} M | {licence} |",
            head.name()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::loader::check_config;

    fn repository() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn every_file_is_inside_the_program_and_named_after_its_model() {
        for (known, (name, _)) in all().iter().zip(FILES) {
            assert_eq!(known.hub_id.replace('/', "--"), *name);
        }
        let folder = std::fs::read_dir(repository().join("models/public")).unwrap();
        assert_eq!(folder.count(), FILES.len());
    }

    #[test]
    fn every_known_model_has_code_for_its_published_configuration() {
        let path = repository().join("tests/published_configs.json");
        let text = std::fs::read_to_string(path).unwrap();
        let configs: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut num_checked = 0;
        for known in all() {
            let Some(config) = configs.get(&known.hub_id) else { continue };
            let config = check_config(config.to_string().as_bytes()).unwrap();
            assert_eq!(config.architecture, known.architecture, "{}", known.hub_id);
            let positions = config.fields.size("max_position_embeddings", 1 << 20).unwrap();
            assert!(known.max_length <= positions, "{}", known.hub_id);
            num_checked += 1;
        }
        assert!(num_checked >= 10, "{num_checked}");
    }

    #[test]
    fn the_readme_has_the_table_of_these_files() {
        let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
        assert!(readme.contains(&markdown()), "write this into README.md:\n{}", markdown());
    }
}
