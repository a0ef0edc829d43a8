//! Text Embeddings Inference `/rerank`: `texts` in, a bare array out, times and counts in headers.
//!
//! `top_n` is ignored as TEI ignores it: LlamaIndex asserts one result per text.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::{Reply, public_message};
use super::{Call, Context, Dialect, ErrorDialect, Form, text};
use crate::error::Error;
use crate::request::{Answer, Inputs, RerankResponse, Tally};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

const EMPTY_TEXTS: &str = "`texts` cannot be empty";
pub(super) const EMPTY_INPUTS: &str = "`inputs` cannot be empty";

#[derive(Debug)]
struct Tei {
    scale: Scale,
    /// The texts as scored; empty unless `return_text`.
    texts: Vec<String>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let rules = text::Rules {
        field: "texts",
        rank_fields: None,
        keep_objects: false,
        max_texts: context.limits.max_documents,
    };
    let raw =
        fields.get("texts").ok_or_else(|| Error::invalid("texts", "missing field `texts`"))?;
    let documents = text::texts(raw, &rules).map_err(batch_size)?.texts;
    if documents.is_empty() {
        return Err(Error::invalid("texts", EMPTY_TEXTS));
    }
    let wants_text = fields.boolean("return_text")? == Some(true);
    let dialect = Tei {
        scale: Scale::of(fields, Scale::Probability)?,
        texts: if wants_text { documents.clone() } else { Vec::new() },
    };
    let inputs = Inputs::OneQuery { query: text::any_query(fields)?, documents };
    Ok(Call::Rerank(context.request(fields, inputs)?, Box::new(dialect)))
}

/// TEI's words for too many texts; stacks in front of it look for them.
pub(super) fn batch_size(error: Error) -> Error {
    match error {
        Error::TooMany { field, message } => {
            Error::TooMany { field, message: format!("batch size is too large: {message}") }
        }
        other => other,
    }
}

impl Dialect for Tei {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let items: Vec<Item<'_>> = ranked(response, Ties::HigherIndex, None)
            .into_iter()
            .map(|index| Item {
                index,
                text: self.texts.get(index).map(String::as_str),
                score: self.scale.read(&response.results[index].score),
            })
            .collect();
        with_compute_headers(Reply::ok(&items), &response.tally())
    }
}

/// The headers that TEI's users read its load from.
pub(super) fn with_compute_headers(mut reply: Reply, tally: &Tally<'_>) -> Reply {
    let stages = tally.stamps.stages();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let stage = |name: &str| {
        ms(stages
            .iter()
            .find(|(stage, _)| *stage == name)
            .map_or(Duration::ZERO, |(_, time)| *time))
    };
    let total = ms(stages.iter().map(|(_, time)| *time).sum());
    let numbers = [
        ("x-compute-time", total),
        ("x-compute-characters", tally.num_chars as u64),
        ("x-compute-tokens", tally.prompt_tokens as u64),
        ("x-total-time", total),
        ("x-tokenization-time", stage("tokenize")),
        ("x-queue-time", stage("queue")),
        ("x-inference-time", stage("device")),
    ];
    for (name, value) in numbers {
        reply.headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    // TEI's own constant, whatever the device.
    let compute_type = HeaderValue::from_static("gpu+optimized");
    reply.headers.insert(HeaderName::from_static("x-compute-type"), compute_type);
    reply
}

pub(super) fn error(error: &Error, _request_id: &str) -> Reply {
    let (status, error_type) = kind(error);
    let message = match error {
        Error::Invalid { message, .. } | Error::TooMany { message, .. } => message.clone(),
        Error::Overloaded { .. } | Error::BodiesFull { .. } => "Model is overloaded".to_owned(),
        error => public_message(error),
    };
    Reply::refusal(status, error, &ErrorBody { error: &message, error_type })
}

/// TEI's table: it answers a wrong body with 422 and a failed model with 424.
fn kind(error: &Error) -> (u16, &'static str) {
    match error {
        Error::Invalid { message, .. } if message == EMPTY_TEXTS || message == EMPTY_INPUTS => {
            (400, "Empty")
        }
        Error::Invalid { .. } | Error::TooLong { .. } | Error::TooMany { .. } => {
            (422, "Validation")
        }
        Error::NotSupported(_) | Error::Internal(_) => (424, "Backend"),
        Error::Overloaded { .. }
        | Error::RateLimited { .. }
        | Error::BodiesFull { .. }
        | Error::DeadlineExceeded => (error.verdict().status, "Overloaded"),
        Error::NoKey | Error::WrongKey => (401, "Unauthorized"),
        Error::Forbidden(_) => (403, "Forbidden"),
        Error::Unavailable { .. } => (503, "Unhealthy"),
        other => (other.verdict().status, "Validation"),
    }
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    score: f32,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_type: &'static str,
}
