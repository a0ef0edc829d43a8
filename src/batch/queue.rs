//! The queue: what waits for the device, tenant by tenant. It drops the expired and the cancelled.
//!
//! Its size is bounded by admission, which counts tokens and requests before anything gets here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::plan::{PendingLens, Pick, RequestView, TenantView, View};
use super::{Answer, Sequences, Slice};
use crate::error::Error;
use crate::metrics::Swept;

/// Whose request it is. Tenants are numbered by the table of keys; 0 is everybody without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u32);

impl TenantId {
    pub const ANONYMOUS: Self = Self(0);
}

/// A request on its way to the device.
#[derive(Debug)]
pub struct Entry {
    pub tenant: TenantId,
    /// Its share against other tenants; at least 1.
    pub weight: u32,
    pub sequences: Arc<Sequences>,
    pub answer: Arc<Answer>,
    pub arrived: Instant,
    pub deadline: Option<Instant>,
}

/// Requests in deficit round robin over tenants.
#[derive(Debug, Default)]
pub struct Queue {
    /// Only tenants that have requests waiting; the one whose turn it is comes first.
    ring: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    tenant: TenantId,
    weight: u32,
    deficit: i64,
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
        let (tenant, weight) = (entry.tenant, entry.weight.max(1));
        let request = Request { entry, next_sequence: 0, served_tokens: 0 };
        match self.ring.iter_mut().find(|waiting| waiting.tenant == tenant) {
            Some(waiting) => {
                waiting.weight = weight;
                waiting.requests.push(request);
            }
            None => {
                self.ring.push_back(Waiting {
                    tenant,
                    weight,
                    deficit: 0,
                    requests: vec![request],
                });
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Removes what must not reach the device. The expired get their answer here.
    pub fn sweep(&mut self, now: Instant) -> Swept {
        let mut swept = Swept::default();
        for waiting in &mut self.ring {
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
        self.ring.retain(|waiting| !waiting.requests.is_empty());
        swept
    }

    /// The earliest deadline waiting: the latest instant for the next sweep.
    pub fn next_deadline(&self) -> Option<Instant> {
        let requests = self.ring.iter().flat_map(|waiting| &waiting.requests);
        requests.filter_map(|request| request.entry.deadline).min()
    }

    /// The queue as the planner sees it.
    pub fn view(&self, tokens_per_second: f64, device_busy: bool) -> View<'_> {
        let tenants = self.ring.iter().map(Waiting::view).collect();
        View { tenants, tokens_per_second, device_busy }
    }

    /// Takes the picks of a plan made from the latest [`view`](Self::view).
    pub fn take(&mut self, picks: &[Pick], deficits: &[i64], next_tenant: usize) -> Vec<Slice> {
        let mut slices = Vec::with_capacity(picks.len());
        for &Pick { tenant, request, count } in picks {
            let request = &mut self.ring[tenant].requests[request];
            let range = request.next_sequence..request.next_sequence + count;
            request.next_sequence = range.end;
            request.served_tokens += request.entry.sequences.tokens_in(range.clone());
            slices.push(Slice {
                sequences: Arc::clone(&request.entry.sequences),
                answer: Arc::clone(&request.entry.answer),
                range,
            });
        }
        for (waiting, &deficit) in self.ring.iter_mut().zip(deficits) {
            waiting.deficit = deficit;
            waiting.requests.retain(|r| r.next_sequence < r.entry.sequences.len());
        }
        self.ring.rotate_left(next_tenant);
        self.ring.retain(|waiting| !waiting.requests.is_empty());
        slices
    }
}

impl Waiting {
    fn view(&self) -> TenantView<'_> {
        let requests = self.requests.iter().map(|request| {
            let sequences = &*request.entry.sequences;
            RequestView {
                arrived: request.entry.arrived,
                deadline: request.entry.deadline,
                served_tokens: request.served_tokens,
                pending: PendingLens { sequences, range: request.next_sequence..sequences.len() },
            }
        });
        TenantView { weight: self.weight, deficit: self.deficit, requests: requests.collect() }
    }
}
