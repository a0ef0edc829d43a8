//! A device's thread: takes batches, runs them, hands their rows to the requests.
//!
//! A batch that panics or faults costs its own requests a 503 and nobody else anything.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::Batch;
use super::worker::Command;
use crate::clock;
use crate::error::{DeviceError, Error};
use crate::health::Health;
use crate::metrics::{Metrics, Outcome};
use crate::model::Scorer;

/// When a request that a fault hit may come again: by then the next batch has shown whether the device
/// recovered.
pub(super) const FAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a computing device is asked whether it is done, while the next batch may arrive.
const POLL: Duration = Duration::from_micros(50);

/// What a device's thread works with.
pub(super) struct Device {
    pub(super) scorer: Box<dyn Scorer>,
    pub(super) inbox: Receiver<Batch>,
    pub(super) done: Sender<Command>,
    /// Devices with nothing to do: a busy one takes no second batch from them.
    pub(super) num_waiting: Arc<AtomicUsize>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
}

impl Device {
    /// Until the batcher is gone.
    pub(super) fn run(mut self) {
        let mut out = Vec::new();
        let mut ahead = None;
        while let Some((batch, has_begun)) = self.next(ahead.take()) {
            let (inbox, num_waiting) = (&self.inbox, &self.num_waiting);
            let meanwhile = |scorer: &mut dyn Scorer| {
                if !has_begun {
                    scorer.begin(&batch.packed);
                }
                while ahead.is_none() && !scorer.is_done() {
                    ahead = next_meanwhile(inbox, num_waiting);
                    if let Some(next) = &ahead {
                        scorer.begin(&next.packed);
                    }
                }
            };
            let run = Run { batch: &batch, has_begun, meanwhile };
            let outcome = run.execute(&mut *self.scorer, &mut out, clock::now);
            self.metrics.batch(&outcome);
            self.health.device_ran(outcome.fault.as_ref());
            let Outcome { num_tokens, took, .. } = outcome;
            if self.done.send(Command::Done { num_tokens, took }).is_err() {
                return;
            }
        }
    }

    /// The batch begun ahead, or the next to arrive; whether it has begun.
    fn next(&self, ahead: Option<Batch>) -> Option<(Batch, bool)> {
        if let Some(batch) = ahead {
            return Some((batch, self.scorer.num_begun() > 0));
        }
        self.num_waiting.fetch_add(1, Ordering::Relaxed);
        let batch = self.inbox.recv().ok();
        self.num_waiting.fetch_sub(1, Ordering::Relaxed);
        Some((batch?, false))
    }
}

/// Waits a moment for a batch that no idle device wants.
fn next_meanwhile(inbox: &Receiver<Batch>, num_waiting: &AtomicUsize) -> Option<Batch> {
    if num_waiting.load(Ordering::Relaxed) == 0 {
        match inbox.recv_timeout(POLL) {
            Ok(batch) => return Some(batch),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {}
        }
    }
    std::thread::sleep(POLL);
    None
}

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
struct Run<'a, F> {
    batch: &'a Batch,
    /// The device has it already, so it is waited for even if everybody left.
    has_begun: bool,
    /// What to do between the start and the wait for the scores.
    meanwhile: F,
}

impl<F: FnMut(&mut dyn Scorer)> Run<'_, F> {
    fn execute(
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
        out.resize(num_sequences * width, 0.0);
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
fn lose(batch: &Batch, fault: DeviceError) -> DeviceError {
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
