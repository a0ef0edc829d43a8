//! Runs a model over a batch: cuts it into groups and lets the engine threads take them one by one.

use super::{DeviceError, Scorer};
use crate::engine::Backend;
use crate::engine::groups::Groups;
use crate::engine::packed::Packed;
use crate::engine::pool::Pool;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A model family over a backend.
pub trait Family<B: Backend>: Debug + Send + Sync + 'static {
    /// The activations of one thread.
    type Lane: Debug + Send;

    /// Floats per sequence.
    fn width(&self) -> usize;

    fn limits(&self) -> Limits;

    /// Activations for groups of up to `max_tokens`.
    fn lane(&self, backend: &B, max_tokens: usize) -> Self::Lane;

    /// `out` is `[group.num_sequences(), width()]`.
    fn forward(&self, backend: &B, lane: &mut Self::Lane, group: &Packed, out: &mut [f32]);
}

/// What a batch may contain.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_length: usize,
    pub vocab_size: usize,
    pub type_vocab_size: usize,
    /// What a token costs besides attention, in tokens of attention.
    pub token_cost: u64,
}

/// A model on a backend with its threads.
#[derive(Debug)]
pub struct Driver<B: Backend, F: Family<B>> {
    backend: B,
    family: F,
    pool: Pool,
    groups: Groups,
    lanes: Vec<Mutex<Lane<F::Lane>>>,
}

/// What one thread works with.
#[derive(Debug)]
struct Lane<L> {
    activations: L,
    group: Packed,
    /// The sequences this thread scored in this batch, and their rows.
    scored: Vec<u32>,
    results: Vec<f32>,
}

impl<B: Backend, F: Family<B>> Driver<B, F> {
    pub fn new(backend: B, family: F, pool: Pool) -> Self {
        let groups = Groups::new(pool.num_threads(), family.limits().max_length);
        let max_tokens = groups.max_tokens();
        let lane = || Lane {
            activations: family.lane(&backend, max_tokens),
            group: Packed::with_capacity(max_tokens, max_tokens),
            scored: Vec::new(),
            results: Vec::new(),
        };
        let lanes = (0..pool.num_threads()).map(|_| Mutex::new(lane())).collect();
        Self { backend, family, pool, groups, lanes }
    }

    /// What the kernels would panic on. A defect upstream must cost one batch, and say where it is.
    fn check(&self, batch: &Packed, out: &[f32]) -> Result<(), DeviceError> {
        let limits = self.family.limits();
        let fault = |message: String| Err(DeviceError(message));
        let num_tokens = batch.num_tokens();
        if batch.token_type_ids.len() != num_tokens || batch.position_ids.len() != num_tokens {
            return fault("the token arrays of the batch differ in length".to_owned());
        }
        let bounds = &batch.cu_seqlens;
        if bounds.first() != Some(&0) || bounds.last().map(|end| *end as usize) != Some(num_tokens)
        {
            return fault(format!("cu_seqlens does not span the {num_tokens} tokens of the batch"));
        }
        for (i, bounds) in bounds.windows(2).enumerate() {
            let len = bounds[1].saturating_sub(bounds[0]) as usize;
            if !(1..=limits.max_length).contains(&len) {
                let max = limits.max_length;
                return fault(format!("sequence {i} has {len} tokens, not 1 to {max}"));
            }
        }
        for (name, ids, bound) in [
            ("input_ids", &batch.input_ids, limits.vocab_size),
            ("token_type_ids", &batch.token_type_ids, limits.type_vocab_size),
            ("position_ids", &batch.position_ids, limits.max_length),
        ] {
            if let Some(id) = ids.iter().find(|id| **id as usize >= bound) {
                return fault(format!("{name} has {id}, the model's table ends at {bound}"));
            }
        }
        let expected = batch.num_sequences() * self.family.width();
        if out.len() != expected {
            return fault(format!("room for {} floats, not {expected}", out.len()));
        }
        Ok(())
    }
}

impl<B: Backend, F: Family<B>> Scorer for Driver<B, F> {
    fn width(&self) -> usize {
        self.family.width()
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        self.check(batch, out)?;
        self.groups.deal(&batch.cu_seqlens, self.family.limits().token_cost);
        for lane in &self.lanes {
            let mut lane = lock(lane);
            lane.scored.clear();
            lane.results.clear();
        }
        let (backend, family) = (&self.backend, &self.family);
        let (groups, lanes) = (&self.groups, &self.lanes);
        let next_group = AtomicUsize::new(0);
        let job = |thread: usize| {
            let mut lane = lock(&lanes[thread]);
            loop {
                let i = next_group.fetch_add(1, Ordering::Relaxed);
                if i >= groups.len() {
                    return;
                }
                lane.score_group(backend, family, batch, groups.members(i));
            }
        };
        self.pool.run(&job).map_err(DeviceError)?;

        let width = self.family.width();
        for lane in &self.lanes {
            let lane = lock(lane);
            for (i, result) in lane.scored.iter().zip(lane.results.chunks_exact(width)) {
                out[*i as usize * width..][..width].copy_from_slice(result);
            }
        }
        Ok(())
    }
}

/// A lane that a panic left is cleared before its next use, so poison means nothing.
fn lock<L>(lane: &Mutex<Lane<L>>) -> MutexGuard<'_, Lane<L>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L> Lane<L> {
    fn score_group<B: Backend, F: Family<B, Lane = L>>(
        &mut self,
        backend: &B,
        family: &F,
        batch: &Packed,
        members: &[u32],
    ) {
        self.group.clear();
        for i in members {
            self.group.push_sequence(batch, *i as usize);
        }
        let start = self.results.len();
        self.results.resize(start + members.len() * family.width(), 0.0);
        let out = &mut self.results[start..];
        family.forward(backend, &mut self.activations, &self.group, out);
        self.scored.extend_from_slice(members);
    }
}
