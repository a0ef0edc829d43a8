//! Weaviate's `reranker-transformers` container: scores in request order, since Weaviate maps them by position.

use serde::Serialize;

use super::fields::Fields;
use super::rank::Scale;
use super::reply::{Reply, public_message};
use super::{Call, Context, Dialect, ErrorDialect, Form, text};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

#[derive(Debug)]
struct Weaviate {
    query: String,
    /// The documents as scored; one is the `property` of the legacy form.
    documents: Vec<String>,
    is_legacy: bool,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    // Old modules send one text under `property`, without documents.
    let is_legacy = fields.get("documents").is_none();
    let query = text::any_query(fields)?;
    let documents = if is_legacy {
        vec![fields.string("property")?.unwrap_or_default()]
    } else {
        let rules = text::Rules {
            field: "documents",
            rank_fields: None,
            keep_objects: false,
            max_texts: context.limits.max_documents,
        };
        text::documents(fields, &rules)?.texts
    };
    let dialect = Weaviate { query: query.clone(), documents: documents.clone(), is_legacy };
    let request = context.request(fields, Inputs::OneQuery { query, documents })?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

impl Dialect for Weaviate {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let scored = response.results.iter().map(|scored| Scale::Activated.read(&scored.score));
        let mut scores = self
            .documents
            .iter()
            .zip(scored)
            .map(|(document, score)| DocumentScore { document, score });
        if self.is_legacy {
            let only = scores.next();
            return Reply::ok(&Body {
                query: &self.query,
                scores: None,
                property: only.as_ref().map(|scored| scored.document),
                score: only.map(|scored| scored.score),
            });
        }
        let scores = Some(scores.collect());
        Reply::ok(&Body { query: &self.query, scores, property: None, score: None })
    }
}

fn error(error: &Error, _request_id: &str) -> Reply {
    // A string, or Go's decoder fails and hides the reason.
    let body = ErrorBody { error: &public_message(error) };
    Reply::refusal(error.verdict().status, error, &body)
}

/// Keys without a value are `null`, as the container's Pydantic model writes them.
#[derive(Serialize)]
struct Body<'a> {
    query: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Vec<DocumentScore<'a>>>,
    property: Option<&'a str>,
    score: Option<f32>,
}

#[derive(Serialize)]
struct DocumentScore<'a> {
    document: &'a str,
    score: f32,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}
