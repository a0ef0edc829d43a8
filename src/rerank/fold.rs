//! From rows of floats, one a sequence, to scores, one a document.

use super::late::Matches;
use crate::batch::Sequences;
use crate::error::Error;
use crate::model::head::{Head, cosine, late_interaction};
use crate::request::{Score, Scored};
use crate::tokenize::Item;

/// The scores of a request in its own order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Folded {
    pub(super) results: Vec<Scored>,
    /// `[results.len(), num_labels]` for a classifier, else empty.
    pub(super) label_logits: Vec<f32>,
}

/// `rows` is `[sequences.len(), width]`. Of a document in chunks the best one counts.
pub(super) fn fold(
    head: &Head,
    width: usize,
    rows: &[f32],
    sequences: &Sequences,
    items: &[Item],
) -> Result<Folded, Error> {
    let row = |sequence: usize| &rows[sequence * width..(sequence + 1) * width];
    let score = |item: &Item, sequence| match (head, item.query_sequence) {
        (Head::Classifier { .. }, _) => head.score(row(sequence)),
        (Head::Embedding { .. }, Some(query)) => Some(cosine(row(query), row(sequence))),
        (Head::Embedding { .. }, None) | (Head::Late(_), _) => None,
    };
    let mut folded = best_chunks(sequences, items, score)?;
    if let Head::Classifier { .. } = head {
        folded.folded.label_logits = folded.best.iter().flat_map(|i| row(*i)).copied().collect();
    }
    Ok(folded.folded)
}

/// As [`fold`], of a model of late interaction.
pub(super) fn fold_matches(
    matches: &Matches,
    sequences: &Sequences,
    items: &[Item],
) -> Result<Folded, Error> {
    let score = |item: &Item, sequence: usize| {
        let num_vectors = matches.num_vectors[item.query_sequence?];
        Some(late_interaction(matches.sums[sequence], num_vectors))
    };
    Ok(best_chunks(sequences, items, score)?.folded)
}

/// Of each document its best chunk.
struct Best {
    folded: Folded,
    /// Their sequences.
    best: Vec<usize>,
}

fn best_chunks(
    sequences: &Sequences,
    items: &[Item],
    score: impl Fn(&Item, usize) -> Option<Score>,
) -> Result<Best, Error> {
    let mut folded = Folded { results: Vec::with_capacity(items.len()), label_logits: Vec::new() };
    let mut all_best = Vec::with_capacity(items.len());
    for item in items {
        let scored = item.sequences.clone().map(|sequence| {
            let score = score(item, sequence).ok_or_else(|| {
                Error::NotSupported("this model compares two texts and classifies none".into())
            })?;
            Ok((score, sequence))
        });
        let scored = scored.collect::<Result<Vec<_>, Error>>()?;
        let best = scored.into_iter().reduce(
            |best, next| {
                if next.0.raw > best.0.raw { next } else { best }
            },
        );
        let (score, sequence) =
            best.ok_or_else(|| Error::Internal("a document of no chunks".into()))?;
        all_best.push(sequence);
        folded.results.push(Scored {
            score,
            tokens: sequences.tokens_in(item.sequences.clone()),
            truncated_tokens: item.truncated_tokens,
            chunks: item.sequences.len(),
        });
    }
    Ok(Best { folded, best: all_best })
}
