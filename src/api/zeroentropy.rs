//! ZeroEntropy `/v1/models/rerank`: a rerank reply with times and bytes beside it.

use std::time::Duration;

use serde::Serialize;

use super::fields::Fields;
use super::rank::{Scale, Ties, ranked};
use super::reply::Reply;
use super::{Call, Context, Dialect, ErrorDialect, Form, settings, text, unified};
use crate::error::Error;
use crate::request::{Inputs, RerankResponse};

pub(super) const FORM: Form = Form { read, errors: ErrorDialect(unified::error) };

#[derive(Debug)]
struct ZeroEntropy {
    top_n: Option<usize>,
    num_bytes: usize,
}

fn read(context: &Context<'_>, fields: &Fields<'_>) -> Result<Call, Error> {
    let query = text::query(fields)?;
    let rules = text::Rules {
        field: "documents",
        rank_fields: None,
        keep_objects: false,
        max_texts: context.limits.max_documents,
    };
    let inputs = Inputs::OneQuery { query, documents: text::documents(fields, &rules)?.texts };
    let dialect = ZeroEntropy { top_n: settings::top_n(fields)?, num_bytes: inputs.num_bytes() };
    Ok(Call::Rerank(context.request(fields, inputs)?, Box::new(dialect)))
}

impl Dialect for ZeroEntropy {
    fn reply(&self, response: &RerankResponse) -> Reply {
        let results = ranked(response, Ties::LowerIndex, self.top_n)
            .into_iter()
            .map(|index| Item {
                index,
                relevance_score: Scale::Probability.read(&response.results[index].score),
            })
            .collect();
        let stages = response.stamps.stages();
        let device = stages.iter().find(|(stage, _)| *stage == "device");
        Reply::ok(&Body {
            results,
            actual_latency_mode: "fast",
            e2e_latency: stages.iter().map(|(_, time)| *time).sum::<Duration>().as_secs_f64(),
            inference_latency: device.map_or(0.0, |(_, time)| time.as_secs_f64()),
            total_bytes: self.num_bytes,
            total_tokens: response.prompt_tokens,
        })
    }
}

/// All six keys are required by the SDK's model.
#[derive(Serialize)]
struct Body {
    results: Vec<Item>,
    actual_latency_mode: &'static str,
    e2e_latency: f64,
    inference_latency: f64,
    total_bytes: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct Item {
    index: usize,
    relevance_score: f32,
}
