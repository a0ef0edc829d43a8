//! One batch's turn on a device: its rows, or the fault, to its requests.
//!
//! A batch that panics or faults costs its own requests a 503 and nobody else anything.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::Batch;
use crate::error::{DeviceError, Error};
use crate::metrics::Outcome;
use crate::model::Scorer;

/// When a request that a fault hit may come again: by then the next batch has shown whether the device
/// recovered.
pub(super) const FAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Runs one batch and hands its rows, or the fault, to its requests. `out` is scratch memory kept
/// between batches.
pub fn execute(
    batch: &Batch,
    scorer: &mut dyn Scorer,
    out: &mut Vec<f32>,
    now: impl Fn() -> Instant,
) -> Outcome {
    Run { batch, has_begun: false, meanwhile: |_: &mut dyn Scorer| {} }.execute(scorer, out, now)
}

/// One batch's turn.
pub(super) struct Run<'a, F> {
    pub(super) batch: &'a Batch,
    /// The device has it already, so it is waited for even if everybody left.
    pub(super) has_begun: bool,
    /// What to do between the start and the wait for the scores.
    pub(super) meanwhile: F,
}

impl<F: FnMut(&mut dyn Scorer)> Run<'_, F> {
    pub(super) fn execute(
        mut self,
        scorer: &mut dyn Scorer,
        out: &mut Vec<f32>,
        now: impl Fn() -> Instant,
    ) -> Outcome {
        let batch = self.batch;
        let started = now();
        let closed = batch.slices.iter().filter(|slice| slice.answer.is_closed());
        let late_cancels = closed.map(|slice| slice.range.len()).sum();
        let num_sequences = batch.packed.num_sequences();
        let mut outcome = Outcome {
            num_tokens: batch.packed.num_tokens(),
            num_sequences,
            took: Duration::ZERO,
            late_cancels,
            padding_tokens: scorer.padding_tokens(&batch.packed),
            fault: None,
        };
        if late_cancels == num_sequences && !self.has_begun {
            // Everybody left between planning and now.
            outcome.num_tokens = 0;
            return outcome;
        }
        for slice in &batch.slices {
            slice.answer.start(started);
        }
        let width = scorer.width();
        out.resize(scorer.grain().num_rows(&batch.packed) * width, 0.0);
        let scored = catch_unwind(AssertUnwindSafe(|| {
            (self.meanwhile)(scorer);
            scorer.score(&batch.packed, out)
        }));
        let finished = now();
        outcome.took = finished.saturating_duration_since(started);
        outcome.fault = match scored {
            Ok(Ok(())) => hand_out(batch, out, width, finished),
            Ok(Err(fault)) => Some(lose(batch, fault)),
            Err(panic) => {
                scorer.recover();
                let message = format!("the worker panicked: {}", panic_message(&*panic));
                Some(lose(batch, DeviceError::new(message)))
            }
        };
        if let Some(fault) = &outcome.fault {
            tracing::error!(%fault, num_sequences, "scores were lost");
        }
        outcome
    }
}

/// Fills the answers. A row that is no number costs its own request the answer, and is a fault.
fn hand_out(batch: &Batch, out: &[f32], width: usize, now: Instant) -> Option<DeviceError> {
    let mut fault = None;
    for (slice, rows) in batch.rows(out, width) {
        if rows.iter().all(|value| value.is_finite()) {
            slice.answer.fill(slice.range.clone(), rows, now);
        } else {
            slice.answer.fail(device_failed());
            fault = Some(DeviceError::new("the model gave a score that is not a number"));
        }
    }
    fault
}

/// Tells every request of the batch that its scores are lost.
pub(super) fn lose(batch: &Batch, fault: DeviceError) -> DeviceError {
    for slice in &batch.slices {
        slice.answer.fail(device_failed());
    }
    fault
}

fn device_failed() -> Error {
    Error::Unavailable {
        reason: "the device failed while scoring".into(),
        retry_after: FAULT_RETRY_AFTER,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied();
    message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
