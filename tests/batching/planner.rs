//! The planner as a function of what it sees.

use std::time::Duration;

use rerankd::batch::{Batcher, Limits, Rate, Step};

use crate::support::*;

const LIMITS: Limits = Limits {
    max_batch_tokens: 100,
    max_batch_sequences: 4,
    max_queue_delay: Duration::from_millis(5),
};

fn batcher() -> Batcher {
    Batcher::new(LIMITS, Rate::new(1000.0), 1)
}

#[test]
fn an_idle_device_never_waits() {
    let now = epoch();
    let mut batcher = batcher();
    let (one, _keep) = entry(0, 1, &sequences(&[3], 1), now, None);
    batcher.submit(one);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
}

#[test]
fn a_busy_device_lets_a_request_wait_for_company_but_no_longer_than_the_delay() {
    let now = epoch();
    let mut batcher = batcher();
    let (first, _keep_first) = entry(0, 1, &sequences(&[3], 1), now, None);
    batcher.submit(first);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
    let (second, _keep_second) = entry(0, 1, &sequences(&[3], 2), now, None);
    batcher.submit(second);
    assert!(matches!(batcher.step(now + ms(1)).0, Step::WaitUntil(at) if at == now + ms(5)));
    assert!(matches!(batcher.step(now + ms(5)).0, Step::Run(_)));
}

#[test]
fn a_full_batch_does_not_wait_for_the_delay() {
    let now = epoch();
    let mut batcher = batcher();
    let (first, _keep_first) = entry(0, 1, &sequences(&[3], 1), now, None);
    batcher.submit(first);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
    let (second, _keep_second) = entry(0, 1, &sequences(&[50, 50], 2), now, None);
    batcher.submit(second);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
}

#[test]
fn one_batch_is_prefetched_and_no_more() {
    let now = epoch();
    let mut batcher = batcher();
    let (many, _keep) = entry(0, 1, &sequences(&[90; 10], 1), now, None);
    batcher.submit(many);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
    assert!(matches!(batcher.step(now).0, Step::Wait));
    batcher.batch_done(90, ms(90));
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
}

#[test]
fn a_sequence_longer_than_the_budget_goes_alone_and_blocks_nobody() {
    let now = epoch();
    let mut batcher = batcher();
    let (long, _keep) = entry(0, 1, &sequences(&[5, 300, 5], 1), now, None);
    batcher.submit(long);
    let mut sizes = Vec::new();
    while let (Step::Run(batch), _) = batcher.step(now) {
        sizes.push(batch.packed.num_tokens());
        batcher.batch_done(1, ms(1));
    }
    assert_eq!(sizes, [5, 300, 5]);
}

#[test]
fn requests_of_several_clients_share_a_batch() {
    let now = epoch();
    let mut batcher = batcher();
    let clients: Vec<_> =
        (0..4).map(|salt| entry(0, 1, &sequences(&[20], salt), now, None)).collect();
    let mut keep = Vec::new();
    for (entry, receiver) in clients {
        batcher.submit(entry);
        keep.push(receiver);
    }
    let (Step::Run(batch), _) = batcher.step(now) else { panic!("work is waiting") };
    assert_eq!(batch.slices.len(), 4);
    assert_eq!(batch.packed.cu_seqlens, [0, 20, 40, 60, 80]);
}

#[test]
fn an_expired_request_is_answered_and_never_reaches_the_device() {
    let now = epoch();
    let mut batcher = batcher();
    let (late, mut answer) = entry(0, 1, &sequences(&[3], 1), now, Some(now + ms(2)));
    batcher.submit(late);
    let (step, swept) = batcher.step(now + ms(2));
    assert!(matches!(step, Step::Wait));
    assert_eq!(swept.expired, 1);
    let error = answer.try_recv().expect("an answer").expect_err("too late");
    assert_eq!(error.verdict().status, 504);
}

#[test]
fn a_cancelled_request_never_reaches_the_device() {
    let now = epoch();
    let mut batcher = batcher();
    let (gone, receiver) = entry(0, 1, &sequences(&[3], 1), now, None);
    batcher.submit(gone);
    drop(receiver);
    let (step, swept) = batcher.step(now);
    assert!(matches!(step, Step::Wait));
    assert_eq!(swept.closed, 1);
}
