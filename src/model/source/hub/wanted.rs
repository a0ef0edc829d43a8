//! Which files of a repository a model needs. The rest (other formats, images) is never fetched.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::ModelError;
use crate::model::source::files::{check_name, list};

pub(super) const CONFIG: &str = "config.json";
pub(super) const MODULES: &str = "modules.json";
const TOKENIZER: &str = "tokenizer.json";
const VOCAB: &str = "vocab.txt";

/// Fetched where a repository has them; a model may do without any of these.
pub(super) const OPTIONAL: [&str; 11] = [
    "1_Pooling/config.json",
    "adapter_config.json",
    "artifact.metadata",
    "config_sentence_transformers.json",
    "golden.json",
    "model.toml",
    MODULES,
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "added_tokens.json",
];
/// Sentence-Transformers models have up to five.
const MAX_MODULES: usize = 32;

/// The small files, the ones that decide whether the large ones are worth fetching.
pub(super) fn small(model: &str, files: &BTreeSet<String>) -> Result<Vec<String>, ModelError> {
    let missing = |file: &str| {
        let names: Vec<String> = files.iter().cloned().collect();
        ModelError::Missing {
            model: model.to_owned(),
            file: file.to_owned(),
            hint: format!("there is {}", list(&names)),
        }
    };
    let mut wanted = Vec::new();
    if !files.contains(CONFIG) {
        return Err(missing(CONFIG));
    }
    wanted.push(CONFIG.to_owned());
    let tokenizer = [TOKENIZER, VOCAB].into_iter().find(|file| files.contains(*file));
    wanted.push(tokenizer.ok_or_else(|| missing(TOKENIZER))?.to_owned());
    wanted.extend(OPTIONAL.iter().filter(|file| files.contains(**file)).map(ToString::to_string));
    Ok(wanted)
}

/// The files of the modules after the transformer: pooling, and the dense layer of late interaction.
pub(super) fn of_modules(
    modules: &[u8],
    files: &BTreeSet<String>,
) -> Result<Vec<String>, ModelError> {
    #[derive(Deserialize)]
    struct Module {
        #[serde(default)]
        path: String,
    }
    let invalid = |message: String| ModelError::invalid(MODULES, "path", message);
    let modules: Vec<Module> =
        serde_json::from_slice(modules).map_err(|e| invalid(e.to_string()))?;
    if modules.len() > MAX_MODULES {
        return Err(invalid(format!("{} modules, not up to {MAX_MODULES}", modules.len())));
    }
    let mut wanted = Vec::new();
    // The transformer's own path is empty: its files are those of the repository itself.
    for module in modules.iter().filter(|module| !module.path.is_empty()) {
        check_name(&module.path)?;
        for file in [CONFIG, "model.safetensors"] {
            let file = format!("{}/{file}", module.path);
            if files.contains(&file) && !OPTIONAL.contains(&file.as_str()) {
                wanted.push(file);
            }
        }
    }
    Ok(wanted)
}
