//! The batcher's threads: one plans and lays out, one for each device runs batches, one watches them.
//!
//! While a device computes, the batcher thread has the next batch ready for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::device::Shared;
use super::pulse::Pulse;
use super::run::FAULT_RETRY_AFTER;
use super::turns::Turns;
use super::watchdog::{Watch, Watchdog};
use super::{Batch, Batcher, Entry, MAX_IN_FLIGHT, Step};
use crate::clock;
use crate::error::{DeviceError, Error};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::Scorer;

pub(super) enum Command {
    Submit(Entry),
    Done { num_tokens: usize, took: Duration },
    Stop,
}

/// The running batcher. Dropping it stops its threads; what still waits is told so by its closed channel.
#[derive(Debug)]
pub struct Handle {
    /// Not bounded here: admission bounds requests and tokens before they come this far.
    commands: Sender<Command>,
    planner: Option<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
    /// Dropped to tell the watchdog.
    stop: Option<Sender<()>>,
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
        if let Some(planner) = self.planner.take() {
            let _ = planner.join();
        }
        self.stop = None;
        if let Some(watchdog) = self.watchdog.take() {
            let _ = watchdog.join();
        }
    }
}

/// Starts the batcher's thread, one for each device, and one that watches them. The devices are its own.
///
/// # Errors
/// The operating system has no thread to give.
pub fn spawn(
    batcher: Batcher,
    scorers: Vec<Box<dyn Scorer>>,
    watch: Watch,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> std::io::Result<Handle> {
    let on_devices = scorers.into_iter().map(|scorer| (scorer, Turns::default())).collect();
    spawn_on(batcher, on_devices, watch, metrics, health)
}

/// Like [`spawn`], on devices whose turns other batchers take too.
///
/// # Errors
/// The operating system has no thread to give.
pub fn spawn_on(
    batcher: Batcher,
    scorers: Vec<(Box<dyn Scorer>, Turns)>,
    watch: Watch,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> std::io::Result<Handle> {
    let (commands, inbox) = unbounded();
    // Room for every batch the batcher may have in flight, so that sending one never waits.
    let (batches, device_inbox) = bounded::<Batch>(MAX_IN_FLIGHT * scorers.len());
    let pulse = Arc::new(Pulse::default());
    let shared = Shared {
        inbox: device_inbox,
        done: commands.clone(),
        num_waiting: Arc::default(),
        metrics: Arc::clone(metrics),
        health: Arc::clone(health),
        probe_interval: watch.probe_interval,
    };
    let mut watchdog = Watchdog::new(watch, shared, Arc::clone(&pulse));
    let planner = std::thread::Builder::new().name("rerankd-batcher".into()).spawn({
        let (metrics, health) = (Arc::clone(metrics), Arc::clone(health));
        move || {
            let drive = || drive(batcher, &inbox, &batches, &metrics, &pulse);
            // Whoever waits hears it from the channels that the panic closed.
            if catch_unwind(AssertUnwindSafe(drive)).is_err() {
                health.device_ran(Some(&DeviceError::lost("the batcher panicked")));
            }
        }
    })?;
    for (scorer, turns) in scorers {
        watchdog.start(scorer, turns)?;
    }
    let (stop, stopped) = bounded(0);
    let watchdog = std::thread::Builder::new()
        .name("rerankd-watchdog".into())
        .spawn(move || watchdog.run(&stopped))?;
    Ok(Handle { commands, planner: Some(planner), watchdog: Some(watchdog), stop: Some(stop) })
}

/// The batcher thread: steps whenever something happens or the time it asked for has come.
fn drive(
    mut batcher: Batcher,
    inbox: &Receiver<Command>,
    batches: &Sender<Batch>,
    metrics: &Metrics,
    pulse: &Pulse,
) {
    loop {
        let now = clock::now();
        pulse.begins(None, now);
        let (step, swept) = batcher.step(now);
        metrics.swept(swept);
        pulse.ends(now);
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
