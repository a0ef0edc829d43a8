//! The queue: what waits for the device, by class and tenant. It drops the expired and the cancelled.
//!
//! Its size is bounded by admission, which counts tokens and requests before anything gets here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::plan::{After, ClassView, PendingLens, Pick, RequestView, TenantView, View};
use super::{Answer, Class, Sequences, Share, Slice, TenantId};
use crate::error::Error;
use crate::metrics::Swept;

/// A request on its way to the device.
#[derive(Debug)]
pub struct Entry {
    pub share: Share,
    /// 0 to 999, 0 the most urgent, against other requests of its tenant.
    pub priority: u16,
    pub sequences: Arc<Sequences>,
    pub answer: Arc<Answer>,
    pub arrived: Instant,
    pub deadline: Option<Instant>,
}

/// Requests by class, and in each class in deficit round robin over tenants.
#[derive(Debug, Default)]
pub struct Queue {
    /// The highest class first.
    rings: [Ring; Class::COUNT],
}

#[derive(Debug, Default)]
struct Ring {
    /// Only tenants that have requests waiting; the one whose turn it is comes first.
    tenants: VecDeque<Waiting>,
    /// A tenant that came since the last batch goes first in the next.
    newcomer_is_first: bool,
    owed_batches: f64,
}

#[derive(Debug)]
struct Waiting {
    tenant: TenantId,
    weight: u32,
    deficit: i64,
    /// Its turn goes on, so it has had its grant.
    is_granted: bool,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    entry: Entry,
    /// Sequences before this one have been scheduled.
    next_sequence: usize,
    served_tokens: usize,
}

impl Queue {
    /// Adds a request that has at least one sequence.
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(
            !entry.sequences.is_empty(),
            "a request without sequences has no answer to wait for"
        );
        let Share { tenant, weight, class } = entry.share;
        let weight = weight.max(1);
        let ring = &mut self.rings[class as usize];
        let request = Request { entry, next_sequence: 0, served_tokens: 0 };
        if let Some(waiting) = ring.tenants.iter_mut().find(|waiting| waiting.tenant == tenant) {
            waiting.weight = weight;
            waiting.requests.push(request);
            return;
        }
        let requests = vec![request];
        let newcomer = Waiting { tenant, weight, deficit: 0, is_granted: false, requests };
        // Whoever comes seldom has its part of the next batch whole, not the rest of it. One in each batch:
        // a stream of newcomers must not hold up those who wait.
        if ring.newcomer_is_first {
            ring.tenants.push_back(newcomer);
        } else {
            ring.tenants.push_front(newcomer);
            ring.newcomer_is_first = true;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(|ring| ring.tenants.is_empty())
    }

    /// Removes what must not reach the device. The expired get their answer here.
    pub fn sweep(&mut self, now: Instant) -> Swept {
        let mut swept = Swept::default();
        for ring in &mut self.rings {
            for waiting in &mut ring.tenants {
                waiting.requests.retain(|Request { entry, .. }| {
                    if entry.answer.is_closed() {
                        swept.closed += 1;
                        return false;
                    }
                    let expired = entry.deadline.is_some_and(|deadline| deadline <= now);
                    if expired && entry.answer.fail(Error::DeadlineExceeded) {
                        swept.expired += 1;
                    }
                    !expired
                });
            }
            ring.drop_idle();
        }
        swept
    }

    /// The earliest deadline waiting: the latest instant for the next sweep.
    pub fn next_deadline(&self) -> Option<Instant> {
        let tenants = self.rings.iter().flat_map(|ring| &ring.tenants);
        let requests = tenants.flat_map(|waiting| &waiting.requests);
        requests.filter_map(|request| request.entry.deadline).min()
    }

    /// The queue as the planner sees it.
    pub fn view(&self, tokens_per_second: f64, device_busy: bool) -> View<'_> {
        let classes = self.rings.each_ref().map(|ring| ClassView {
            tenants: ring.tenants.iter().map(Waiting::view).collect(),
            owed_batches: ring.owed_batches,
        });
        View { classes, tokens_per_second, device_busy }
    }

    /// Takes the picks of a plan made from the latest [`view`](Self::view).
    pub fn take(&mut self, picks: &[Pick], after: &[After; Class::COUNT]) -> Vec<Slice> {
        let mut slices = Vec::with_capacity(picks.len());
        for &Pick { class, tenant, request, count } in picks {
            let request = &mut self.rings[class].tenants[tenant].requests[request];
            let range = request.next_sequence..request.next_sequence + count;
            request.next_sequence = range.end;
            request.served_tokens += request.entry.sequences.tokens_in(range.clone());
            slices.push(Slice {
                share: request.entry.share,
                sequences: Arc::clone(&request.entry.sequences),
                answer: Arc::clone(&request.entry.answer),
                range,
            });
        }
        for (ring, after) in self.rings.iter_mut().zip(after) {
            for (waiting, &deficit) in ring.tenants.iter_mut().zip(&after.deficits) {
                waiting.deficit = deficit;
                waiting.requests.retain(|r| r.next_sequence < r.entry.sequences.len());
            }
            ring.tenants.rotate_left(after.next_tenant);
            for waiting in &mut ring.tenants {
                waiting.is_granted = false;
            }
            if let Some(first) = ring.tenants.front_mut() {
                first.is_granted = after.is_granted;
            }
            ring.newcomer_is_first = false;
            ring.owed_batches = after.owed_batches;
            ring.drop_idle();
        }
        slices
    }
}

impl Ring {
    /// Whoever has nothing waiting leaves the ring, and what was granted or owed with it.
    fn drop_idle(&mut self) {
        self.tenants.retain(|waiting| !waiting.requests.is_empty());
        if self.tenants.is_empty() {
            self.owed_batches = 0.0;
        }
    }
}

impl Waiting {
    fn view(&self) -> TenantView<'_> {
        let requests = self.requests.iter().map(|request| {
            let sequences = &*request.entry.sequences;
            RequestView {
                arrived: request.entry.arrived,
                deadline: request.entry.deadline,
                priority: request.entry.priority,
                served_tokens: request.served_tokens,
                pending: PendingLens { sequences, range: request.next_sequence..sequences.len() },
            }
        });
        TenantView {
            weight: self.weight,
            deficit: self.deficit,
            is_granted: self.is_granted,
            requests: requests.collect(),
        }
    }
}
