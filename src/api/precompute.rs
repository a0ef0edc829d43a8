//! POST `/v1/precompute`: documents whose vectors are to be kept before anybody asks for their scores. Of late
//! interaction alone, and this server's own: no peer has it.

use serde::Serialize;

use super::fields::Fields;
use super::reply::{Reply, Usage};
use super::{Call, Context, Dialect, ErrorDialect, Form, text, unified};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

#[derive(Debug)]
struct Precompute {
    num_documents: usize,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let rank_fields = text::rank_fields(fields)?;
    let rules = text::Rules {
        field: "documents",
        // A document is the text that a request would make of it.
        rank_fields: rank_fields.as_deref(),
        keep_objects: false,
        max_texts: context.limits.max_documents,
    };
    let documents = text::documents(fields, &rules)?.texts;
    let dialect = Precompute { num_documents: documents.len() };
    let request = context.request(fields, Inputs::Documents(documents))?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

impl Dialect for Precompute {
    fn reply(&self, response: &RerankResponse) -> Reply {
        Reply::ok(&Body {
            id: &response.id,
            object: "precompute",
            model: &response.model,
            documents: self.num_documents,
            computed: response.num_precomputed,
            usage: Usage::of(response),
        })
    }
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    object: &'static str,
    model: &'a str,
    /// All that were asked for.
    documents: usize,
    /// Those that were not kept before, each text once.
    computed: usize,
    usage: Usage,
}
