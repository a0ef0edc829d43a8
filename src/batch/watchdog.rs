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

/// Workers of a model that were given up and hang on. Each keeps its threads and its activations, and where it is
/// only slow it slows down the next, so that they would pile up: where so many hang at once, a new process is
/// the better cure.
const MAX_HANGING: usize = 4;

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
    /// Given up, and not ended yet when last looked at: at most [`MAX_HANGING`].
    hanging: Vec<JoinHandle<()>>,
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
        Self { watch, shared, planner, workers: Vec::new(), hanging: Vec::new() }
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
        self.hanging.retain(|thread| !thread.is_finished());
        let (shared, hanging) = (&self.shared, &mut self.hanging);
        self.workers.retain_mut(|worker| match worker.pulse.give_up(now, limit) {
            None => true,
            Some(held) => worker.given_up(&held, limit, shared, hanging),
        });
    }
}

impl Worker {
    /// Answers for a thread that hangs, and puts another in its place; false if there is none.
    fn given_up(
        &mut self,
        held: &[Arc<Batch>],
        limit: Duration,
        shared: &Shared,
        hanging: &mut Vec<JoinHandle<()>>,
    ) -> bool {
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
        let replaced = self.replace(shared, hanging);
        if let Err(fault) = &replaced {
            tracing::error!(%fault, "no new worker can be made");
            shared.health.device_ran(Some(fault));
        }
        replaced.is_ok()
    }

    fn replace(
        &mut self,
        shared: &Shared,
        hanging: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), DeviceError> {
        if hanging.len() >= MAX_HANGING {
            let message = format!("{MAX_HANGING} workers that were replaced hang still");
            return Err(DeviceError::lost(message));
        }
        let spare = self.spare.as_ref();
        let spare = spare.ok_or_else(|| DeviceError::lost("the device has only one worker"))?;
        // Without a worker nothing is served here any more.
        let scorer = spare().map_err(|fault| DeviceError::lost(fault.message))?;
        let (pulse, seat) = (Arc::new(Pulse::default()), Arc::new(self.turns.seat()));
        let signs = (Arc::clone(&pulse), Arc::clone(&seat));
        let thread = start(scorer, Some(spare.clone()), signs, &self.name, shared)
            .map_err(|error| DeviceError::lost(error.to_string()))?;
        hanging.push(std::mem::replace(&mut self.thread, thread));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{Sender, bounded, unbounded};

    use super::*;
    use crate::engine::packed::Packed;
    use crate::health::Health;

    const WATCH: Watch =
        Watch { limit: Duration::from_secs(60), probe_interval: Duration::from_secs(600) };

    /// Hangs over every batch until it is let go.
    #[derive(Clone)]
    struct Stuck {
        gate: Receiver<()>,
        num_spares: Arc<AtomicUsize>,
    }

    impl Scorer for Stuck {
        fn width(&self) -> usize {
            1
        }

        fn spare(&self) -> Option<Spare> {
            let stuck = self.clone();
            Some(Arc::new(move || {
                stuck.num_spares.fetch_add(1, Ordering::AcqRel);
                Ok(Box::new(stuck.clone()))
            }))
        }

        fn score(&mut self, _: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
            let _ = self.gate.recv();
            out.fill(0.0);
            Ok(())
        }
    }

    struct Watched {
        watchdog: Watchdog,
        batches: Sender<Batch>,
        /// Lets one hanging worker go; all of them when dropped.
        gate: Sender<()>,
        num_spares: Arc<AtomicUsize>,
    }

    impl Watched {
        fn start() -> Self {
            let (batches, inbox) = bounded(1);
            let (gate, at_gate) = bounded(0);
            let shared = Shared {
                inbox,
                done: unbounded().0,
                num_waiting: Arc::default(),
                metrics: Arc::default(),
                health: Arc::new(Health::default()),
                probe_interval: WATCH.probe_interval,
            };
            let num_spares = Arc::<AtomicUsize>::default();
            let stuck = Stuck { gate: at_gate, num_spares: Arc::clone(&num_spares) };
            let mut watchdog = Watchdog::new(WATCH, shared, Arc::default());
            watchdog.start(Box::new(stuck), Turns::default()).unwrap();
            Self { watchdog, batches, gate, num_spares }
        }

        /// Looks, an hour later, until something has come to pass.
        fn look_until(&mut self, holds: impl Fn(&Watchdog) -> bool) {
            for _ in 0..20_000 {
                self.watchdog.look(clock::now() + Duration::from_secs(3600));
                if holds(&self.watchdog) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("it never came to pass");
        }

        /// Gives the worker a batch to hang over; whether another took its place.
        fn hangs_and_is_replaced(&mut self) -> bool {
            let mut packed = Packed::with_capacity(1, 1);
            packed.push(&[0], 1);
            self.batches.send(Batch { packed, slices: Vec::new() }).unwrap();
            let hanging = self.watchdog.hanging.len();
            let is_lost = |dog: &Watchdog| dog.shared.health.is_lost();
            self.look_until(|dog| dog.hanging.len() > hanging || is_lost(dog));
            !is_lost(&self.watchdog)
        }
    }

    #[test]
    fn workers_that_hang_on_pile_up_to_a_bound_and_then_the_server_ends() {
        let mut watched = Watched::start();
        for _ in 0..MAX_HANGING {
            assert!(watched.hangs_and_is_replaced());
        }
        assert!(!watched.hangs_and_is_replaced());
        assert_eq!(watched.num_spares.load(Ordering::Acquire), MAX_HANGING, "none made in vain");
    }

    #[test]
    fn a_hanging_worker_that_ends_makes_room_for_the_next() {
        let mut watched = Watched::start();
        for _ in 0..MAX_HANGING {
            assert!(watched.hangs_and_is_replaced());
        }
        watched.gate.send(()).unwrap();
        watched.look_until(|dog| dog.hanging.len() < MAX_HANGING);
        assert!(watched.hangs_and_is_replaced());
    }
}
