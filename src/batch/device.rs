//! A device's thread: takes batches and runs them, and asks an idle device whether it still computes right.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::Batch;
use super::pulse::Pulse;
use super::run::Run;
use super::turns::Seat;
use super::worker::Command;
use crate::clock;
use crate::engine::packed::Packed;
use crate::error::DeviceError;
use crate::health::{Health, LAST_FAULT};
use crate::metrics::{Metrics, Outcome};
use crate::model::{Scorer, Spare};

/// How often a computing device is asked whether it is done, while the next batch may arrive.
const POLL: Duration = Duration::from_micros(50);

/// What no rounding explains, relative to the row.
const PROBE_TOLERANCE: f32 = 0.02;

/// What a device's thread shares with the others.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) inbox: Receiver<Batch>,
    pub(super) done: Sender<Command>,
    /// Devices with nothing to do: a busy one takes no second batch from them.
    pub(super) num_waiting: Arc<AtomicUsize>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) probe_interval: Duration,
}

/// What a device's thread works with.
pub(super) struct Device {
    pub(super) scorer: Box<dyn Scorer>,
    pub(super) spare: Option<Spare>,
    pub(super) pulse: Arc<Pulse>,
    /// In the line for a device that models share.
    pub(super) seat: Arc<Seat>,
    pub(super) shared: Shared,
    pub(super) faults_in_a_row: u32,
}

/// What a device has to do.
enum Next {
    /// A batch, and whether the device has it already.
    Batch(Arc<Batch>, bool),
    /// Nothing came for a while.
    Quiet,
    /// The batcher is gone.
    Over,
}

impl Device {
    /// Until the batcher is gone, or the watchdog gave this thread up and another has its place.
    pub(super) fn run(mut self) {
        let mut out = Vec::new();
        let mut ahead = None;
        let mut probe = Probe::new();
        self.scorer.give_way();
        loop {
            let goes_on = match self.next(ahead.take()) {
                Next::Batch(batch, has_begun) => {
                    self.batch(&batch, has_begun, &mut ahead, &mut out)
                }
                Next::Quiet => self.probe(&mut probe, &mut out),
                Next::Over => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// The batch begun ahead, or the next to arrive.
    fn next(&self, ahead: Option<Arc<Batch>>) -> Next {
        if let Some(batch) = ahead {
            return Next::Batch(batch, self.scorer.num_begun() > 0);
        }
        let Shared { inbox, num_waiting, probe_interval, .. } = &self.shared;
        num_waiting.fetch_add(1, Ordering::Relaxed);
        let batch = inbox.recv_timeout(*probe_interval);
        num_waiting.fetch_sub(1, Ordering::Relaxed);
        match batch {
            Ok(batch) => Next::Batch(Arc::new(batch), false),
            Err(RecvTimeoutError::Timeout) => Next::Quiet,
            Err(RecvTimeoutError::Disconnected) => Next::Over,
        }
    }

    /// Runs a batch; false when this thread has to end.
    fn batch(
        &mut self,
        batch: &Arc<Batch>,
        has_begun: bool,
        ahead: &mut Option<Arc<Batch>>,
        out: &mut Vec<f32>,
    ) -> bool {
        let Shared { inbox, num_waiting, .. } = &self.shared;
        let (pulse, seat) = (&self.pulse, &self.seat);
        let came = clock::now();
        seat.take(batch);
        let begun = clock::now();
        pulse.begins(Some(batch), begun);
        let meanwhile = |scorer: &mut dyn Scorer| {
            if !has_begun {
                scorer.begin(&batch.packed);
            }
            // What is begun ahead keeps the turn.
            while ahead.is_none() && !scorer.is_done() && !seat.is_wanted() {
                *ahead = next_meanwhile(inbox, num_waiting).map(Arc::new);
                if let Some(next) = ahead {
                    pulse.holds(next);
                    scorer.begin(&next.packed);
                }
            }
        };
        let run = Run { batch, has_begun, meanwhile };
        let outcome = run.execute(&mut *self.scorer, out, clock::now);
        if !self.pulse.ends(clock::now()) {
            return false;
        }
        self.seat.used(batch, outcome.took);
        if ahead.is_none() {
            self.seat.leave();
        }
        self.shared.metrics.batch(&outcome);
        self.judge(outcome.fault.as_ref());
        let Outcome { num_tokens, took, .. } = outcome;
        // The speed that counts is what is left of the device beside other models.
        let took = took + begun.saturating_duration_since(came);
        self.shared.done.send(Command::Done { num_tokens, took }).is_ok()
    }

    /// Asks the device for scores it gave before; false when this thread has to end.
    fn probe(&mut self, probe: &mut Probe, out: &mut Vec<f32>) -> bool {
        self.pulse.begins(None, clock::now());
        let run = Run { batch: &probe.batch, has_begun: false, meanwhile: |_: &mut dyn Scorer| {} };
        let outcome = run.execute(&mut *self.scorer, out, clock::now);
        if !self.pulse.ends(clock::now()) {
            return false;
        }
        let fault = outcome.fault.or_else(|| probe.compare(out));
        if let Some(fault) = &fault {
            tracing::error!(%fault, "the probe of an idle device failed");
            self.shared.metrics.probe_failed();
        }
        self.judge(fault.as_ref());
        true
    }

    /// Tells the health, and puts a new worker in the place of one that failed.
    fn judge(&mut self, fault: Option<&DeviceError>) {
        self.shared.health.device_ran(fault);
        self.faults_in_a_row = fault.map_or(0, |_| self.faults_in_a_row + 1);
        if self.faults_in_a_row == LAST_FAULT {
            // Where another device is well, the health of all would not show it.
            let fault = DeviceError::lost("the device keeps failing");
            self.shared.health.device_ran(Some(&fault));
        }
        let (Some(_), Some(spare)) = (fault, &self.spare) else { return };
        match spare() {
            Ok(scorer) => {
                self.scorer = scorer;
                self.scorer.give_way();
                self.shared.metrics.worker_replaced();
            }
            // The old one gets another chance, and its faults are counted.
            Err(fault) => tracing::error!(%fault, "no new worker can be made"),
        }
    }
}

/// A short sequence, and the row it had at first, when the golden pairs had just come out.
struct Probe {
    batch: Batch,
    row: Option<Vec<f32>>,
}

impl Probe {
    fn new() -> Self {
        const NUM_TOKENS: usize = 8;
        let mut packed = Packed::with_capacity(NUM_TOKENS, 1);
        packed.push(&[0; NUM_TOKENS], NUM_TOKENS / 2);
        Self { batch: Batch { packed, slices: Vec::new() }, row: None }
    }

    fn compare(&mut self, row: &[f32]) -> Option<DeviceError> {
        let expected = self.row.get_or_insert_with(|| row.to_vec());
        // Asked this way round, a NaN fails too, and is never what is expected later.
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= PROBE_TOLERANCE * (1.0 + b.abs());
        if row.iter().zip(&*expected).all(is_close) {
            return None;
        }
        if expected.iter().any(|value| !value.is_finite()) {
            self.row = None;
        }
        Some(DeviceError::new("an idle device gives other scores than before"))
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
