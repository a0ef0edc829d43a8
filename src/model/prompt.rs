//! How a language model is asked whether a document answers a query.
//!
//! Such a model ranks by the prompt it was trained with, and badly by any other; so none is made up. A folder says its
//! own in `model.toml`, and the published one of Qwen3-Reranker is known by the model's name.

use super::config::Config;
use super::head::{Activation, Head};
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
    /// The tokens whose logits are the answer: against relevance, and for it.
    pub answers: [String; 2],
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
        if files.name().to_lowercase().contains("qwen3-reranker") {
            return Self::new(qwen3_reranker());
        }
        let message = "missing: a language model ranks by the prompt it was trained with. Write it as [prompt] with \
                       query and document (prefix, suffix, instruction, yes and no as needed); that of \
                       Qwen3-Reranker is built in for models of this name";
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
            answers: [raw.no, raw.yes],
        })
    }
}

/// As its model card has it.
fn qwen3_reranker() -> Raw {
    Raw {
        instruction: "Given a web search query, retrieve relevant passages that answer the query"
            .to_owned(),
        prefix: "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and \
                 the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n\
                 <|im_start|>user\n"
            .to_owned(),
        query: "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:".to_owned(),
        document: " {document}".to_owned(),
        suffix: "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n".to_owned(),
        yes: yes(),
        no: no(),
    }
}

/// The head of a language model: the logits of its two answers, of which the second counts.
pub(super) fn answers(files: &ModelFiles, _config: &Config) -> Result<Head, ModelError> {
    let labels = Prompt::find(files)?.answers.to_vec();
    Ok(Head::Classifier { labels, activation: Activation::Softmax })
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
