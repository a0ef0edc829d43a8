//! Scores in the form a dialect speaks, in the order it shows them.

use std::cmp::Ordering;

use super::fields::Fields;
use crate::error::Error;
use crate::request::{RerankResponse, Score, Scored};

/// Which form of a score a reply carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Raw,
    Activated,
    Probability,
}

impl Scale {
    /// `otherwise`, unless the client asks for the raw score: vLLM's `use_activation: false`, TEI's and
    /// Infinity's `raw_scores: true`.
    pub(super) fn of(fields: &Fields<'_>, otherwise: Self) -> Result<Self, Error> {
        let is_raw = fields.boolean("raw_scores")? == Some(true)
            || fields.boolean("use_activation")? == Some(false);
        Ok(if is_raw { Self::Raw } else { otherwise })
    }

    pub(super) fn read(self, score: &Score) -> f32 {
        finite(match self {
            Self::Raw => score.raw,
            Self::Activated => score.activated,
            Self::Probability => score.probability,
        })
    }
}

/// Which of two equal scores comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    LowerIndex,
    /// TEI sorts ascending and reverses.
    HigherIndex,
}

/// Positions of the results, best first, cut to `top_n`.
///
/// The raw score decides: in f32 the probabilities of two good documents are often both 1.0.
pub(super) fn ranked(response: &RerankResponse, ties: Ties, top_n: Option<usize>) -> Vec<usize> {
    let raw = |index: usize| key(&response.results[index]);
    let mut order: Vec<usize> = (0..response.results.len()).collect();
    if ties == Ties::HigherIndex {
        order.reverse();
    }
    // A stable sort keeps equals in the order they stand in.
    order.sort_by(|&a, &b| raw(b).partial_cmp(&raw(a)).unwrap_or(Ordering::Equal));
    order.truncate(top_n.unwrap_or(usize::MAX));
    order
}

/// A number that JSON can carry. A score is finite by the engine's contract; were it not, `null` would crash
/// clients where 0 does not.
pub(super) fn finite(value: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.clamp(f32::MIN, f32::MAX) }
}

fn key(scored: &Scored) -> f32 {
    if scored.score.raw.is_nan() { f32::NEG_INFINITY } else { scored.score.raw }
}
