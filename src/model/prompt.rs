//! How a language model is asked whether a document answers a query.
//!
//! Such a model ranks by the prompt it was trained with, and badly by any other; so none is made up. A folder says its
//! own in `model.toml`, and those of public models are in `models/public`.

use super::config::Config;
use super::head::{Activation, Head};
use super::known;
use super::source::ModelFiles;
use crate::error::ModelError;
use serde::Deserialize;

const RECIPE: &str = "model.toml";
const TOKENIZER: &str = "tokenizer.json";

/// The texts around query and document, in the order in which they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Before all.
    pub prefix: String,
    /// Around the query.
    pub query: [String; 2],
    /// Around the document.
    pub document: [String; 2],
    /// After all.
    pub suffix: String,
    /// The tokens whose logits are the answer: against relevance, if one is, and for it.
    pub answers: Vec<String>,
}

/// `[prompt]` of `model.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    instruction: String,
    #[serde(default)]
    prefix: String,
    query: String,
    document: String,
    #[serde(default)]
    suffix: String,
    #[serde(default = "yes")]
    yes: String,
    #[serde(default = "no")]
    no: String,
}

fn yes() -> String {
    "yes".to_owned()
}

fn no() -> String {
    "no".to_owned()
}

#[derive(Deserialize)]
struct Recipe {
    prompt: Option<Raw>,
}

impl Prompt {
    /// # Errors
    /// The files say no prompt, or one that does not place query and document.
    pub(super) fn find(files: &ModelFiles) -> Result<Self, ModelError> {
        if let Some(bytes) = files.read(RECIPE)? {
            let recipe: Recipe = toml::from_slice(&bytes)
                .map_err(|e| ModelError::invalid(RECIPE, "prompt", e.message().to_owned()))?;
            if let Some(raw) = recipe.prompt {
                return Self::new(raw);
            }
        }
        if let Some(raw) = published(files.name()) {
            return Self::new(raw);
        }
        let message = "missing: a language model ranks by the prompt it was trained with. Write it as [prompt] with \
                       query and document (prefix, suffix, instruction, yes and no as needed); those of the \
                       models that `rerankd models` lists are built in";
        Err(ModelError::invalid(RECIPE, "prompt", message))
    }

    fn new(raw: Raw) -> Result<Self, ModelError> {
        let around = |field: &str, text: &str, place: &str| {
            let text = text.replace("{instruction}", &raw.instruction);
            match text.split(place).collect::<Vec<_>>()[..] {
                [before, after] => Ok([before.to_owned(), after.to_owned()]),
                _ => {
                    let message = format!("does not have {place} once");
                    Err(ModelError::invalid(RECIPE, format!("prompt.{field}"), message))
                }
            }
        };
        Ok(Self {
            query: around("query", &raw.query, "{query}")?,
            document: around("document", &raw.document, "{document}")?,
            prefix: raw.prefix,
            suffix: raw.suffix,
            answers: if raw.no.is_empty() { vec![raw.yes] } else { vec![raw.no, raw.yes] },
        })
    }
}

/// The prompt of a public model, by its name on the hub; other repositories of these keep their name.
fn published(name: &str) -> Option<Raw> {
    const KEPT: [(&str, &str); 2] = [
        ("qwen3-reranker", "Qwen/Qwen3-Reranker-0.6B"),
        ("bge-reranker-v2-gemma", "BAAI/bge-reranker-v2-gemma"),
    ];
    let lower = name.to_lowercase();
    let original = || KEPT.iter().find(|(kept, _)| lower.contains(kept));
    let known = known::find(name).or_else(|| known::find(original()?.1))?;
    let prompt = toml::Value::Table(known.prompt.clone()?);
    Some(prompt.try_into().expect("a test reads every prompt"))
}

/// The head of a language model: the logits of its two answers, of which the second counts, or of the one.
pub(super) fn answers(files: &ModelFiles, _config: &Config) -> Result<Head, ModelError> {
    let labels = Prompt::find(files)?.answers;
    let activation = if labels.len() == 1 { Activation::Sigmoid } else { Activation::Softmax };
    Ok(Head::Classifier { labels, activation, ranked: None })
}

/// The id of a token by its text.
///
/// # Errors
/// The tokenizer has no such token: it would take the text apart.
pub(super) fn token_id(files: &ModelFiles, token: &str) -> Result<usize, ModelError> {
    #[derive(Deserialize)]
    struct Tokenizer {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: serde_json::Map<String, serde_json::Value>,
    }
    let tokenizer: Tokenizer = serde_json::from_slice(&files.require(TOKENIZER)?)
        .map_err(|error| ModelError::invalid(TOKENIZER, "model.vocab", error.to_string()))?;
    let id = tokenizer.model.vocab.get(token).and_then(serde_json::Value::as_u64);
    id.map(|id| id as usize).ok_or_else(|| {
        let message = format!("has no token '{token}', which the prompt's answer asks for");
        ModelError::invalid(TOKENIZER, "model.vocab", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prompt_of_a_public_model_places_query_and_document() {
        let is_prompted = |known: &&known::Known| known.architecture.starts_with("Qwen");
        let mut num_prompts = 0;
        for known in known::all().iter().filter(is_prompted) {
            let prompt = Prompt::new(published(&known.hub_id).unwrap()).unwrap();
            assert!(prompt.prefix.starts_with("<|im_start|>system\n"), "{}", known.hub_id);
            assert!(prompt.suffix.contains("<|im_end|>\n<|im_start|>assistant\n"));
            num_prompts += 1;
        }
        assert_eq!(num_prompts, 5);
        let qwen = Prompt::new(published("me/Qwen3-Reranker-8B-merged").unwrap()).unwrap();
        assert_eq!(qwen.query[0].lines().count(), 2);
        assert!(qwen.query[0].starts_with("<Instruct>: Given a web search query"));
        assert!(qwen.suffix.ends_with("<think>\n\n</think>\n\n"));
        assert!(qwen.prefix.contains("Instruct provided. Note that the answer"), "one line");
        let gemma = Prompt::new(published("me/bge-reranker-v2-gemma-merged").unwrap()).unwrap();
        assert_eq!(
            (&*gemma.prefix, &*gemma.document[0], &gemma.answers[..]),
            ("<bos>", "\nB: ", &["Yes".to_owned()][..])
        );
        assert!(gemma.suffix.starts_with("\nGiven a query A and a passage B, determine"));
        assert!(published("org/gpt").is_none());
    }
}
