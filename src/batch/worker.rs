//! The batcher's threads: one plans and lays out, one for each device runs batches.
//!
//! While a device computes, the batcher thread has the next batch ready for it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::device::{Device, FAULT_RETRY_AFTER};
use super::{Batch, Batcher, Entry, MAX_IN_FLIGHT, Step};
use crate::clock;
use crate::error::Error;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::Scorer;

pub(super) enum Command {
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

/// Starts the batcher's thread and one for each device.
///
/// # Errors
/// The operating system has no thread to give.
pub fn spawn(
    batcher: Batcher,
    scorers: Vec<Box<dyn Scorer>>,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> std::io::Result<Handle> {
    let (commands, inbox) = unbounded();
    // Room for every batch the batcher may have in flight, so that sending one never waits.
    let (batches, device_inbox) = bounded::<Batch>(MAX_IN_FLIGHT * scorers.len());
    let num_waiting = Arc::new(AtomicUsize::new(0));
    let planner = std::thread::Builder::new().name("rerankd-batcher".into()).spawn({
        let metrics = Arc::clone(metrics);
        move || drive(batcher, &inbox, &batches, &metrics)
    })?;
    let mut threads = vec![planner];
    for (i, scorer) in scorers.into_iter().enumerate() {
        let device = Device {
            scorer,
            inbox: device_inbox.clone(),
            done: commands.clone(),
            num_waiting: Arc::clone(&num_waiting),
            metrics: Arc::clone(metrics),
            health: Arc::clone(health),
        };
        let thread = std::thread::Builder::new().name(format!("rerankd-device-{i}"));
        threads.push(thread.spawn(move || device.run())?);
    }
    Ok(Handle { commands, threads })
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
