//! Runs a model over a batch: cuts it into groups and lets the engine threads take them one by one.

use super::{Family, Grain, Limits, Scorer, Spare, check_room};
use crate::engine::Backend;
use crate::engine::groups::Groups;
use crate::engine::packed::{LEAST_PREFIX, Packed};
use crate::engine::pool::{self, Pool};
use crate::error::DeviceError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A model on the threads of a CPU.
#[derive(Debug)]
pub struct Threads<B: Backend<Batch = Packed>, F: Family<B>> {
    backend: B,
    /// Shared with whatever takes the place of this scorer.
    family: Arc<F>,
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
    fault: Option<DeviceError>,
}

impl<B: Backend<Batch = Packed>, F: Family<B>> Threads<B, F> {
    /// # Errors
    /// No memory for the activations.
    pub fn new(backend: B, family: Arc<F>, pool: Pool) -> Result<Self, DeviceError> {
        let Limits { max_length, group_tokens, .. } = family.limits();
        let groups = Groups::new(pool.num_threads(), max_length, group_tokens);
        let max_tokens = groups.max_tokens();
        let lane = |_| {
            Ok(Mutex::new(Lane {
                activations: family.lane(&backend, max_tokens)?,
                group: Packed::with_capacity(max_tokens, max_tokens),
                scored: Vec::new(),
                results: Vec::new(),
                fault: None,
            }))
        };
        let lanes = (0..pool.num_threads()).map(lane).collect::<Result<_, _>>()?;
        Ok(Self { backend, family, pool, groups, lanes })
    }
}

impl<B: Backend<Batch = Packed> + Clone + 'static, F: Family<B>> Scorer for Threads<B, F> {
    fn width(&self) -> usize {
        self.family.width()
    }

    fn grain(&self) -> Grain {
        self.family.grain()
    }

    fn spare(&self) -> Option<Spare> {
        let (backend, family) = (self.backend.clone(), Arc::clone(&self.family));
        let num_threads = self.pool.num_threads();
        Some(Arc::new(move || {
            let pool = Pool::new(num_threads).map_err(|e| DeviceError::new(e.to_string()))?;
            Ok(Box::new(Self::new(backend.clone(), Arc::clone(&family), pool)?))
        }))
    }

    fn give_way(&mut self) {
        self.pool.run(&|_| pool::give_way()).expect("lowering a priority does not panic");
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        self.family.limits().check(batch)?;
        let (grain, width) = (self.family.grain(), self.family.width());
        check_room(batch, (grain, width), out)?;
        self.groups.deal(&batch.cu_seqlens, self.family.limits().token_cost);
        for lane in &self.lanes {
            let mut lane = lock(lane);
            lane.scored.clear();
            lane.results.clear();
            // Which lane takes which group is chance: room for all of them is taken once, and not as chance has it.
            lane.scored.reserve(batch.num_sequences());
            lane.results.reserve(out.len());
            lane.fault = None;
        }
        let (backend, family) = (&self.backend, &*self.family);
        let (groups, lanes) = (&self.groups, &self.lanes);
        let next_group = AtomicUsize::new(0);
        let job = |thread: usize| {
            let mut lane = lock(&lanes[thread]);
            loop {
                let i = next_group.fetch_add(1, Ordering::Relaxed);
                if i >= groups.len() {
                    return;
                }
                if let Err(fault) = lane.score_group(backend, family, batch, groups.members(i)) {
                    lane.fault = Some(fault);
                    return;
                }
            }
        };
        self.pool.run(&job).map_err(DeviceError::new)?;

        for lane in &self.lanes {
            let mut lane = lock(lane);
            if let Some(fault) = lane.fault.take() {
                return Err(fault);
            }
            let mut results = lane.results.as_slice();
            for i in &lane.scored {
                let rows = match grain {
                    Grain::Sequence => *i as usize..*i as usize + 1,
                    Grain::Token => batch.rows(*i as usize),
                };
                let (result, rest) = results.split_at(rows.len() * width);
                out[rows.start * width..rows.end * width].copy_from_slice(result);
                results = rest;
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
    fn score_group<B: Backend<Batch = Packed>, F: Family<B, Lane = L>>(
        &mut self,
        backend: &B,
        family: &F,
        batch: &Packed,
        members: &[u32],
    ) -> Result<(), DeviceError> {
        self.group.clear();
        if family.limits().is_causal {
            let trunk_len = batch.common_prefix(members);
            if trunk_len >= LEAST_PREFIX && members.len() > 1 {
                self.group.begin_with_trunk(batch, members[0] as usize, trunk_len);
            }
        }
        for i in members {
            self.group.push_sequence(batch, *i as usize);
        }
        let start = self.results.len();
        let num_rows = family.grain().num_rows(&self.group);
        self.results.resize(start + num_rows * family.width(), 0.0);
        let rows = family.forward(backend, &mut self.activations, &self.group);
        backend.read(rows, &mut self.results[start..])?;
        family.finish(&mut self.results[start..]);
        self.scored.extend_from_slice(members);
        Ok(())
    }
}
