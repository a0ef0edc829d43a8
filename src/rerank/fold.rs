//! From rows of floats, one a sequence, to scores, one a document.

use crate::batch::Sequences;
use crate::error::Error;
use crate::model::head::{Head, cosine};
use crate::request::Scored;
use crate::tokenize::Item;

/// The scores of a request in its own order.
#[derive(Debug, PartialEq)]
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
    let mut folded = Folded { results: Vec::with_capacity(items.len()), label_logits: Vec::new() };
    for item in items {
        let scored = item.sequences.clone().map(|sequence| {
            let score = match (head, item.query_sequence) {
                (Head::Classifier { .. }, _) => head.score(row(sequence)),
                (Head::Embedding { .. }, Some(query)) => Some(cosine(row(query), row(sequence))),
                (Head::Embedding { .. }, None) => None,
            };
            let score = score.ok_or_else(|| {
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
        if let Head::Classifier { .. } = head {
            folded.label_logits.extend_from_slice(row(sequence));
        }
        folded.results.push(Scored {
            score,
            tokens: sequences.tokens_in(item.sequences.clone()),
            truncated_tokens: item.truncated_tokens,
            chunks: item.sequences.len(),
        });
    }
    Ok(folded)
}
