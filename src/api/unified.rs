//! The family that says `documents`: Cohere v1 and v2, Jina, vLLM, Infinity, Xinference, llama.cpp, LocalAI, OVMS.
//!
//! Their bodies cannot be told apart, so one reply carries what each of them looks for. Two traps shape it:
//! `document` as null or as a string breaks LiteLLM and Dify, so it is an object or not there; scores are
//! probabilities unless raw ones are asked for, since callers compare them with thresholds in [0, 1].

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::{Reply, Usage, public_message};
use super::{Call, Context, Dialect, ErrorDialect, Form, Version, settings, text};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

#[derive(Debug)]
struct Unified {
    version: Version,
    scale: Scale,
    top_n: Option<usize>,
    /// `list` as Jina and llama.cpp write it; infinity-client refuses all but `rerank`.
    object: &'static str,
    /// The documents as the reply shows them; empty unless they were asked for.
    echoes: Vec<Echo>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    if fields.get("documents").is_none() {
        let message = "documents is required (or texts, for the TEI form)";
        return Err(Error::invalid("documents", message));
    }
    let query = text::query(fields)?;
    let wants_echo = fields.boolean("return_documents")? == Some(true);
    let rank_fields = text::rank_fields(fields)?;
    let rules = text::Rules {
        field: "documents",
        rank_fields: rank_fields.as_deref(),
        keep_objects: wants_echo,
        max_texts: context.limits.max_documents,
    };
    let documents = text::documents(fields, &rules)?;
    let echoes = if wants_echo { echoes(&documents.texts, documents.objects) } else { Vec::new() };
    let dialect = Unified {
        version: context.version,
        scale: Scale::of(fields, Scale::Probability)?,
        top_n: settings::top_n(fields)?,
        // Only Infinity's own client sends this key with every request.
        object: if fields.get("raw_scores").is_some() { "rerank" } else { "list" },
        echoes,
    };
    let inputs = Inputs::OneQuery { query, documents: documents.texts };
    let request = context.request(fields, inputs)?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

impl Dialect for Unified {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let was_cut = |index: usize| {
            let scored = &response.results[index];
            scored.truncated_tokens > 0 || scored.chunks > 1
        };
        let any_cut = (0..response.results.len()).any(was_cut);
        let results = ranked(response, Ties::LowerIndex, self.top_n)
            .into_iter()
            .map(|index| {
                let scored = &response.results[index];
                Item {
                    index,
                    relevance_score: self.scale.read(&scored.score),
                    document: self.echoes.get(index),
                    tokens: any_cut.then_some(scored.tokens),
                    truncated_tokens: any_cut.then_some(scored.truncated_tokens),
                    chunks: any_cut.then_some(scored.chunks),
                }
            })
            .collect();
        Reply::ok(&Body {
            id: &response.id,
            object: self.object,
            model: &response.model,
            results,
            usage: Usage::of(response),
            meta: self.meta(response),
        })
    }
}

impl Unified {
    fn meta(&self, response: &RerankResponse) -> Meta {
        let version = match self.version {
            Version::V1 => "1",
            Version::V2 => "2",
        };
        Meta {
            api_version: ApiVersion { version },
            billed_units: BilledUnits { search_units: response.search_units() },
            tokens: Tokens { input_tokens: response.prompt_tokens, output_tokens: 0 },
            warnings: warning(response).into_iter().chain(degraded(response)).collect(),
        }
    }
}

/// One sentence on what was cut, so that nobody has to guess why a long document scored low.
fn warning(response: &RerankResponse) -> Option<String> {
    let num_documents = response.results.len();
    let num_lost: usize = response.results.iter().map(|scored| scored.truncated_tokens).sum();
    let count = |test: fn(usize, usize) -> bool| {
        let results = response.results.iter();
        results.filter(|scored| test(scored.truncated_tokens, scored.chunks)).count()
    };
    let (num_cut, num_chunked) = (count(|lost, _| lost > 0), count(|_, chunks| chunks > 1));
    let mut parts = Vec::new();
    if num_cut > 0 {
        parts.push(format!(
            "{num_cut} of {num_documents} documents did not fit: {num_lost} tokens were cut"
        ));
    }
    if num_chunked > 0 {
        parts.push(format!(
            "{num_chunked} of {num_documents} documents were scored in chunks: the best chunk counts"
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What a cascade left undone.
fn degraded(response: &RerankResponse) -> Option<String> {
    let what = "there was no time for the second model: the order is that of the first";
    response.is_degraded.then(|| what.to_owned())
}

/// The error that Cohere's, Jina's, Voyage's, vLLM's and OpenAI's clients can all read.
pub(super) fn error(error: &Error, request_id: &str) -> Reply {
    let verdict = error.verdict();
    let message = public_message(error);
    let body = ErrorBody {
        id: request_id,
        message: &message,
        detail: &message,
        error: ErrorObject {
            message: &message,
            r#type: type_of(verdict.status),
            param: error.field(),
            code: verdict.status,
        },
    };
    Reply::refusal(verdict.status, error, &body)
}

/// vLLM's names, and OpenAI's where it has none.
fn type_of(status: u16) -> &'static str {
    match status {
        401 => "AuthenticationError",
        402 | 403 => "PermissionDeniedError",
        404 => "NotFoundError",
        408 | 504 => "TimeoutError",
        422 => "UnprocessableEntityError",
        429 => "RateLimitError",
        499 => "ClientClosedRequestError",
        501 => "NotImplementedError",
        503 => "ServiceUnavailableError",
        500..=599 => "InternalServerError",
        _ => "BadRequestError",
    }
}

/// A document as the reply shows it: always an object, with the caller's own keys if it was one.
#[derive(Debug)]
pub(super) enum Echo {
    Text(String),
    Object(Box<RawValue>),
}

pub(super) fn echoes(texts: &[String], objects: Vec<Option<Box<RawValue>>>) -> Vec<Echo> {
    let echo = |(text, object): (&String, Option<_>)| {
        object.map_or_else(|| Echo::Text(text.clone()), Echo::Object)
    };
    texts.iter().zip(objects).map(echo).collect()
}

impl Serialize for Echo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("text", text)?;
                map.end()
            }
            Self::Object(raw) => raw.serialize(serializer),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    model: &'a str,
    results: Vec<Item<'a>>,
    usage: Usage,
    meta: Meta,
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a Echo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<usize>,
}

#[derive(Serialize)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Serialize)]
struct BilledUnits {
    search_units: usize,
}

#[derive(Serialize)]
struct Tokens {
    input_tokens: usize,
    output_tokens: usize,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    id: &'a str,
    message: &'a str,
    detail: &'a str,
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: u16,
}
