//! What every dialect reads alike: the id, the model, the timeout, `top_n` and the limits on texts.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

use super::Context;
use super::fields::Fields;
use super::lenient;
use crate::error::Error;
use crate::request::{Inputs, Overflow, RerankRequest, Side, Truncation};

const REQUEST_ID: &str = "x-request-id";
const TIMEOUT_MS: &str = "x-request-timeout-ms";

/// Cohere's range; 0 is its default and the most urgent.
const MAX_PRIORITY: i64 = 999;

/// Long enough for a UUID with a prefix; an id goes into every log line.
const MAX_ID_BYTES: usize = 128;

/// Cohere's bound on documents times chunks: one request may not become a hundred thousand pairs.
const MAX_TOTAL_CHUNKS: usize = 10_000;

impl Context<'_> {
    /// The request around `inputs`, with everything that all dialects spell alike.
    pub(super) fn request(
        &self,
        fields: &Fields<'_>,
        inputs: Inputs,
    ) -> Result<RerankRequest, Error> {
        let truncation = truncation(fields, inputs.len())?;
        Ok(RerankRequest {
            id: self.request_id.clone(),
            model: model(fields)?,
            inputs,
            truncation,
            timeout: timeout(self.headers, fields)?,
            priority: priority(fields)?,
            may_cache: may_cache(self.headers),
        })
    }
}

/// The id in the header, if it is fit for a log line and a header; an odd id never fails a request.
pub(super) fn header_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID)?.to_str().ok().filter(|id| is_fit(id))
}

/// vLLM's `request_id`.
pub(super) fn body_id(fields: &Fields<'_>) -> Option<String> {
    let id = lenient::string(&"request_id", fields.get("request_id")?).ok()?;
    is_fit(&id).then_some(id)
}

fn is_fit(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The model asked for; an empty name asks for none.
pub(super) fn model(fields: &Fields<'_>) -> Result<Option<String>, Error> {
    Ok(fields.string("model")?.filter(|name| !name.is_empty()))
}

/// How many results to give; `None` is all. 0 is all too: vLLM and its clients say so, and an empty list of
/// results serves nobody.
pub(super) fn top_n(fields: &Fields<'_>) -> Result<Option<usize>, Error> {
    for key in ["top_n", "top_k", "numberOfResults"] {
        if let Some(count) = fields.count(key)? {
            return Ok((count > 0).then_some(count));
        }
    }
    Ok(None)
}

/// The header in milliseconds wins over the body's `timeout` in seconds.
pub(super) fn timeout(headers: &HeaderMap, fields: &Fields<'_>) -> Result<Option<Duration>, Error> {
    let refused = |field: &str, unit: &str| {
        Error::invalid(field, format!("{field} must be a positive number of {unit}"))
    };
    if let Some(value) = headers.get(TIMEOUT_MS) {
        let ms = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
        let ms = ms.filter(|&ms| ms > 0).ok_or_else(|| refused(TIMEOUT_MS, "milliseconds"))?;
        return Ok(Some(Duration::from_millis(ms)));
    }
    let Some(seconds) = fields.number("timeout")? else { return Ok(None) };
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero());
    duration.map(Some).ok_or_else(|| refused("timeout", "seconds"))
}

/// Cohere's and vLLM's `priority`: both count up from the most urgent. vLLM takes any integer, so what is out of
/// Cohere's range is as urgent, or as patient, as can be.
pub(super) fn priority(fields: &Fields<'_>) -> Result<u16, Error> {
    let asked = fields.integer("priority")?.unwrap_or(0);
    Ok(asked.clamp(0, MAX_PRIORITY) as u16)
}

/// What a client says with `Cache-Control: no-store` (RFC 9111, section 5.2.1.5).
pub(super) fn may_cache(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    !values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case("no-store"))
}

/// Every dialect's way to say what happens to long texts. Cutting is the default everywhere: one long document
/// must not fail the other 999, so only an explicit wish refuses.
pub(super) fn truncation(fields: &Fields<'_>, num_documents: usize) -> Result<Truncation, Error> {
    let mut truncation = Truncation {
        max_tokens_per_query: fields.count("max_tokens_per_query")?.filter(|&n| n > 0),
        max_tokens_per_doc: fields.count("max_tokens_per_doc")?.filter(|&n| n > 0),
        ..Truncation::default()
    };
    // -1 is vLLM's "as much as the model takes".
    match fields.integer("truncate_prompt_tokens")? {
        None | Some(-1) => {}
        Some(n) => {
            let tokens = usize::try_from(n).ok().filter(|&tokens| tokens > 0);
            truncation.max_tokens_per_pair = Some(tokens.ok_or_else(|| {
                let field = "truncate_prompt_tokens";
                Error::invalid(field, format!("{field} must be -1 or at least 1"))
            })?);
        }
    }
    for key in ["truncation_side", "truncation_direction"] {
        match fields.string(key)?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => {}
            Some("left") => truncation.side = Side::Left,
            Some("right") => truncation.side = Side::Right,
            Some(_) => return Err(Error::invalid(key, format!("{key} must be left or right"))),
        }
    }
    truncate(fields, &mut truncation)?;
    if let Some(chunks) = fields.count("max_chunks_per_doc")? {
        let field = "max_chunks_per_doc";
        if chunks == 0 {
            return Err(Error::invalid(field, format!("{field} must be at least 1")));
        }
        if num_documents.saturating_mul(chunks) >= MAX_TOTAL_CHUNKS {
            let message = format!(
                "number of total max chunks (number of documents * max chunks per doc) must be \
                 less than {MAX_TOTAL_CHUNKS}"
            );
            return Err(Error::TooMany { field: field.to_owned(), message });
        }
        truncation.max_chunks_per_doc = chunks;
    }
    Ok(truncation)
}

/// `truncate` is a boolean at TEI and Jina, `"NONE"`, `"END"` or `"START"` at NIM; `truncation` is Voyage's.
pub(super) fn truncate(fields: &Fields<'_>, truncation: &mut Truncation) -> Result<(), Error> {
    for key in ["truncate", "truncation"] {
        let Some(raw) = fields.get(key) else { continue };
        if let Some(cut) = lenient::boolean(raw) {
            truncation.overflow = if cut { Overflow::Truncate } else { Overflow::Refuse };
            continue;
        }
        let word = fields
            .string(key)
            .map_err(|_| lenient::wrong_type(&key, "a boolean or one of NONE, END, START", raw))?;
        match word.unwrap_or_default().to_ascii_uppercase().as_str() {
            "NONE" => truncation.overflow = Overflow::Refuse,
            "END" => truncation.overflow = Overflow::Truncate,
            "START" => {
                truncation.overflow = Overflow::Truncate;
                truncation.side = Side::Left;
            }
            _ => {
                let message = format!("{key} must be a boolean or one of NONE, END, START");
                return Err(Error::invalid(key, message));
            }
        }
    }
    Ok(())
}
