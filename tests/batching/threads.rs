//! Promises that need the real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rerankd::batch::{Batcher, Handle, Limits, Rate, Turns, Watch, spawn, spawn_on};
use rerankd::error::DeviceError;
use rerankd::health::Health;
use rerankd::metrics::Metrics;
use rerankd::model::Scorer;

use crate::support::*;

pub const LIMITS: Limits = Limits {
    max_batch_tokens: 64,
    max_batch_sequences: 8,
    max_queue_delay: Duration::from_micros(500),
};

fn start(device: impl Scorer + 'static, health: &Arc<Health>) -> Handle {
    let batcher = Batcher::new(LIMITS, Rate::new(1000.0), 1);
    let watch = Watch { limit: Duration::from_secs(600), probe_interval: Duration::from_secs(600) };
    spawn(batcher, vec![Box::new(device)], watch, &Arc::new(Metrics::new()), health)
        .expect("threads")
}

pub fn submit(
    handle: &Handle,
    seqlens: &[usize],
    salt: u32,
) -> (Arc<rerankd::batch::Sequences>, Receiver) {
    let sequences = sequences(seqlens, salt);
    let (entry, receiver) = entry(0, 1, &sequences, rerankd::clock::now(), None);
    handle.submit(entry).expect("the batcher runs");
    (sequences, receiver)
}

#[test]
fn one_cancelled_client_does_not_stop_the_batcher() {
    let handle = start(FakeDevice { behaviour: Behaviour::Well }, &Arc::default());
    for round in 0..50 {
        // Clients leave before, while and after their batch runs; a neighbour stays.
        let (_, leaver) = submit(&handle, &[5, 9, 60, 60, 3], round);
        let (wanted, stayer) = submit(&handle, &[7, 33, 60], 1000 + round);
        drop(leaver);
        let rows = stayer.blocking_recv().expect("an answer").expect("scores");
        assert!(is_right(&rows, &wanted), "round {round}");
    }
}

#[test]
fn a_panic_costs_its_own_requests_a_503_and_the_next_are_served() {
    quiet_injected_panics();
    /// Panics on the first batch only.
    struct Once(bool);
    impl Scorer for Once {
        fn width(&self) -> usize {
            2
        }
        fn score(
            &mut self,
            batch: &rerankd::engine::packed::Packed,
            out: &mut [f32],
        ) -> Result<(), DeviceError> {
            let behaviour = if self.0 { Behaviour::Panic } else { Behaviour::Well };
            self.0 = false;
            FakeDevice { behaviour }.score(batch, out)
        }
    }
    let health = Arc::new(Health::default());
    health.started();
    let handle = start(Once(true), &health);
    let (_, hit) = submit(&handle, &[5], 1);
    let error = hit.blocking_recv().expect("an answer").expect_err("its batch panicked");
    assert_eq!(error.verdict().status, 503);
    assert!(error.verdict().retry_after.is_some());
    let (wanted, next) = submit(&handle, &[5, 6], 2);
    let rows = next.blocking_recv().expect("an answer").expect("scores");
    assert!(is_right(&rows, &wanted));
    assert!(health.is_ready());
}

#[test]
fn three_lost_batches_in_a_row_make_the_server_not_ready() {
    let health = Arc::new(Health::default());
    health.started();
    let handle = start(FakeDevice { behaviour: Behaviour::Fault }, &health);
    for salt in 0..3 {
        assert!(health.is_ready());
        let (_, receiver) = submit(&handle, &[5], salt);
        assert!(receiver.blocking_recv().expect("an answer").is_err());
        // The answer goes out before the device thread tells its health.
        for _ in 0..1000 {
            if salt < 2 || !health.is_ready() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(!health.is_ready());
}

#[test]
fn models_of_one_device_never_compute_at_once_and_all_are_served() {
    /// Says if the device is asked while it computes.
    struct Device(Arc<AtomicBool>);
    impl Scorer for Device {
        fn width(&self) -> usize {
            2
        }
        fn score(
            &mut self,
            batch: &rerankd::engine::packed::Packed,
            out: &mut [f32],
        ) -> Result<(), DeviceError> {
            assert!(!self.0.swap(true, Ordering::SeqCst), "two models at once");
            std::thread::yield_now();
            let scored = FakeDevice { behaviour: Behaviour::Well }.score(batch, out);
            self.0.store(false, Ordering::SeqCst);
            scored
        }
    }
    let (turns, is_busy) = (Turns::default(), Arc::new(AtomicBool::new(false)));
    let watch = Watch { limit: Duration::from_secs(600), probe_interval: Duration::from_secs(600) };
    let start = |_| {
        let device: Box<dyn Scorer> = Box::new(Device(Arc::clone(&is_busy)));
        let batcher = Batcher::new(LIMITS, Rate::new(1000.0), 1);
        let on_device = vec![(device, turns.clone())];
        spawn_on(batcher, on_device, watch, &Arc::default(), &Arc::default()).expect("threads")
    };
    let models: Vec<Handle> = (0..3).map(start).collect();
    let requests: Vec<_> =
        (0..90).map(|salt| submit(&models[salt as usize % 3], &[60, 7, 33], salt)).collect();
    for (wanted, receiver) in requests {
        let rows = receiver.blocking_recv().expect("an answer").expect("scores");
        assert!(is_right(&rows, &wanted));
    }
}

#[test]
fn stopping_the_batcher_leaves_nobody_waiting() {
    let handle = start(FakeDevice { behaviour: Behaviour::Well }, &Arc::default());
    let receivers: Vec<_> = (0..20).map(|salt| submit(&handle, &[60; 20], salt).1).collect();
    drop(handle);
    for receiver in receivers {
        // Scores, or a closed channel that the caller answers with 503: never a hang.
        let _ = receiver.blocking_recv();
    }
}
