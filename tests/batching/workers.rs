//! Workers that panic, hang, fail or give no numbers: their requests hear of it, and another takes their place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver as End, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rerankd::batch::{Batcher, Handle, Rate, Turns, Watch, spawn, spawn_on};
use rerankd::engine::packed::Packed;
use rerankd::error::DeviceError;
use rerankd::health::{Health, State};
use rerankd::metrics::{Load, Metrics};
use rerankd::model::{Scorer, Spare};

use crate::support::*;
use crate::threads::{LIMITS, submit};

/// What the workers of one device do with their batches, in turn; well when nothing is left.
#[derive(Clone)]
struct Script {
    turns: Arc<Mutex<VecDeque<Turn>>>,
    num_made: Arc<AtomicUsize>,
    has_spare: bool,
}

enum Turn {
    Behave(Behaviour),
    /// Until the other end is dropped.
    Hang(End<()>),
}

impl Script {
    fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
        let turns = Arc::new(Mutex::new(turns.into_iter().collect()));
        Self { turns, num_made: Arc::default(), has_spare: true }
    }

    fn behave(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        Self::new(behaviours.into_iter().map(Turn::Behave))
    }

    /// A hang, and what ends it.
    fn hang() -> (Self, Sender<()>) {
        let (release, hang) = channel();
        (Self::new([Turn::Hang(hang)]), release)
    }

    fn num_made(&self) -> usize {
        self.num_made.load(Ordering::Acquire)
    }
}

impl Scorer for Script {
    fn width(&self) -> usize {
        2
    }

    fn spare(&self) -> Option<Spare> {
        let script = self.clone();
        let make = move || -> Result<Box<dyn Scorer>, DeviceError> {
            script.num_made.fetch_add(1, Ordering::AcqRel);
            Ok(Box::new(script.clone()))
        };
        self.has_spare.then(|| Arc::new(make) as Spare)
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        let turn = self.turns.lock().expect("no test panics with it").pop_front();
        let behaviour = match turn {
            None => Behaviour::Well,
            Some(Turn::Behave(behaviour)) => behaviour,
            Some(Turn::Hang(hang)) => {
                // Ends with an error when the test lets go.
                let _ = hang.recv();
                Behaviour::Well
            }
        };
        FakeDevice { behaviour }.score(batch, out)
    }
}

struct Running {
    handle: Handle,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    salt: AtomicUsize,
}

/// Nothing hangs for so long, and nobody asks the idle.
const PATIENT: Watch =
    Watch { limit: Duration::from_secs(600), probe_interval: Duration::from_secs(600) };

fn start(script: &Script, watch: Watch) -> Running {
    start_on(&Turns::default(), script, watch)
}

/// A model on a device that others may share.
fn start_on(turns: &Turns, script: &Script, watch: Watch) -> Running {
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    health.started();
    let batcher = Batcher::new(LIMITS, Rate::new(1000.0), 1);
    let scorer: Box<dyn Scorer> = Box::new(script.clone());
    let on_devices = vec![(scorer, turns.clone())];
    let handle = spawn_on(batcher, on_devices, watch, &metrics, &health).expect("threads");
    Running { handle, health, metrics, salt: AtomicUsize::new(0) }
}

impl Running {
    /// Scores a request; whether its rows were right, or the error it got.
    fn request(&self) -> Result<(), rerankd::error::Error> {
        let salt = self.salt.fetch_add(1, Ordering::Relaxed) as u32;
        let (wanted, receiver) = submit(&self.handle, &[5, 6], salt);
        let rows = receiver.blocking_recv().expect("an answer")?;
        assert!(is_right(&rows, &wanted), "request {salt}");
        Ok(())
    }

    #[track_caller]
    fn assert_503(&self) {
        let verdict = self.request().expect_err("its worker failed").verdict();
        assert_eq!(verdict.status, 503);
        assert!(verdict.retry_after.is_some());
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.metrics.render(Load::default(), true);
        let line = page.lines().find(|line| line.starts_with(name)).expect("the metric");
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }
}

#[track_caller]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came to pass that {what}");
}

#[test]
fn a_worker_that_panics_fails_or_gives_no_number_is_replaced() {
    quiet_injected_panics();
    for behaviour in [Behaviour::Panic, Behaviour::Fault, Behaviour::NotANumber] {
        let script = Script::behave([behaviour]);
        let running = start(&script, PATIENT);
        running.assert_503();
        assert_eq!(running.request(), Ok(()), "after {behaviour:?}");
        assert_eq!(script.num_made(), 1, "after {behaviour:?}");
        assert_eq!(running.metric("rerank_replaced_workers_total"), 1.0);
        assert_eq!(running.metric("rerank_device_faults_total"), 1.0);
        assert!(running.health.is_ready());
    }
}

#[test]
fn a_worker_that_hangs_holds_up_no_other_model_of_its_device() {
    let turns = Turns::default();
    let (script, release) = Script::hang();
    let limit = Duration::from_secs(1);
    let hanging = start_on(&turns, &script, Watch { limit, ..PATIENT });
    let other = start_on(&turns, &Script::new([]), PATIENT);
    hanging.assert_503();
    for _ in 0..5 {
        assert_eq!(other.request(), Ok(()));
        assert_eq!(hanging.request(), Ok(()), "its next worker takes turns like any");
    }
    drop(release);
}

#[test]
fn a_worker_that_hangs_is_given_up_and_another_serves() {
    let (script, release) = Script::hang();
    let running = start(&script, Watch { limit: Duration::from_secs(1), ..PATIENT });
    running.assert_503();
    for _ in 0..5 {
        assert_eq!(running.request(), Ok(()));
    }
    assert_eq!(script.num_made(), 1);
    assert!(running.health.is_ready());
    // It comes back to find itself replaced: its scores go nowhere, and it counts nothing.
    drop(release);
    for _ in 0..5 {
        assert_eq!(running.request(), Ok(()));
    }
    assert_eq!(running.metric("rerank_device_faults_total"), 1.0);
    // An answer goes out before it is counted.
    eventually("the others are counted", || running.metric("rerank_batches_total") == 10.0);
}

#[test]
fn a_device_without_a_spare_that_hangs_ends_the_server() {
    let (mut script, _release) = Script::hang();
    script.has_spare = false;
    let running = start(&script, Watch { limit: Duration::from_secs(1), ..PATIENT });
    running.assert_503();
    eventually("the server ends", || running.health.state() == State::Lost);
}

#[test]
fn a_hang_does_not_hold_up_the_end() {
    let (script, _release) = Script::hang();
    let running = start(&script, Watch { limit: Duration::from_secs(1), ..PATIENT });
    let (_, receiver) = submit(&running.handle, &[5], 1);
    drop(running);
    // Told by the watchdog or by the closed channel.
    assert!(receiver.blocking_recv().map_or(true, |answer| answer.is_err()));
}

#[test]
fn a_faulty_device_is_ready_again_when_its_probe_comes_out() {
    let script = Script::behave([Behaviour::Fault; 3]);
    let probing = Watch { probe_interval: Duration::from_millis(200), ..PATIENT };
    let running = start(&script, probing);
    let mut was_faulty = false;
    for _ in 0..3 {
        // A probe may meet a fault in a request's place.
        let _ = running.request();
        was_faulty |= running.health.state() == State::Faulty;
    }
    eventually("the probe comes out", || running.health.is_ready());
    assert_eq!(running.request(), Ok(()));
    assert!(was_faulty || script.num_made() >= 1);
}

#[test]
fn a_device_that_keeps_failing_ends_the_server_with_nobody_asking() {
    let script = Script::behave([Behaviour::NotANumber; 100]);
    let probing = Watch { probe_interval: Duration::from_millis(5), ..PATIENT };
    let running = start(&script, probing);
    eventually("the server ends", || running.health.state() == State::Lost);
    assert!(running.metric("rerank_failed_probes_total") >= 3.0);
    assert!(script.num_made() >= 3, "each got another worker");
}

#[test]
fn one_of_two_devices_that_keeps_failing_ends_the_server() {
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    health.started();
    let batcher = Batcher::new(LIMITS, Rate::new(1000.0), 2);
    let failing = Script::behave([Behaviour::Fault; 100]);
    let scorers: Vec<Box<dyn Scorer>> = vec![Box::new(Script::new([])), Box::new(failing)];
    let probing = Watch { probe_interval: Duration::from_millis(5), ..PATIENT };
    let _handle = spawn(batcher, scorers, probing, &metrics, &health);
    eventually("the server ends", || health.state() == State::Lost);
}

#[test]
fn a_device_that_gives_other_scores_than_at_first_is_found_out() {
    /// Right once, then off by as much as no rounding explains.
    struct Drifting(bool);
    impl Scorer for Drifting {
        fn width(&self) -> usize {
            2
        }
        fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
            FakeDevice { behaviour: Behaviour::Well }.score(batch, out)?;
            if std::mem::replace(&mut self.0, true) {
                out[0] += 1.0 + out[0].abs();
            }
            Ok(())
        }
    }
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    health.started();
    let batcher = Batcher::new(LIMITS, Rate::new(1000.0), 1);
    let probing = Watch { probe_interval: Duration::from_millis(5), ..PATIENT };
    let _handle = spawn(batcher, vec![Box::new(Drifting(false))], probing, &metrics, &health);
    eventually("it is not trusted", || !health.is_ready());
}
