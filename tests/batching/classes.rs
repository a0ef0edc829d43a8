//! Which requests come before which: classes over tenants, priorities within one.

use std::time::Duration;

use rerankd::batch::{Batcher, Class, Limits, MAX_BATCHES_PASSED, Rate, Share, Step, TenantId};

use crate::support::*;

const LIMITS: Limits = Limits {
    max_batch_tokens: 2048,
    max_batch_sequences: 512,
    max_queue_delay: Duration::from_micros(500),
};

fn of(class: Class) -> Share {
    Share { tenant: TenantId(class as u32), weight: 1, class }
}

fn batcher() -> Batcher {
    Batcher::new(LIMITS, Rate::new(20_000.0), 1)
}

/// Runs one batch; the tokens it held of sequences of each length.
fn run(batcher: &mut Batcher, lens: &[usize]) -> Vec<usize> {
    let now = epoch();
    let (Step::Run(batch), _) = batcher.step(now) else { panic!("work is waiting") };
    let mut tokens = vec![0; lens.len()];
    for (slice, rows) in batch.rows(&vec![0.0; 2 * batch.packed.num_sequences()], 2) {
        let len = slice.sequences.seqlen(0);
        let which = lens.iter().position(|&known| known == len).expect("a known length");
        tokens[which] += slice.range.len() * len;
        slice.answer.fill(slice.range.clone(), rows, now);
    }
    batcher.batch_done(batch.packed.num_tokens(), ms(100));
    tokens
}

#[test]
fn a_higher_class_goes_first_and_the_rest_of_the_batch_is_not_wasted() {
    let mut batcher = batcher();
    let (low, _keep_low) = entry_of(of(Class::Low), &sequences(&[99; 900], 1), epoch(), None);
    let (normal, _keep) = entry_of(of(Class::Normal), &sequences(&[100; 5], 2), epoch(), None);
    let (high, _keep_high) = entry_of(of(Class::High), &sequences(&[101; 10], 3), epoch(), None);
    for entry in [low, normal, high] {
        batcher.submit(entry);
    }
    let tokens = run(&mut batcher, &[101, 100, 99]);
    assert_eq!(tokens, [1010, 500, 5 * 99]);
}

#[test]
fn no_class_is_passed_over_beyond_the_bound() {
    // Two classes above, each with more work than the device does.
    let lens = [101, 100, 99];
    for low_sequences in [1, 7, 200] {
        let mut batcher = batcher();
        let mut keep = Vec::new();
        for (class, len) in [(Class::High, 101), (Class::Normal, 100)] {
            let (entry, receiver) =
                entry_of(of(class), &sequences(&[len; 20_000], 1), epoch(), None);
            batcher.submit(entry);
            keep.push(receiver);
        }
        // The floor of a class counts from when it has work waiting.
        for _ in 0..30 {
            run(&mut batcher, &lens);
        }
        let low = sequences(&vec![99; low_sequences], 1);
        let (entry, _receiver) = entry_of(of(Class::Low), &low, epoch(), None);
        batcher.submit(entry);
        let passed = (0..).take_while(|_| run(&mut batcher, &lens)[2] == 0).count();
        assert!(passed <= MAX_BATCHES_PASSED + 1, "{passed} batches went without the low class");
    }
}

#[test]
fn each_class_with_work_waiting_has_an_eighth_of_the_tokens_and_the_highest_has_the_rest() {
    let mut batcher = batcher();
    let lens = [101, 100, 99];
    let mut keep = Vec::new();
    for (class, len) in [(Class::High, 101), (Class::Normal, 100), (Class::Low, 99)] {
        let (entry, receiver) = entry_of(of(class), &sequences(&[len; 20_000], 1), epoch(), None);
        batcher.submit(entry);
        keep.push(receiver);
    }
    let mut total = [0; 3];
    for _ in 0..400 {
        for (sum, tokens) in total.iter_mut().zip(run(&mut batcher, &lens)) {
            *sum += tokens;
        }
    }
    let all: usize = total.iter().sum();
    let shares = total.map(|tokens| tokens as f64 / all as f64);
    for (share, due) in shares.iter().zip([0.75, 0.125, 0.125]) {
        assert!((share / due - 1.0).abs() < 0.05, "shares of {shares:?}");
    }
}

#[test]
fn a_class_without_work_is_owed_nothing() {
    let mut batcher = batcher();
    let (high, _keep) = entry_of(of(Class::High), &sequences(&[101; 5000], 1), epoch(), None);
    batcher.submit(high);
    for _ in 0..50 {
        run(&mut batcher, &[101]);
    }
    let (low, _keep_low) = entry_of(of(Class::Low), &sequences(&[99; 500], 1), epoch(), None);
    batcher.submit(low);
    assert_eq!(run(&mut batcher, &[101, 99])[1], 0);
}

#[test]
fn a_request_of_less_priority_yields_to_its_tenants_others_but_not_for_ever() {
    let start = epoch();
    let mut batcher = batcher();
    let (mut patient, _keep) = entry_of(of(Class::Normal), &sequences(&[99; 20], 1), start, None);
    patient.priority = 999;
    batcher.submit(patient);
    let mut keep = Vec::new();
    let mut submit_later = |batcher: &mut Batcher, later| {
        let urgent = sequences(&[101; 20], 2);
        let (entry, receiver) = entry_of(of(Class::Normal), &urgent, start + later, None);
        batcher.submit(entry);
        keep.push(receiver);
    };
    submit_later(&mut batcher, ms(9_980));
    let first = run(&mut batcher, &[99, 101]);
    assert_eq!(first, [0, 2020], "within its ten seconds it yields");
    submit_later(&mut batcher, ms(10_000));
    assert_eq!(run(&mut batcher, &[99, 101])[0], 1980, "beyond them it does not");
}
