//! How a sentence-transformers folder says that vectors are pooled and normalised.

use super::config::Config;
use super::head::Head;
use super::prompts::Prompts;
use super::source::ModelFiles;
use crate::engine::Pooling;
use crate::error::ModelError;
use serde::Deserialize;

const MODULES: &str = "modules.json";
/// The folder of the pooling module where `modules.json` does not say otherwise.
const POOLING_FOLDER: &str = "1_Pooling";

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct RawPooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    /// Whether the tokens of a prompt count in the mean.
    #[serde(default = "yes")]
    include_prompt: bool,
}

fn yes() -> bool {
    true
}

/// Pooling as the folder says, the mean if it says nothing; vectors have length one where a `Normalize`
/// module asks for it.
///
/// # Errors
/// A module or a pooling mode without code here.
pub(super) fn embedding_head(files: &ModelFiles, _config: &Config) -> Result<Head, ModelError> {
    let (mut folder, mut normalize) = (POOLING_FOLDER.to_owned(), false);
    if let Some(json) = files.read(MODULES)? {
        let modules: Vec<Module> = serde_json::from_slice(&json)
            .map_err(|error| ModelError::invalid(MODULES, "json", error.to_string()))?;
        for module in modules {
            match module.kind.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") => folder = module.path,
                Some("Normalize") => normalize = true,
                _ => {
                    let message = "is not supported; Transformer, Pooling and Normalize are";
                    return Err(ModelError::unsupported(MODULES, module.kind, message));
                }
            }
        }
    }
    let pooling = read_pooling(files, &format!("{folder}/config.json"))?;
    Ok(Head::Embedding { pooling, normalize })
}

fn read_pooling(files: &ModelFiles, file: &str) -> Result<Pooling, ModelError> {
    let Some(json) = files.read(file)? else { return Ok(Pooling::Mean) };
    let raw: RawPooling = serde_json::from_slice(&json)
        .map_err(|error| ModelError::invalid(file, "json", error.to_string()))?;
    if !raw.include_prompt && !Prompts::read(files)?.is_empty() {
        let message =
            "is false: prompts are pooled with their texts here, and this model's are not to be";
        return Err(ModelError::unsupported(file, "include_prompt", message));
    }
    let other = raw.pooling_mode_max_tokens
        || raw.pooling_mode_mean_sqrt_len_tokens
        || raw.pooling_mode_weightedmean_tokens
        || raw.pooling_mode_lasttoken;
    match (raw.pooling_mode_cls_token, raw.pooling_mode_mean_tokens, other) {
        (true, false, false) => Ok(Pooling::Cls),
        (false, true, false) => Ok(Pooling::Mean),
        _ => {
            let message = "only one of the cls token and the mean of tokens is supported";
            Err(ModelError::unsupported(file, "pooling_mode", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_that_the_mean_should_leave_out_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, json: &str| std::fs::write(folder.path().join(file), json).unwrap();
        std::fs::create_dir(folder.path().join(POOLING_FOLDER)).unwrap();
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#,
        );
        let read = || {
            let files = ModelFiles::open_folder(folder.path()).unwrap();
            read_pooling(&files, "1_Pooling/config.json")
        };
        assert_eq!(read().unwrap(), Pooling::Mean, "there is none to leave out");
        write("config_sentence_transformers.json", r#"{"prompts": {"query": ""}}"#);
        assert_eq!(read().unwrap(), Pooling::Mean);
        write("config_sentence_transformers.json", r#"{"prompts": {"query": "q: "}}"#);
        let error = read().unwrap_err().to_string();
        assert!(error.contains("include_prompt"), "{error}");
    }
}
