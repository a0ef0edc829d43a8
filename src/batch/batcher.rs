//! The batcher without its threads: a state machine over queue and planner.
//!
//! Whoever drives it passes the time in: the worker thread with the real clock, the simulator with a
//! virtual one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::plan::{Limits, Plan, plan};
use super::queue::{Entry, Queue};
use super::{Batch, Rate, TenantId};
use crate::metrics::Swept;

/// Of each device: one batch on it and one laid out behind it. A third would only add latency.
pub const MAX_IN_FLIGHT: usize = 2;

/// What the driver should do next.
#[derive(Debug)]
pub enum Step {
    /// Give this to the device.
    Run(Batch),
    /// Ask again at this instant, or when something happens before.
    WaitUntil(Instant),
    /// Ask again when something happens.
    Wait,
}

/// Queue, planner and the count of batches in flight.
#[derive(Debug)]
pub struct Batcher {
    queue: Queue,
    limits: Limits,
    rate: Rate,
    num_devices: usize,
    in_flight: usize,
    /// Tokens of the batches in flight, the running one first, and since when it runs.
    sizes: VecDeque<usize>,
    running_since: Option<Instant>,
    /// Whether requests of more than the anonymous tenant have come.
    has_tenants: bool,
}

/// Where tenants share one device, the next batch is laid out when this part of the running one is left:
/// whoever comes before then is still in it. Alone a tenant has nothing to win by waiting.
const LAY_OUT_AT_REMAINING: u32 = 4;

impl Batcher {
    /// `rate` is that of all devices together.
    pub fn new(limits: Limits, rate: Rate, num_devices: usize) -> Self {
        Self {
            queue: Queue::default(),
            limits,
            rate,
            num_devices,
            in_flight: 0,
            sizes: VecDeque::new(),
            running_since: None,
            has_tenants: false,
        }
    }

    pub fn submit(&mut self, entry: Entry) {
        self.has_tenants |= entry.share.tenant != TenantId::ANONYMOUS;
        self.queue.push(entry);
    }

    /// A batch of `num_tokens` came back after `took` on its device.
    pub fn batch_done(&mut self, num_tokens: usize, took: Duration) {
        self.in_flight -= 1;
        self.sizes.pop_front();
        self.running_since = None;
        // The other devices did as much meanwhile, if they had work at all.
        self.rate.observe(num_tokens * self.num_devices, took);
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }

    /// Sweeps the queue and decides the next step.
    pub fn step(&mut self, now: Instant) -> (Step, Swept) {
        let swept = self.queue.sweep(now);
        if !self.sizes.is_empty() {
            self.running_since.get_or_insert(now);
        }
        (self.next(now), swept)
    }

    fn next(&mut self, now: Instant) -> Step {
        let wait = self.queue.next_deadline().map_or(Step::Wait, Step::WaitUntil);
        if self.in_flight == MAX_IN_FLIGHT * self.num_devices {
            return wait;
        }
        if let Some(at) = self.lay_out_at().filter(|&at| now < at) {
            return match wait {
                Step::WaitUntil(deadline) => Step::WaitUntil(at.min(deadline)),
                _ => Step::WaitUntil(at),
            };
        }
        let view =
            self.queue.view(self.rate.tokens_per_second(), self.in_flight >= self.num_devices);
        match plan(&view, now, &self.limits) {
            Plan::Empty => Step::Wait,
            Plan::WaitUntil(at) => match wait {
                Step::WaitUntil(deadline) => Step::WaitUntil(at.min(deadline)),
                _ => Step::WaitUntil(at),
            },
            Plan::Batch { picks, after } => {
                self.in_flight += 1;
                let batch = Batch::lay_out(self.queue.take(&picks, &after));
                self.sizes.push_back(batch.packed.num_tokens());
                self.running_since.get_or_insert(now);
                Step::Run(batch)
            }
        }
    }

    /// When to lay out the batch behind the running one; `None` is at once. If the device is faster than
    /// it was, it waits for the plan, which takes a fraction of a millisecond.
    fn lay_out_at(&self) -> Option<Instant> {
        if !self.has_tenants || self.num_devices > 1 || self.queue.is_empty() {
            return None;
        }
        let takes = self.rate.time_for(*self.sizes.front()?);
        Some(self.running_since? + takes - takes / LAY_OUT_AT_REMAINING)
    }
}
