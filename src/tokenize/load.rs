//! A tokenizer from a model's files: `tokenizer.json`, or `vocab.txt` with BERT's rules.

use std::collections::HashMap;
use std::panic::catch_unwind;

use serde::Deserialize;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::error::ModelError;
use crate::model::source::ModelFiles;

/// The fields of `tokenizer_config.json` that change how text is cut into tokens.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Settings {
    do_lower_case: bool,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: bool,
    /// transformers writes 1e30 for "no limit".
    model_max_length: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
            model_max_length: None,
        }
    }
}

/// A tokenizer without truncation or padding, and the sequence length its files ask for.
#[derive(Debug)]
pub struct Loaded {
    pub tokenizer: Tokenizer,
    pub max_length: Option<usize>,
}

/// Loads the tokenizer and checks that every id it can give has a row in the model's embedding.
///
/// # Errors
/// A missing or broken file, or a vocabulary larger than the model's.
pub fn load(files: &ModelFiles, vocab_size: usize) -> Result<Loaded, ModelError> {
    let settings = settings(files)?;
    let (file, mut tokenizer) = match files.read("tokenizer.json")? {
        Some(bytes) => ("tokenizer.json", from_json(&bytes)?),
        None => match files.read("vocab.txt")? {
            Some(bytes) => ("vocab.txt", from_vocab(&bytes, &settings)?),
            None => {
                files.require("tokenizer.json")?;
                return Err(ModelError::invalid(
                    "tokenizer.json",
                    "file",
                    "it appeared while loading",
                ));
            }
        },
    };
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|e| ModelError::invalid(file, "truncation", e.to_string()))?;
    if let Some((token, id)) =
        tokenizer.get_vocab(true).into_iter().find(|&(_, id)| id as usize >= vocab_size)
    {
        let message = format!(
            "token '{token}' has id {id}, but the model's vocab_size is {vocab_size}: \
             this tokenizer belongs to another model"
        );
        return Err(ModelError::invalid(file, "vocab", message));
    }
    let limit = settings.model_max_length.filter(|&limit| (1.0..1e9).contains(&limit));
    let limits = [limit.map(|limit| limit as usize), sentence_limit(files)?];
    Ok(Loaded { tokenizer, max_length: limits.into_iter().flatten().min() })
}

/// What sentence-transformers trained an encoder with, often less than the model could read.
fn sentence_limit(files: &ModelFiles) -> Result<Option<usize>, ModelError> {
    const FILE: &str = "sentence_bert_config.json";
    #[derive(Deserialize)]
    struct Sentence {
        max_seq_length: Option<usize>,
    }
    let Some(bytes) = files.read(FILE)? else { return Ok(None) };
    let sentence: Sentence = serde_json::from_slice(&bytes)
        .map_err(|e| ModelError::invalid(FILE, "json", e.to_string()))?;
    Ok(sentence.max_seq_length)
}

fn settings(files: &ModelFiles) -> Result<Settings, ModelError> {
    const FILE: &str = "tokenizer_config.json";
    let Some(bytes) = files.read(FILE)? else { return Ok(Settings::default()) };
    serde_json::from_slice(&bytes).map_err(|e| ModelError::invalid(FILE, "json", e.to_string()))
}

fn from_json(bytes: &[u8]) -> Result<Tokenizer, ModelError> {
    /// `tokenizers` panics where a decoder ends in the middle: so that is found out before.
    #[derive(Deserialize)]
    struct Outline {
        #[serde(default, rename = "decoder")]
        _decoder: serde_json::Value,
    }
    let invalid = |message| ModelError::invalid("tokenizer.json", "json", message);
    serde_json::from_slice::<Outline>(bytes).map_err(|e| invalid(e.to_string()))?;
    // And where a table of normal forms is broken, which shows in none but its own reading.
    catch_unwind(|| Tokenizer::from_bytes(bytes))
        .map_err(|_| invalid("a part of it cannot be read".to_owned()))?
        .map_err(|e| invalid(e.to_string()))
}

/// BERT's tokenizer as transformers builds it from a vocabulary, one token a line.
fn from_vocab(bytes: &[u8], settings: &Settings) -> Result<Tokenizer, ModelError> {
    const FILE: &str = "vocab.txt";
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ModelError::invalid(FILE, format!("byte {}", e.valid_up_to()), "not UTF-8"))?;
    let vocab: HashMap<&str, u32> = text.lines().zip(0..).collect();
    let id = |token: &str| {
        vocab.get(token).copied().ok_or_else(|| {
            ModelError::invalid(FILE, format!("token {token}"), "the vocabulary lacks it")
        })
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    id("[UNK]")?;
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let added: Vec<_> = special
        .into_iter()
        .filter(|&token| vocab.contains_key(token))
        .map(|token| AddedToken::from(token, true))
        .collect();
    let model = WordPiece::builder()
        .vocab(
            WordPiece::read_bytes(bytes)
                .map_err(|e| ModelError::invalid(FILE, "vocab", e.to_string()))?,
        )
        .unk_token("[UNK]".into())
        .build()
        .map_err(|e| ModelError::invalid(FILE, "vocab", e.to_string()))?;
    let normalizer = BertNormalizer::new(
        true,
        settings.tokenize_chinese_chars,
        settings.strip_accents,
        settings.do_lower_case,
    );
    let post_processor = BertProcessing::new(("[SEP]".into(), sep), ("[CLS]".into(), cls));
    let build = || {
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(normalizer))?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_post_processor(Some(post_processor));
        tokenizer.add_special_tokens(added)?;
        Ok::<_, tokenizers::Error>(tokenizer)
    };
    build().map_err(|e| ModelError::invalid(FILE, "vocab", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tokenizers_crate_panics_over_is_an_error_that_names_the_file() {
        let model = r#""model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}"#;
        let cut = r#"{"decoder": {"type": "WordPiece", "prefix":"#.to_owned();
        let table = r#"{"type": "Precompiled", "precompiled_charsmap": "AAAA"}"#;
        let broken = format!(r#"{{"normalizer": {table}, {model}}}"#);
        for json in [cut, broken] {
            let error = from_json(json.as_bytes()).expect_err(&json).to_string();
            assert!(error.contains("tokenizer.json"), "{error}");
        }
        assert!(from_json(format!("{{{model}}}").as_bytes()).is_ok());
    }
}
