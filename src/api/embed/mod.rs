//! Vectors of texts: what the dialects of OpenAI, Cohere and Text Embeddings Inference read alike.

pub(super) mod cohere;
mod encoding;
pub(super) mod openai;
pub(super) mod tei;

use serde_json::value::RawValue;

use super::fields::Fields;
use super::{Context, lenient, settings, text};
use crate::error::Error;
use crate::request::{EmbedRequest, Inputs, PromptChoice, Purpose, Truncation};

/// OpenAI's own limit. A text of one letter has an answer of kilobytes, so that without a bound of its own a small
/// body could ask for gigabytes.
const MAX_TEXTS: usize = 2048;

impl Context<'_> {
    /// The request for the vectors of `inputs`, with everything that all dialects spell alike.
    fn embed_request(
        &self,
        fields: &Fields<'_>,
        inputs: Inputs,
        prompt: PromptChoice,
    ) -> Result<EmbedRequest, Error> {
        // Whoever sends ids has put in them what the model shall see.
        let is_asked = !matches!(prompt, PromptChoice::Default);
        if is_asked && matches!(inputs, Inputs::Tokens(_)) {
            let message = "a prompt is put before text; send text, or token ids without a prompt";
            return Err(Error::invalid("input", message));
        }
        Ok(EmbedRequest {
            id: self.request_id.clone(),
            model: settings::model(fields)?,
            // A text has one vector, of its first tokens or its last.
            truncation: Truncation {
                max_chunks_per_doc: 1,
                ..settings::truncation(fields, inputs.len())?
            },
            inputs,
            prompt,
            dimensions: dimensions(fields)?,
            normalize: true,
            of_tokens: false,
            timeout: settings::timeout(self.headers, fields)?,
            priority: settings::priority(fields)?,
            may_cache: settings::may_cache(self.headers),
        })
    }

    fn max_texts(&self) -> usize {
        self.limits.max_documents.min(MAX_TEXTS)
    }
}

/// How many components the vectors shall have: OpenAI's and TEI's word, Cohere's and Voyage's.
fn dimensions(fields: &Fields<'_>) -> Result<Option<usize>, Error> {
    for key in ["dimensions", "output_dimension"] {
        match fields.count(key)? {
            Some(0) => return Err(Error::invalid(key, format!("{key} must be at least 1"))),
            Some(count) => return Ok(Some(count)),
            None => {}
        }
    }
    Ok(None)
}

/// Texts or token ids under `field`: one of them, or a list.
fn inputs(raw: &RawValue, field: &str, max_texts: usize) -> Result<Inputs, Error> {
    if let Some(texts) = token_ids(raw, field, max_texts)? {
        return Ok(Inputs::Tokens(texts));
    }
    let rules = text::Rules { field, rank_fields: None, keep_objects: false, max_texts };
    Ok(Inputs::Texts(text::texts(raw, &rules)?.texts))
}

/// The ids of a list of integers, or of a list of such lists.
fn token_ids(
    raw: &RawValue,
    field: &str,
    max_texts: usize,
) -> Result<Option<Vec<Vec<u32>>>, Error> {
    let kind = |raw: &RawValue| raw.get().bytes().find(|byte| !byte.is_ascii_whitespace());
    if !raw.get().starts_with('[') {
        return Ok(None);
    }
    let first = raw.get()[1..].bytes().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'-' | b'0'..=b'9') => Ok(Some(vec![ids(raw, field)?])),
        Some(b'[') => {
            let texts = lenient::list(raw, max_texts)
                .map_err(|count| text::too_many(field, count, max_texts))?;
            let numbered = texts.into_iter().enumerate().map(|(index, raw)| {
                let path = format!("{field}[{index}]");
                match kind(raw) {
                    Some(b'[') => ids(raw, &path),
                    _ => Err(lenient::wrong_type(&path, "a list of token ids, as before it", raw)),
                }
            });
            numbered.collect::<Result<_, _>>().map(Some)
        }
        _ => Ok(None),
    }
}

fn ids(raw: &RawValue, path: &str) -> Result<Vec<u32>, Error> {
    let ids: Vec<u32> = serde_json::from_str(raw.get()).map_err(|_| {
        Error::invalid(path, format!("{path}: token ids are integers from 0 to {}", u32::MAX))
    })?;
    if ids.is_empty() {
        return Err(Error::invalid(path, format!("{path}: there are no token ids")));
    }
    Ok(ids)
}

/// What the vectors are for, in the words of Cohere, Voyage, NIM and Jina; else a prompt by its name.
fn prompt(fields: &Fields<'_>) -> Result<PromptChoice, Error> {
    if let Some(name) = fields.string("prompt_name")? {
        return Ok(PromptChoice::Named(name));
    }
    for key in ["input_type", "task"] {
        let Some(word) = fields.string(key)? else { continue };
        let purpose = match word.to_ascii_lowercase().as_str() {
            "search_query" | "query" | "retrieval.query" => Purpose::Query,
            "search_document" | "document" | "passage" | "retrieval.passage" => Purpose::Document,
            "classification" => Purpose::Classification,
            "clustering" | "separation" => Purpose::Clustering,
            "image" => return Err(text::no_images(&key, "image")),
            "" | "text-matching" => return Ok(PromptChoice::Default),
            _ => {
                let message = format!(
                    "{key} must be search_query, search_document, classification or clustering, \
                     not '{word}'"
                );
                return Err(Error::invalid(key, message));
            }
        };
        return Ok(PromptChoice::For(purpose));
    }
    Ok(PromptChoice::Default)
}
