//! Runs a model over a batch, in the way of its device.

mod pipeline;
mod threads;

use std::fmt::Debug;

use super::{Grain, Scorer, Spare};
use crate::engine::Backend;
use crate::engine::packed::Packed;
use crate::error::DeviceError;

pub use pipeline::Pipeline;
pub use threads::Threads;

/// A model family over a backend.
pub trait Family<B: Backend>: Debug + Send + Sync + 'static {
    /// The activations of one thread.
    type Lane: Debug + Send;

    /// Floats per row.
    fn width(&self) -> usize;

    /// Whether there is a row for each sequence or for each token.
    fn grain(&self) -> Grain {
        Grain::Sequence
    }

    fn limits(&self) -> Limits;

    /// Activations for batches of up to `max_tokens`.
    ///
    /// # Errors
    /// No memory on the device.
    fn lane(&self, backend: &B, max_tokens: usize) -> Result<Self::Lane, DeviceError>;

    /// The rows of the result, in the order of the batch: one a [`Grain`], `width()` wide.
    fn forward<'a>(&self, backend: &B, lane: &'a mut Self::Lane, batch: &B::Batch) -> &'a B::Rows;

    /// What is left to do with those rows, once they are floats.
    fn finish(&self, _results: &mut [f32]) {}
}

/// What a batch may contain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_length: usize,
    pub vocab_size: usize,
    pub type_vocab_size: usize,
    /// What a token costs besides attention, in tokens of attention.
    pub token_cost: u64,
    /// Tokens that a thread of a CPU takes at once.
    pub group_tokens: usize,
    /// Whether no row depends on rows after it, so that what sequences begin with alike is computed once.
    pub is_causal: bool,
}

impl Limits {
    /// What the kernels would panic on, or read out of bounds. A defect upstream must cost one batch, and say
    /// where it is.
    fn check(&self, batch: &Packed) -> Result<(), DeviceError> {
        let fault = |message: String| Err(DeviceError::new(message));
        let num_tokens = batch.num_tokens();
        if batch.token_type_ids.len() != num_tokens || batch.position_ids.len() != num_tokens {
            return fault("the token arrays of the batch differ in length".to_owned());
        }
        let bounds = &batch.cu_seqlens;
        if bounds.first() != Some(&0) || bounds.last().map(|end| *end as usize) != Some(num_tokens)
        {
            return fault(format!("cu_seqlens does not span the {num_tokens} tokens of the batch"));
        }
        if batch.key_lens.len() != batch.num_sequences() {
            return fault("key_lens does not tell of each sequence".to_owned());
        }
        for (i, (bounds, key_len)) in bounds.windows(2).zip(&batch.key_lens).enumerate() {
            let len = bounds[1].saturating_sub(bounds[0]) as usize;
            if !(1..=self.max_length).contains(&len) {
                let max = self.max_length;
                return fault(format!("sequence {i} has {len} tokens, not 1 to {max}"));
            }
            if !(1..=len).contains(&(*key_len as usize)) {
                return fault(format!("sequence {i} of {len} tokens has {key_len} keys"));
            }
        }
        for (name, ids, bound) in [
            ("input_ids", &batch.input_ids, self.vocab_size),
            ("token_type_ids", &batch.token_type_ids, self.type_vocab_size),
            ("position_ids", &batch.position_ids, self.max_length),
        ] {
            if let Some(id) = ids.iter().find(|id| **id as usize >= bound) {
                return fault(format!("{name} has {id}, the model's table ends at {bound}"));
            }
        }
        Ok(())
    }
}

/// `out` must have room for all rows of `width` floats.
fn check_room(
    batch: &Packed,
    (grain, width): (Grain, usize),
    out: &[f32],
) -> Result<(), DeviceError> {
    let expected = grain.num_rows(batch) * width;
    if out.len() == expected {
        return Ok(());
    }
    Err(DeviceError::new(format!("room for {} floats, not {expected}", out.len())))
}
