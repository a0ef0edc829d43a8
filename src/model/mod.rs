//! Models: where their files come from, their weights, and their forward pass over a backend.

mod bert;
pub mod config;
mod deberta;
mod decoder;
mod distilbert;
mod electra;
mod end;
mod families;
#[cfg(debug_assertions)]
pub mod faults;
mod gemma;
mod gte;
pub mod head;
mod jina;
pub mod known;
pub mod late;
mod llama;
pub mod loader;
pub mod memory;
mod modernbert;
mod modules;
mod parameters;
pub mod prompt;
pub mod prompts;
mod qwen2;
mod qwen3;
pub mod registry;
mod roberta;
pub mod scorer;
pub mod source;
pub mod weights;

use std::sync::Arc;

use crate::engine::packed::Packed;
use crate::error::DeviceError;

/// Makes a scorer anew, of the same weights.
pub type Spare = Arc<dyn Fn() -> Result<Box<dyn Scorer>, DeviceError> + Send + Sync>;

/// What a row of a result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grain {
    #[default]
    Sequence,
    Token,
}

impl Grain {
    /// The rows that a batch comes to.
    pub fn num_rows(self, batch: &Packed) -> usize {
        match self {
            Self::Sequence => batch.num_sequences(),
            Self::Token => batch.num_tokens(),
        }
    }
}

/// A loaded model on a device: the one dynamic call per batch.
pub trait Scorer: Send {
    /// Floats per row: the number of labels of a classifier, or the size of an encoder's vectors.
    fn width(&self) -> usize;

    /// Whether there is a row for each sequence or for each token.
    fn grain(&self) -> Grain {
        Grain::Sequence
    }

    /// Starts work on a batch that [`Scorer::score`] will be asked for after those begun before it. A device
    /// that works by itself needs this to have the next batch at hand.
    fn begin(&mut self, _batch: &Packed) {}

    /// Batches begun and not yet asked for.
    fn num_begun(&self) -> usize {
        0
    }

    /// After a panic in one of these calls: forgets what was begun.
    fn recover(&mut self) {}

    /// What makes another in the place of this one once it has failed; `None` where only a new process does.
    fn spare(&self) -> Option<Spare> {
        None
    }

    /// Lets the threads that receive and answer requests go before those that compute, this one if it is one of
    /// them. Nothing to do where a device computes.
    fn give_way(&mut self) {}

    /// Whether the batch begun first is done, so that `score` would not wait for a device.
    fn is_done(&self) -> bool {
        true
    }

    /// Runs the forward pass. `out` is `[grain().num_rows(batch), width()]`, row-major, in batch order.
    ///
    /// # Errors
    /// A device fault, in words for the log. The batch is lost; the caller answers its requests.
    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError>;

    /// Token rows computed beyond the batch's own to fill a bucket; none where rows are packed.
    fn padding_tokens(&self, _batch: &Packed) -> usize {
        0
    }
}
