//! The two threads of a device: one plans and lays out, one runs batches.
//!
//! While the device thread computes, the batcher thread has the next batch ready; a batch that panics or
//! faults costs its own requests a 503 and nobody else anything.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{Batch, Batcher, Entry, MAX_IN_FLIGHT, Step};
use crate::clock;
use crate::error::Error;
use crate::health::Health;
use crate::metrics::{Metrics, Outcome};
use crate::model::Scorer;

/// When a request that a fault hit may come again: by then the next batch has shown whether the device
/// recovered.
const FAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

enum Command {
    Submit(Entry),
    Done { num_tokens: usize, took: Duration },
    Stop,
}

/// The running batcher. Dropping it stops both threads; what still waits is told so by its closed
/// channel.
#[derive(Debug)]
pub struct Handle {
    /// Not bounded here: admission bounds requests and tokens before they come this far.
    commands: Sender<Command>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Queues a request. Its answer comes through the entry's [`super::Answer`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] once the batcher is stopping.
    pub fn submit(&self, entry: Entry) -> Result<(), Error> {
        self.commands.send(Command::Submit(entry)).map_err(|_| Error::Unavailable {
            reason: "the server is stopping".into(),
            retry_after: FAULT_RETRY_AFTER,
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Starts the threads of one device.
///
/// # Errors
/// The operating system has no thread to give.
pub fn spawn(
    batcher: Batcher,
    mut scorer: Box<dyn Scorer>,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> std::io::Result<Handle> {
    let (commands, inbox) = unbounded();
    // Room for every batch the batcher may have in flight, so that sending one never waits.
    let (batches, device_inbox) = bounded::<Batch>(MAX_IN_FLIGHT);
    let device = std::thread::Builder::new().name("rerankd-device".into()).spawn({
        let (commands, metrics, health) =
            (commands.clone(), Arc::clone(metrics), Arc::clone(health));
        move || {
            let mut out = Vec::new();
            for batch in device_inbox {
                let outcome = execute(&batch, &mut *scorer, &mut out, clock::now);
                metrics.batch(&outcome);
                health.device_ran(outcome.fault.is_none());
                let Outcome { num_tokens, took, .. } = outcome;
                if commands.send(Command::Done { num_tokens, took }).is_err() {
                    return;
                }
            }
        }
    })?;
    let planner = std::thread::Builder::new().name("rerankd-batcher".into()).spawn({
        let metrics = Arc::clone(metrics);
        move || drive(batcher, &inbox, &batches, &metrics)
    })?;
    Ok(Handle { commands, threads: vec![planner, device] })
}

/// The batcher thread: steps whenever something happens or the time it asked for has come.
fn drive(
    mut batcher: Batcher,
    inbox: &Receiver<Command>,
    batches: &Sender<Batch>,
    metrics: &Metrics,
) {
    loop {
        let (step, swept) = batcher.step(clock::now());
        metrics.swept(swept);
        let command = match step {
            Step::Run(batch) => {
                if batches.send(batch).is_err() {
                    return;
                }
                Ok(None)
            }
            Step::WaitUntil(at) => match inbox.recv_deadline(at) {
                Err(RecvTimeoutError::Timeout) => Ok(None),
                other => other.map(Some),
            },
            Step::Wait => inbox.recv().map(Some).map_err(Into::into),
        };
        let Ok(command) = command else { return };
        // Everything that has arrived is seen by the next plan, not one command a plan.
        for command in command.into_iter().chain(inbox.try_iter()) {
            match command {
                Command::Submit(entry) => batcher.submit(entry),
                Command::Done { num_tokens, took } => batcher.batch_done(num_tokens, took),
                Command::Stop => return,
            }
        }
    }
}

/// Runs one batch and hands its rows, or the fault, to its requests. `out` is scratch memory kept
/// between batches.
pub fn execute(
    batch: &Batch,
    scorer: &mut dyn Scorer,
    out: &mut Vec<f32>,
    now: impl Fn() -> Instant,
) -> Outcome {
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
    if late_cancels == num_sequences {
        // Everybody left between planning and now.
        outcome.num_tokens = 0;
        return outcome;
    }
    for slice in &batch.slices {
        slice.answer.start(started);
    }
    let width = scorer.width();
    out.resize(num_sequences * width, 0.0);
    let scored = catch_unwind(AssertUnwindSafe(|| scorer.score(&batch.packed, out)));
    let finished = now();
    outcome.took = finished.saturating_duration_since(started);
    outcome.fault = match scored {
        Ok(Ok(())) => hand_out(batch, out, width, finished),
        Ok(Err(fault)) => Some(lose(batch, fault.to_string())),
        Err(panic) => Some(lose(batch, format!("the worker panicked: {}", panic_message(&*panic)))),
    };
    if let Some(fault) = &outcome.fault {
        tracing::error!(fault, num_sequences, "scores were lost");
    }
    outcome
}

/// Fills the answers. A row that is no number costs its own request the answer, and is a fault.
fn hand_out(batch: &Batch, out: &[f32], width: usize, now: Instant) -> Option<String> {
    let mut fault = None;
    for (slice, rows) in batch.rows(out, width) {
        if rows.iter().all(|value| value.is_finite()) {
            slice.answer.fill(slice.range.clone(), rows, now);
        } else {
            slice.answer.fail(device_failed());
            fault = Some("the model gave a score that is not a number".to_owned());
        }
    }
    fault
}

/// Tells every request of the batch that its scores are lost.
fn lose(batch: &Batch, fault: String) -> String {
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
