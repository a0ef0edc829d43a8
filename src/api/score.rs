//! vLLM's `/score`: one text against one or many, or many against as many; answers in request order.

use serde::Serialize;

use super::fields::Fields;
use super::rank::Scale;
use super::reply::{Reply, Usage};
use super::text::{self, Rules};
use super::{Call, Context, Dialect, ErrorDialect, Form, unified};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

/// The names of the two sides, newest first.
const SPELLINGS: [(&str, &str); 4] =
    [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")];

#[derive(Debug)]
struct Score {
    scale: Scale,
    unix_seconds: u64,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let spelled =
        |&(left, right): &(&str, &str)| fields.get(left).is_some() && fields.get(right).is_some();
    let (left, right) = SPELLINGS.into_iter().find(spelled).ok_or_else(|| {
        let message =
            "text_1 and text_2 are required (or queries and documents, or data_1 and data_2)";
        Error::invalid("text_1", message)
    })?;
    let side = |field| -> Result<Vec<String>, Error> {
        let Some(raw) = fields.get(field) else { return Ok(Vec::new()) };
        let max_texts = context.limits.max_documents;
        let rules = Rules { field, rank_fields: None, keep_objects: false, max_texts };
        Ok(text::texts(raw, &rules)?.texts)
    };
    let inputs = paired(left, side(left)?, right, side(right)?)?;
    let dialect =
        Score { scale: Scale::of(fields, Scale::Activated)?, unix_seconds: context.unix_seconds };
    Ok(Call::Rerank(context.request(fields, inputs)?, Box::new(dialect)))
}

fn paired(
    left: &str,
    mut queries: Vec<String>,
    right: &str,
    documents: Vec<String>,
) -> Result<Inputs, Error> {
    match (queries.len(), documents.len()) {
        (0, _) => Err(Error::invalid(left, "At least one text element must be given")),
        (_, 0) => Err(Error::invalid(right, "At least one text_pair element must be given")),
        (1, _) => {
            let query = queries.swap_remove(0);
            Ok(Inputs::OneQuery { query, documents })
        }
        (n, m) if n == m => Ok(Inputs::Pairs(queries.into_iter().zip(documents).collect())),
        _ => Err(Error::invalid(left, "Input lengths must be either 1:1, 1:N or N:N")),
    }
}

impl Dialect for Score {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let scored = response.results.iter().enumerate();
        Reply::ok(&Body {
            id: &response.id,
            object: "list",
            created: self.unix_seconds,
            model: &response.model,
            data: scored
                .map(|(index, scored)| Item {
                    index,
                    object: "score",
                    score: self.scale.read(&scored.score),
                })
                .collect(),
            usage: Usage::of(response),
        })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    data: Vec<Item>,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    index: usize,
    object: &'static str,
    score: f32,
}
