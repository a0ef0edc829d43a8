//! NVIDIA NIM `/v1/ranking`: `passages` in, raw logits out.

use serde::Serialize;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::{Reply, Usage, public_message};
use super::{Call, Context, Dialect, ErrorDialect, Form, lenient, settings, text};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(error) };

#[derive(Debug)]
struct Nim {
    /// Not in NIM's schema; RAGFlow sends `top_n` and LiteLLM `top_k`, and both mean it.
    top_n: Option<usize>,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let query = text::query(fields)?;
    let rules = text::Rules {
        field: "passages",
        rank_fields: None,
        keep_objects: false,
        max_texts: context.limits.max_documents,
    };
    refuse_images(fields, &rules)?;
    let documents = text::documents(fields, &rules)?.texts;
    let dialect = Nim { top_n: settings::top_n(fields)? };
    let request = context.request(fields, Inputs::OneQuery { query, documents })?;
    Ok(Call::Rerank(request, Box::new(dialect)))
}

/// In NIM `image` is input like `text`: to drop it in silence would rank something else than was asked.
fn refuse_images(fields: &Fields<'_>, rules: &text::Rules<'_>) -> Result<(), Error> {
    let Some(raw) = fields.get(rules.field) else { return Ok(()) };
    let passages = lenient::list(raw, rules.max_texts).unwrap_or_default();
    for (index, passage) in passages.into_iter().enumerate() {
        let object = Fields::parse(passage.get()).ok();
        if object.is_some_and(|object| object.get("image").is_some()) {
            return Err(text::no_images(&format_args!("passages[{index}].image"), "image"));
        }
    }
    Ok(())
}

impl Dialect for Nim {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let rankings = ranked(response, Ties::LowerIndex, self.top_n)
            .into_iter()
            .map(|index| Ranking { index, logit: Scale::Raw.read(&response.results[index].score) })
            .collect();
        Reply::ok(&Body { rankings, usage: Usage::of(response) })
    }
}

fn error(error: &Error, _request_id: &str) -> Reply {
    // The hosted service says `detail`, the container `error`.
    let message = public_message(error);
    let body = ErrorBody { detail: &message, error: &message };
    Reply::refusal(error.verdict().status, error, &body)
}

#[derive(Serialize)]
struct Body {
    rankings: Vec<Ranking>,
    usage: Usage,
}

#[derive(Serialize)]
struct Ranking {
    index: usize,
    logit: f32,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    detail: &'a str,
    error: &'a str,
}
