//! Looks after the batcher's threads: what hangs is given up, and another put in its place.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::Batch;
use super::device::{Device, Shared};
use super::pulse::Pulse;
use super::run::lose;
use super::turns::{Seat, Turns};
use super::worker::Command;
use crate::clock;
use crate::error::DeviceError;
use crate::model::{Scorer, Spare};

/// How long threads may take, and how often they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// For one batch on a device. Nothing that works takes so long.
    pub limit: Duration,
    /// An idle device is asked for a score this often.
    pub probe_interval: Duration,
}

pub(super) struct Watchdog {
    watch: Watch,
    shared: Shared,
    planner: Arc<Pulse>,
    workers: Vec<Worker>,
}

/// A device's thread, as seen from outside.
struct Worker {
    /// Never joined: one that hangs would hang whoever waits.
    thread: JoinHandle<()>,
    pulse: Arc<Pulse>,
    seat: Arc<Seat>,
    turns: Turns,
    spare: Option<Spare>,
    name: String,
}

impl Watchdog {
    pub(super) fn new(watch: Watch, shared: Shared, planner: Arc<Pulse>) -> Self {
        Self { watch, shared, planner, workers: Vec::new() }
    }

    /// Starts a device's thread.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub(super) fn start(&mut self, scorer: Box<dyn Scorer>, turns: Turns) -> std::io::Result<()> {
        let spare = scorer.spare();
        let name = format!("rerankd-device-{}", self.workers.len());
        let pulse = Arc::new(Pulse::default());
        let seat = Arc::new(turns.seat());
        let signs = (Arc::clone(&pulse), Arc::clone(&seat));
        let thread = start(scorer, spare.clone(), signs, &name, &self.shared)?;
        self.workers.push(Worker { thread, pulse, seat, turns, spare, name });
        Ok(())
    }

    /// Until `stop` is closed and every thread has ended or is given up.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        // An eighth more than the limit is as good as the limit.
        while stop.recv_timeout(self.watch.limit / 8) == Err(RecvTimeoutError::Timeout) {
            self.look(clock::now());
        }
        while !self.workers.is_empty() {
            let (now, limit) = (clock::now(), self.watch.limit);
            self.workers.retain(|Worker { thread, pulse, seat, .. }| {
                let is_over = thread.is_finished() || pulse.give_up(now, limit).is_some();
                if is_over {
                    seat.leave();
                }
                !is_over
            });
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn look(&mut self, now: Instant) {
        let limit = self.watch.limit;
        if self.planner.give_up(now, limit).is_some() {
            self.shared.health.device_ran(Some(&DeviceError::lost("the batcher hangs")));
        }
        let shared = &self.shared;
        self.workers.retain_mut(|worker| match worker.pulse.give_up(now, limit) {
            None => true,
            Some(held) => worker.given_up(&held, limit, shared),
        });
    }
}

impl Worker {
    /// Answers for a thread that hangs, and puts another in its place; false if there is none.
    fn given_up(&mut self, held: &[Arc<Batch>], limit: Duration, shared: &Shared) -> bool {
        let fault = DeviceError::new(format!("no answer in {limit:?}"));
        tracing::error!(worker = self.name, %fault, "a worker hangs and is given up");
        self.seat.leave();
        for batch in held {
            lose(batch, fault.clone());
            // The batcher may be gone, and with it whoever waits.
            let _ = shared.done.send(Command::Done { num_tokens: 0, took: limit });
        }
        shared.metrics.worker_hung();
        shared.health.device_ran(Some(&fault));
        let replaced = self.replace(shared);
        if let Err(fault) = &replaced {
            tracing::error!(%fault, "no new worker can be made");
            shared.health.device_ran(Some(fault));
        }
        replaced.is_ok()
    }

    fn replace(&mut self, shared: &Shared) -> Result<(), DeviceError> {
        let spare = self.spare.as_ref();
        let spare = spare.ok_or_else(|| DeviceError::lost("the device has only one worker"))?;
        // Without a worker nothing is served here any more.
        let scorer = spare().map_err(|fault| DeviceError::lost(fault.message))?;
        let (pulse, seat) = (Arc::new(Pulse::default()), Arc::new(self.turns.seat()));
        let signs = (Arc::clone(&pulse), Arc::clone(&seat));
        self.thread = start(scorer, Some(spare.clone()), signs, &self.name, shared)
            .map_err(|error| DeviceError::lost(error.to_string()))?;
        (self.pulse, self.seat) = (pulse, seat);
        shared.metrics.worker_replaced();
        Ok(())
    }
}

fn start(
    scorer: Box<dyn Scorer>,
    spare: Option<Spare>,
    (pulse, seat): (Arc<Pulse>, Arc<Seat>),
    name: &str,
    shared: &Shared,
) -> std::io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    let device = Device { scorer, spare, pulse, seat, shared, faults_in_a_row: 0 };
    std::thread::Builder::new().name(name.to_owned()).spawn(move || device.run())
}
