//! From a plan's picks to the packed arrays the engine reads, and back from its rows to the requests.

use std::ops::Range;
use std::sync::Arc;

use super::{Answer, Sequences, Share};
use crate::engine::packed::Packed;

/// Consecutive sequences of one request that ride in one batch.
#[derive(Debug, Clone)]
pub struct Slice {
    pub share: Share,
    pub sequences: Arc<Sequences>,
    pub answer: Arc<Answer>,
    pub range: Range<usize>,
}

/// A batch on its way to the device.
#[derive(Debug)]
pub struct Batch {
    pub packed: Packed,
    /// In the order of the packed sequences.
    pub slices: Vec<Slice>,
}

impl Batch {
    /// Lays the token rows of all slices one after another.
    pub fn lay_out(slices: Vec<Slice>) -> Self {
        let num_tokens = slices.iter().map(|s| s.sequences.tokens_in(s.range.clone())).sum();
        let num_sequences = slices.iter().map(|slice| slice.range.len()).sum();
        let mut packed = Packed::with_capacity(num_tokens, num_sequences);
        for slice in &slices {
            for i in slice.range.clone() {
                slice.sequences.pack(i, &mut packed);
            }
        }
        Self { packed, slices }
    }

    /// Each slice with the rows of `out` that belong to it, `width` floats each.
    pub fn rows<'a>(
        &'a self,
        out: &'a [f32],
        width: usize,
    ) -> impl Iterator<Item = (&'a Slice, &'a [f32])> {
        let mut begin = 0;
        self.slices.iter().map(move |slice| {
            let end = begin + slice.answer.rows_of(slice.range.clone()).len() * width;
            let rows = &out[begin..end];
            begin = end;
            (slice, rows)
        })
    }
}
