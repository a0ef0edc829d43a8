//! Voyage `/v1/rerank`: results under `data`, documents echoed as strings, errors under `detail`.

use serde::Serialize;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::{Reply, public_message};
use super::{Call, Context, Dialect, ErrorDialect, Form, settings, text};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

#[derive(Debug)]
struct Voyage {
    scale: Scale,
    top_k: Option<usize>,
    /// The documents as scored; empty unless `return_documents`.
    documents: Vec<String>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let query = text::query(fields)?;
    let rank_fields = text::rank_fields(fields)?;
    let rules = text::Rules {
        field: "documents",
        rank_fields: rank_fields.as_deref(),
        keep_objects: false,
        max_texts: context.limits.max_documents,
    };
    let documents = text::documents(fields, &rules)?.texts;
    let wants_echo = fields.boolean("return_documents")? == Some(true);
    let dialect = Voyage {
        scale: Scale::of(fields, Scale::Probability)?,
        top_k: settings::top_n(fields)?,
        documents: if wants_echo { documents.clone() } else { Vec::new() },
    };
    let request = context.request(fields, Inputs::OneQuery { query, documents })?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

impl Dialect for Voyage {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let data = ranked(response, Ties::LowerIndex, self.top_k)
            .into_iter()
            .map(|index| Item {
                index,
                relevance_score: self.scale.read(&response.results[index].score),
                document: self.documents.get(index).map(String::as_str),
            })
            .collect();
        Reply::ok(&Body {
            object: "list",
            data,
            model: &response.model,
            usage: Total { total_tokens: response.prompt_tokens },
        })
    }
}

fn error(error: &Error, _request_id: &str) -> Reply {
    let body = ErrorBody { detail: &public_message(error) };
    Reply::refusal(error.verdict().status, error, &body)
}

#[derive(Serialize)]
struct Body<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: Total,
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<&'a str>,
}

#[derive(Serialize)]
struct Total {
    total_tokens: usize,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    detail: &'a str,
}
