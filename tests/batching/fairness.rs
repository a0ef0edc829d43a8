//! Who is served when several want the device.

use std::time::Duration;

use rerankd::batch::{Batch, Batcher, Limits, Rate, Step};

use crate::support::*;

const LIMITS: Limits = Limits {
    max_batch_tokens: 2048,
    max_batch_sequences: 512,
    max_queue_delay: Duration::from_micros(500),
};

fn batcher() -> Batcher {
    Batcher::new(LIMITS, Rate::new(20_000.0), 1)
}

/// Runs batches one at a time, telling each to `seen`, until nothing is queued or `seen` says stop.
fn run(batcher: &mut Batcher, mut seen: impl FnMut(&Batch) -> bool) {
    let now = epoch();
    while let (Step::Run(batch), _) = batcher.step(now) {
        let go_on = seen(&batch);
        let (rows, tokens) =
            (vec![0.0; 2 * batch.packed.num_sequences()], batch.packed.num_tokens());
        for (slice, rows) in batch.rows(&rows, 2) {
            slice.answer.fill(slice.range.clone(), rows, now);
        }
        batcher.batch_done(tokens, ms(100));
        if !go_on {
            return;
        }
    }
}

#[test]
fn a_small_request_is_not_held_by_a_huge_one_of_the_same_tenant() {
    let now = epoch();
    let mut batcher = batcher();
    let (huge, _keep_huge) = entry(0, 1, &sequences(&[128; 5000], 1), now, None);
    batcher.submit(huge);
    run(&mut batcher, |_| false);
    run(&mut batcher, |_| false);
    let (small, mut answer) = entry(0, 1, &sequences(&[100; 20], 2), now + ms(10), None);
    batcher.submit(small);
    let mut batches = 0;
    run(&mut batcher, |_| {
        batches += 1;
        batches < 1
    });
    assert!(answer.try_recv().is_ok(), "20 documents wait for one batch at most");
}

#[test]
fn a_huge_request_is_not_starved_by_a_stream_of_small_ones() {
    let start = epoch();
    let mut batcher = batcher();
    let (huge, mut answer) = entry(0, 1, &sequences(&[128; 160], 1), start, None);
    batcher.submit(huge);
    let mut keep = Vec::new();
    // Every 100 ms a full batch of small requests arrives, and one batch is run: the small ones alone
    // would keep the device busy for ever.
    for tick in 0..200u32 {
        let now = start + tick * ms(100);
        for part in 0..2 {
            let (small, receiver) =
                entry(0, 1, &sequences(&[128; 8], 10 + 2 * tick + part), now, None);
            batcher.submit(small);
            keep.push(receiver);
        }
        if let (Step::Run(batch), _) = batcher.step(now) {
            for (slice, rows) in batch.rows(&vec![0.0; 2 * batch.packed.num_sequences()], 2) {
                slice.answer.fill(slice.range.clone(), rows, now);
            }
            batcher.batch_done(batch.packed.num_tokens(), ms(100));
        }
        if answer.try_recv().is_ok() {
            return;
        }
    }
    panic!("ten batches of work were not done within 200");
}

#[test]
fn a_small_tenant_is_served_within_two_batches_of_a_large_one() {
    let now = epoch();
    let mut batcher = batcher();
    let (flood, _keep) = entry(1, 1, &sequences(&[200; 3000], 1), now, None);
    batcher.submit(flood);
    run(&mut batcher, |_| false);
    let (light, mut answer) = entry(2, 1, &sequences(&[100; 18], 2), now, None);
    batcher.submit(light);
    let mut batches = 0;
    run(&mut batcher, |_| {
        batches += 1;
        batches < 2
    });
    assert!(answer.try_recv().is_ok());
}

#[test]
fn the_nearest_deadline_in_danger_goes_first() {
    let now = epoch();
    let mut batcher = batcher();
    let (patient, mut late) = entry(0, 1, &sequences(&[128; 160], 1), now, None);
    let (urgent, mut first) = entry(0, 1, &sequences(&[128; 16], 2), now, Some(now + ms(150)));
    batcher.submit(patient);
    batcher.submit(urgent);
    run(&mut batcher, |_| false);
    assert!(first.try_recv().is_ok() && late.try_recv().is_err());
}

#[test]
fn usual_requests_end_in_the_order_they_came() {
    let start = epoch();
    let mut batcher = batcher();
    let mut answers: Vec<_> = (0..10)
        .map(|i| {
            let (entry, receiver) =
                entry(0, 1, &sequences(&[135; 20], i), start + ms(u64::from(i)), None);
            batcher.submit(entry);
            receiver
        })
        .collect();
    let mut done = 0;
    run(&mut batcher, |_| {
        // All before the first unanswered one have their answer, and none after it.
        while done < answers.len() && answers[done].try_recv().is_ok() {
            done += 1;
        }
        assert!(answers[done..].iter_mut().all(|later| later.try_recv().is_err()));
        true
    });
    assert!(answers[done..].iter_mut().all(|last| last.try_recv().is_ok()));
}
