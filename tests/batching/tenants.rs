//! What each tenant gets of the device, in tokens and in waiting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rerankd::batch::{Batcher, Class, Limits, Rate, Share, Step, TenantId};

use crate::support::*;

const LIMITS: Limits = Limits {
    max_batch_tokens: 2048,
    max_batch_sequences: 512,
    max_queue_delay: Duration::from_micros(500),
};

fn normal(tenant: u32, weight: u32) -> Share {
    Share { tenant: TenantId(tenant), weight, class: Class::Normal }
}

/// Tenants that always have work waiting, and what they were served.
struct Floods {
    batcher: Batcher,
    now: Instant,
    random: Random,
    /// Requests of each tenant that are not answered.
    waiting: Vec<(Share, Receiver)>,
    /// Whose sequences those are, by where they lie.
    owner: HashMap<usize, TenantId>,
    keep: Vec<Arc<rerankd::batch::Sequences>>,
    served: HashMap<TenantId, usize>,
}

impl Floods {
    fn new(seed: u64, limits: Limits) -> Self {
        Self {
            batcher: Batcher::new(limits, Rate::new(20_000.0), 1),
            now: epoch(),
            random: Random(seed),
            waiting: Vec::new(),
            owner: HashMap::new(),
            keep: Vec::new(),
            served: HashMap::new(),
        }
    }

    fn submit(&mut self, share: Share, seqlens: &[usize]) {
        let sequences = sequences(seqlens, share.tenant.0);
        let (entry, receiver) = entry_of(share, &sequences, self.now, None);
        self.owner.insert(Arc::as_ptr(&sequences) as usize, share.tenant);
        self.keep.push(sequences);
        self.waiting.push((share, receiver));
        self.batcher.submit(entry);
    }

    /// A request of some size, its sequences of lengths of its own.
    fn submit_any(&mut self, share: Share, most: u64) {
        let usual = self.random.within(20, 200);
        let count = self.random.within(1, 60);
        let seqlens: Vec<_> = (0..count)
            .map(|_| self.random.within(usual / 2, (2 * usual).min(most)) as usize)
            .collect();
        self.submit(share, &seqlens);
    }

    /// Runs one batch; whose tokens it held.
    fn run_batch(&mut self) -> HashMap<TenantId, usize> {
        let (Step::Run(batch), _) = self.batcher.step(self.now) else { panic!("work is waiting") };
        let mut tokens = HashMap::new();
        let rows = vec![0.0; 2 * batch.packed.num_sequences()];
        self.now += ms(100);
        for (slice, rows) in batch.rows(&rows, 2) {
            let tenant = self.owner[&(Arc::as_ptr(&slice.sequences) as usize)];
            let in_slice = slice.sequences.tokens_in(slice.range.clone());
            *tokens.entry(tenant).or_default() += in_slice;
            *self.served.entry(tenant).or_default() += in_slice;
            slice.answer.fill(slice.range.clone(), rows, self.now);
        }
        self.batcher.batch_done(batch.packed.num_tokens(), ms(100));
        self.waiting.retain_mut(|(_, receiver)| receiver.try_recv().is_err());
        tokens
    }

    fn num_waiting(&self, tenant: u32) -> usize {
        self.waiting.iter().filter(|(share, _)| share.tenant == TenantId(tenant)).count()
    }
}

#[test]
fn weights_give_token_shares_within_five_percent() {
    for (seed, weights) in [[3, 1].as_slice(), &[1, 1], &[10, 1], &[5, 3, 2], &[1; 12]]
        .into_iter()
        .cycle()
        .take(25)
        .enumerate()
    {
        let mut floods = Floods::new(seed as u64, LIMITS);
        for _ in 0..400 {
            for (tenant, &weight) in weights.iter().enumerate() {
                while floods.num_waiting(tenant as u32) < 10 {
                    floods.submit_any(normal(tenant as u32, weight), 400);
                }
            }
            floods.run_batch();
        }
        let total: usize = floods.served.values().sum();
        let sum: u32 = weights.iter().sum();
        for (tenant, &weight) in weights.iter().enumerate() {
            let share = floods.served[&TenantId(tenant as u32)] as f64 / total as f64;
            let due = f64::from(weight) / f64::from(sum);
            assert!(
                (share / due - 1.0).abs() < 0.05,
                "seed {seed}, {weights:?}: tenant {tenant} got {share:.4}, not {due:.4}"
            );
        }
    }
}

/// However many batches and sequences a flood brings: of the batches planned after a request came whose
/// tokens fit its tenant's part of one, the first may go without it, and the second finishes it.
#[test]
fn a_flood_by_one_tenant_delays_a_light_one_by_at_most_one_batch() {
    let few_sequences = Limits { max_batch_sequences: 24, ..LIMITS };
    for seed in 0..300 {
        // Half of a batch in tokens; where sequences are what fills it, its mates may be ten times shorter.
        let (limits, most) = if seed % 2 == 0 { (LIMITS, 8) } else { (few_sequences, 2) };
        let mut floods = Floods::new(seed, limits);
        for visit in 0..10 {
            for _ in 0..floods.random.within(1, 12) {
                while floods.num_waiting(1) < 20 {
                    floods.submit_any(normal(1, 1), 300);
                }
                floods.run_batch();
            }
            let count = floods.random.within(1, most) as usize;
            floods.submit(normal(2, 1), &vec![100; count]);
            floods.run_batch();
            if floods.num_waiting(2) > 0 {
                floods.run_batch();
            }
            assert_eq!(
                floods.num_waiting(2),
                0,
                "seed {seed}, visit {visit}: a second batch passed"
            );
        }
    }
}

#[test]
fn a_crowd_of_floods_delays_a_light_tenant_by_one_round_at_most() {
    let mut floods = Floods::new(1, LIMITS);
    for tenant in 0..40 {
        floods.submit(normal(tenant, 1), &[100; 200]);
    }
    floods.run_batch();
    floods.submit(normal(99, 1), &[100]);
    // 41 tenants, 20 sequences a batch: one sequence each takes three batches.
    for _ in 0..3 {
        floods.run_batch();
    }
    assert_eq!(floods.num_waiting(99), 0);
}

#[test]
fn an_idle_tenant_saves_nothing_up() {
    let mut floods = Floods::new(1, LIMITS);
    floods.submit(normal(1, 1), &[100; 2]);
    floods.submit(normal(2, 1), &[100; 2000]);
    for _ in 0..20 {
        floods.run_batch();
    }
    floods.submit(normal(1, 1), &[100; 2000]);
    floods.served.clear();
    for _ in 0..20 {
        floods.run_batch();
    }
    let (one, two) = (floods.served[&TenantId(1)] as f64, floods.served[&TenantId(2)] as f64);
    assert!((0.9..1.1).contains(&(one / two)), "{one} and {two} tokens");
}

#[test]
fn where_tenants_share_a_device_the_next_batch_is_laid_out_late() {
    // 2,000 tokens at 20,000 a second: a batch takes 100 ms, of which the last 25 are for laying out the next.
    let (mut batcher, now) = (Batcher::new(LIMITS, Rate::new(20_000.0), 1), epoch());
    let (flood, _keep) = entry_of(normal(1, 1), &sequences(&[100; 200], 1), now, None);
    batcher.submit(flood);
    assert!(matches!(batcher.step(now).0, Step::Run(_)));
    assert!(matches!(batcher.step(now).0, Step::WaitUntil(at) if at == now + ms(75)));
    let (light, _keep_light) = entry_of(normal(2, 1), &sequences(&[77], 2), now, None);
    batcher.submit(light);
    let (Step::Run(next), _) = batcher.step(now + ms(75)) else { panic!("it is time") };
    assert_eq!(next.slices[0].sequences.seqlen(0), 77, "whoever came meanwhile is first in it");
    // The device was faster than it used to be, and must not wait.
    batcher.batch_done(2000, ms(80));
    batcher.batch_done(2000, ms(1));
    assert!(matches!(batcher.step(now + ms(81)).0, Step::Run(_)));
}

#[test]
fn a_stream_of_newcomers_does_not_hold_up_those_who_wait() {
    let mut floods = Floods::new(1, LIMITS);
    floods.submit(normal(1, 1), &[100; 2000]);
    let mut newcomer = 2;
    for _ in 0..50 {
        // Each wave alone would fill the batch.
        for _ in 0..20 {
            floods.submit(normal(newcomer, 1), &[100]);
            newcomer += 1;
        }
        floods.run_batch();
    }
    assert!(floods.served.get(&TenantId(1)).is_some_and(|&tokens| tokens >= 5 * 100));
}
