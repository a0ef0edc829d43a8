//! Pinecone `/rerank`: objects with `rank_fields`, results under `data`, documents returned unless declined.

use serde::Serialize;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::{Reply, public_message};
use super::unified::{Echo, echoes};
use super::{Call, Context, Dialect, ErrorDialect, Form, settings, text};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

#[derive(Debug)]
struct Pinecone {
    top_n: Option<usize>,
    echoes: Vec<Echo>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let query = text::query(fields)?;
    let wants_echo = fields.boolean("return_documents")? != Some(false);
    let rank_fields = text::rank_fields(fields)?;
    let rules = text::Rules {
        field: "documents",
        rank_fields: rank_fields.as_deref(),
        keep_objects: wants_echo,
        max_texts: context.limits.max_documents,
    };
    let documents = text::documents(fields, &rules)?;
    let echoes = if wants_echo { echoes(&documents.texts, documents.objects) } else { Vec::new() };
    let dialect = Pinecone { top_n: settings::top_n(fields)?, echoes };
    let inputs = Inputs::OneQuery { query, documents: documents.texts };
    let mut request = context.request(fields, inputs)?;
    if let Some(raw) = fields.get("parameters").filter(|raw| raw.get().starts_with('{')) {
        let parameters = Fields::parse(raw.get())
            .map_err(|e| Error::invalid("parameters", format!("parameters: {e}")))?;
        settings::truncate(&parameters, &mut request.truncation)?;
    }
    Ok(Call::Rerank(request, Box::new(dialect)))
}

impl Dialect for Pinecone {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let data = ranked(response, Ties::LowerIndex, self.top_n)
            .into_iter()
            .map(|index| Item {
                index,
                score: Scale::Probability.read(&response.results[index].score),
                document: self.echoes.get(index),
            })
            .collect();
        Reply::ok(&Body { model: &response.model, data, usage: Units { rerank_units: 1 } })
    }
}

fn error(error: &Error, _request_id: &str) -> Reply {
    let status = error.verdict().status;
    let message = public_message(error);
    let error_object = ErrorObject { code: code_of(status), message: &message };
    Reply::refusal(status, error, &ErrorBody { error: error_object, status })
}

/// gRPC's names for the statuses, as Pinecone uses them.
fn code_of(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        500..=599 => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    data: Vec<Item<'a>>,
    usage: Units,
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a Echo>,
}

#[derive(Serialize)]
struct Units {
    rerank_units: usize,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorObject<'a>,
    status: u16,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    code: &'static str,
    message: &'a str,
}
