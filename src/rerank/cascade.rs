//! A cheap model over all documents, a strong one over the best of them, as one model.
//!
//! The best `k` of the first model are ordered by the scores of the second, and the others follow in the order of
//! the first. Scores fall all the way: what follows is laid below the last of the second's scores, so its numbers
//! tell the order and how far apart the first model saw the documents, and nothing else.
//!
//! Both passes have the one deadline of the request. When the second would be late by its measured speed, or cannot
//! be had now, the order of the first is the answer, and says so.

use std::time::Instant;

use super::models::Models;
use super::{Service, unavailable};
use crate::api::info::ModelFacts;
use crate::clock;
use crate::error::Error;
use crate::health::State;
use crate::model::registry::Names;
use crate::request::{Inputs, RerankRequest, RerankResponse, Score, Scored, Stamps};
use crate::tenant::Tenant;

/// Two models by name. They are looked up anew for each request, so each can be swapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cascade {
    pub first: String,
    pub second: String,
    /// Documents that the second model scores.
    pub k: usize,
}

/// The part of the time left that is kept for writing the answer when the second model is late after all.
const ANSWER_PART: u32 = 20;

impl Cascade {
    /// What the two models say of themselves together.
    ///
    /// # Errors
    /// One of them is not there.
    pub(super) fn facts(&self, names: &Names, models: &Models) -> Result<ModelFacts, Error> {
        let [first, second] = [&self.first, &self.second].map(|name| models.named(name));
        let (first, second) = (first?, second?);
        Ok(ModelFacts {
            name: names.served.clone(),
            aliases: names.aliases.clone(),
            architecture: format!("Cascade({}, {})", self.first, self.second),
            labels: Vec::new(),
            vectors: None,
            max_length: first.facts.max_length.min(second.facts.max_length),
            revision: None,
            ..second.facts.clone()
        })
    }

    pub(super) fn has_part(&self, name: &str) -> bool {
        self.first == name || self.second == name
    }

    /// Scores a request with both models. A tenant that may use the cascade needs no leave for its parts.
    pub(super) async fn rerank(
        &self,
        name: &str,
        models: &Models,
        mut request: RerankRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<RerankResponse, Error> {
        if matches!(request.inputs, Inputs::Texts(_) | Inputs::Documents(_)) {
            return Err(Error::NotSupported("a cascade compares texts and classifies none".into()));
        }
        let (first, second) = (models.named(&self.first)?, models.named(&self.second)?);
        let (Some(cheap), Some(strong)) = (first.service(), second.service()) else {
            return Err(unavailable(State::Starting));
        };
        let timeout = cheap.timeout_of(request.timeout);
        request.timeout = Some(timeout);
        let of_all = cheap.score(request.clone(), stamps, tenant).await?;
        let chosen = best(&of_all.results, self.k);
        request.inputs = request.inputs.select(&chosen);
        let deadline = stamps.received + timeout;
        let of_best = second_pass(strong, request, &of_all, deadline, tenant).await?;
        let merged = match &of_best {
            Some(of_best) => merge(&of_all, of_best, &chosen),
            None => of_all.results.clone(),
        };
        Ok(RerankResponse {
            model: name.to_owned(),
            results: merged,
            label_logits: Vec::new(),
            labels: Vec::new(),
            prompt_tokens: of_all.prompt_tokens
                + of_best.as_ref().map_or(0, |response| response.prompt_tokens),
            is_degraded: of_best.is_none(),
            stamps: Stamps {
                scored: of_best.map_or(of_all.stamps.scored, |response| response.stamps.scored),
                ..of_all.stamps
            },
            ..of_all
        })
    }
}

/// The second model's answer, or `None` if it cannot be had in time.
async fn second_pass(
    strong: &Service,
    mut request: RerankRequest,
    of_all: &RerankResponse,
    deadline: Instant,
    tenant: &Tenant,
) -> Result<Option<RerankResponse>, Error> {
    let now = clock::now();
    let left = deadline.saturating_duration_since(now);
    let timeout = left - left / ANSWER_PART;
    if strong.time_for(&request.inputs) > timeout {
        tracing::info!(request_id = request.id, ?left, "no time for the second model");
        return Ok(None);
    }
    // Its deadline counts from here.
    request.timeout = Some(timeout);
    let stamps = Stamps { received: now, parsed: now, ..of_all.stamps };
    match strong.score(request, stamps, tenant).await {
        Ok(response) => Ok(Some(response)),
        Err(
            error @ (Error::Overloaded { .. }
            | Error::RateLimited { .. }
            | Error::DeadlineExceeded
            | Error::Unavailable { .. }),
        ) => {
            tracing::info!(request_id = of_all.id, %error, "without the second model");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The `k` best documents, the best first; among equals the earlier one.
fn best(results: &[Scored], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..results.len()).collect();
    order.sort_by(|&a, &b| results[b].score.raw.total_cmp(&results[a].score.raw));
    order.truncate(k);
    order
}

/// The scores of both, in the request's order. `chosen` are the documents that `of_best` has, in its order.
fn merge(of_all: &RerankResponse, of_best: &RerankResponse, chosen: &[usize]) -> Vec<Scored> {
    let lowest = |scores: &mut dyn Iterator<Item = Score>| {
        scores.reduce(|low, next| if next.raw < low.raw { next } else { low })
    };
    let floor = lowest(&mut of_best.results.iter().map(|scored| scored.score));
    let edge = lowest(&mut chosen.iter().map(|&i| of_all.results[i].score));
    let (Some(floor), Some(edge)) = (floor, edge) else { return of_all.results.clone() };
    let mut merged: Vec<Scored> = of_all
        .results
        .iter()
        .map(|scored| Scored { score: below(floor, edge, scored.score), ..*scored })
        .collect();
    for (&i, strong) in chosen.iter().zip(&of_best.results) {
        let tokens = of_all.results[i].tokens + strong.tokens;
        merged[i] = Scored { tokens, ..*strong };
    }
    merged
}

/// The first model's `score`, which is not above `edge`, as a score that is not above `floor`, in the same order.
/// What is a probability stays one: it is scaled. A logit is moved.
fn below(floor: Score, edge: Score, score: Score) -> Score {
    fn scaled(floor: f32, edge: f32, x: f32) -> f32 {
        if edge > 0.0 { (floor * (x / edge)).min(floor) } else { floor.min(0.0) }
    }
    fn moved(floor: f32, edge: f32, x: f32) -> f32 {
        (floor - (edge - x)).min(floor)
    }
    // Whether the checkpoint's own activation gives probabilities is the same for all scores of a model.
    let is_probability = |score: Score| score.activated == score.probability;
    let is_scaled = is_probability(floor) && is_probability(edge);
    let activated = if is_scaled { scaled } else { moved };
    Score {
        raw: moved(floor.raw, edge.raw, score.raw),
        activated: activated(floor.activated, edge.activated, score.activated),
        probability: scaled(floor.probability, edge.probability, score.probability),
    }
}

#[cfg(test)]
mod tests;
