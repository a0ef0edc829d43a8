//! Mixedbread `/v1/reranking`: documents under `input`, results under `data` with `object: rank_result`.

use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::Reply;
use super::{Call, Context, Dialect, ErrorDialect, Form, settings, text, unified};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

#[derive(Debug)]
struct Mixedbread {
    top_k: Option<usize>,
    returns_input: bool,
    inputs: Vec<Input>,
}

/// An input given back in the form it came: a string or an object.
#[derive(Debug)]
enum Input {
    Text(String),
    Object(Box<RawValue>),
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let query = text::query(fields)?;
    let returns_input = fields.boolean("return_input")? == Some(true);
    let rank_fields = text::rank_fields(fields)?;
    let rules = text::Rules {
        field: "input",
        rank_fields: rank_fields.as_deref(),
        keep_objects: returns_input,
        max_texts: context.limits.max_documents,
    };
    let documents = text::documents(fields, &rules)?;
    // No objects are kept unless asked for, and then neither are texts.
    let inputs = documents
        .texts
        .iter()
        .zip(documents.objects)
        .map(|(text, object)| object.map_or_else(|| Input::Text(text.clone()), Input::Object));
    let inputs = inputs.collect();
    let dialect = Mixedbread { top_k: settings::top_n(fields)?, returns_input, inputs };
    let inputs = Inputs::OneQuery { query, documents: documents.texts };
    Ok(Call::Rerank(context.request(fields, inputs)?, Box::new(dialect)))
}

impl Dialect for Mixedbread {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let data: Vec<Item<'_>> = ranked(response, Ties::LowerIndex, self.top_k)
            .into_iter()
            .map(|index| Item {
                index,
                score: Scale::Probability.read(&response.results[index].score),
                input: self.inputs.get(index),
                object: "rank_result",
            })
            .collect();
        Reply::ok(&Body {
            usage: Usage {
                prompt_tokens: response.prompt_tokens,
                total_tokens: response.prompt_tokens,
                completion_tokens: 0,
            },
            model: &response.model,
            top_k: data.len(),
            data,
            object: "list",
            return_input: self.returns_input,
        })
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Object(raw) => raw.serialize(serializer),
        }
    }
}

/// Every key is required by the SDK's model, `input: null` included.
#[derive(Serialize)]
struct Body<'a> {
    usage: Usage,
    model: &'a str,
    data: Vec<Item<'a>>,
    object: &'static str,
    top_k: usize,
    return_input: bool,
}

#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    score: f32,
    input: Option<&'a Input>,
    object: &'static str,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
}
