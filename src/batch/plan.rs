//! The planner: what goes to the device next. Pure: no clock, no I/O, no memory of its own.
//!
//! Between tenants it runs deficit round robin (Shreedhar & Varghese, 1995) with tokens as the unit. Between
//! the requests of a tenant the earliest [`key`](order_key) goes first: every token a long request has been
//! served moves it back in time, so one of 5,000 documents yields to one of 20 that came later, yet is
//! never passed by more than a bounded stretch of newcomers.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Bounds of one batch. Checked by `config`: `max_batch_tokens` holds the longest sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_batch_tokens: usize,
    pub max_batch_sequences: usize,
    /// How long a request may wait for company while the device has a batch to run.
    pub max_queue_delay: Duration,
}

/// Tokens a tenant of weight 1 is granted per round: about the longest usual sequence, so that a
/// round passes every tenant at least once per batch.
const QUANTUM_TOKENS: i64 = 512;

/// How much later a request counts as having arrived per second of device time it has used.
/// At 2 a long request keeps about a third of a device that newcomers would fill alone.
const SERVICE_PENALTY: f64 = 2.0;

/// What the planner sees of the queue.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// In ring order: the tenant whose turn it is comes first.
    pub tenants: Vec<TenantView<'a>>,
    /// Tokens per second the device has lately done; scales service into time.
    pub tokens_per_second: f64,
    /// The device has a batch to run while this one is prepared.
    pub device_busy: bool,
}

#[derive(Debug, Clone)]
pub struct TenantView<'a> {
    pub weight: u32,
    /// Tokens it may still take before others had theirs.
    pub deficit: i64,
    pub requests: Vec<RequestView<'a>>,
}

/// One queued request. `pending` is never empty: a request without pending sequences has left the queue.
#[derive(Debug, Clone)]
pub struct RequestView<'a> {
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub served_tokens: usize,
    /// Lengths in tokens of the sequences not yet scheduled.
    pub pending: PendingLens<'a>,
}

/// Lengths of a request's unscheduled sequences, read straight from its token spans.
#[derive(Debug, Clone)]
pub struct PendingLens<'a> {
    pub sequences: &'a super::Sequences,
    pub range: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Batch {
        picks: Vec<Pick>,
        /// Deficit of each tenant of the view afterwards, in its order.
        deficits: Vec<i64>,
        /// The tenant of the view whose turn is next.
        next_tenant: usize,
    },
    /// More may come to fill the batch: ask again at this instant, or when something arrives.
    WaitUntil(Instant),
    /// Nothing is queued.
    Empty,
}

/// The next `count` pending sequences of a request go into the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub tenant: usize,
    pub request: usize,
    pub count: usize,
}

/// Decides the next batch.
pub fn plan(view: &View<'_>, now: Instant, limits: &Limits) -> Plan {
    let requests = || view.tenants.iter().flat_map(|tenant| &tenant.requests);
    let Some(oldest) = requests().map(|request| request.arrived).min() else {
        return Plan::Empty;
    };
    let send_by = oldest + limits.max_queue_delay;
    if view.device_busy && now < send_by && !fills_a_batch(requests(), limits) {
        return Plan::WaitUntil(send_by);
    }
    Filling::new(view, now, limits).run()
}

fn fills_a_batch<'a>(requests: impl Iterator<Item = &'a RequestView<'a>>, limits: &Limits) -> bool {
    let (mut tokens, mut sequences) = (0, 0);
    for PendingLens { sequences: all, range } in requests.map(|request| &request.pending) {
        // Far more than a batch may wait: stop counting as soon as the answer is known.
        for i in range.clone() {
            tokens += all.seqlen(i);
            sequences += 1;
            if tokens >= limits.max_batch_tokens || sequences >= limits.max_batch_sequences {
                return true;
            }
        }
    }
    false
}

/// Batches' worth of tokens that a request is served before it counts as a long one. A usual request ends
/// within it, in the order it came: finishing what was begun is what keeps the mean latency low.
const BATCHES_BEFORE_PENALTY: usize = 2;

/// Requests in danger of missing their deadline come first, the nearest deadline leading; the others
/// in order of arrival, plus [`SERVICE_PENALTY`] times the device time used if they are long.
fn order_key(
    request: &RequestView<'_>,
    now: Instant,
    tokens_per_second: f64,
    limits: &Limits,
) -> (bool, Instant) {
    let seconds = |tokens: usize| tokens as f64 / tokens_per_second;
    if let Some(deadline) = request.deadline {
        let PendingLens { sequences, range } = &request.pending;
        let tokens = sequences.tokens_in(range.clone()) + 2 * limits.max_batch_tokens;
        if deadline.saturating_duration_since(now).as_secs_f64() < seconds(tokens) {
            return (false, deadline);
        }
    }
    let is_long = request.served_tokens >= BATCHES_BEFORE_PENALTY * limits.max_batch_tokens;
    let penalty = if is_long { SERVICE_PENALTY * seconds(request.served_tokens) } else { 0.0 };
    // A cap keeps the sum far from the end of time however slow the device was measured.
    (true, request.arrived + Duration::from_secs_f64(penalty.min(86_400.0)))
}

/// A batch being filled.
struct Filling<'a> {
    view: &'a View<'a>,
    limits: &'a Limits,
    /// Request indices of each tenant, the next to be served last.
    order: Vec<Vec<usize>>,
    deficits: Vec<i64>,
    picks: Vec<Pick>,
    tokens: usize,
    sequences: usize,
}

impl<'a> Filling<'a> {
    fn new(view: &'a View<'a>, now: Instant, limits: &'a Limits) -> Self {
        let order = view.tenants.iter().map(|tenant| {
            let mut keyed: Vec<_> = tenant
                .requests
                .iter()
                .enumerate()
                .map(|(i, r)| (order_key(r, now, view.tokens_per_second, limits), i))
                .collect();
            keyed.sort_unstable_by(|a, b| b.cmp(a));
            keyed.into_iter().map(|(_, i)| i).collect()
        });
        Self {
            view,
            limits,
            order: order.collect(),
            deficits: view.tenants.iter().map(|tenant| tenant.deficit).collect(),
            picks: Vec::new(),
            tokens: 0,
            sequences: 0,
        }
    }

    fn run(mut self) -> Plan {
        let num_tenants = self.view.tenants.len();
        let mut tenant = 0;
        while self.order.iter().any(|requests| !requests.is_empty()) {
            self.deficits[tenant] += QUANTUM_TOKENS * i64::from(self.view.tenants[tenant].weight);
            if !self.serve(tenant) {
                // The batch is full. What the tenant may still take it keeps, without a second grant
                // for the same turn; whoever follows begins the next batch.
                break;
            }
            tenant = (tenant + 1) % num_tenants;
        }
        let next_tenant = (tenant + 1) % num_tenants;
        Plan::Batch { picks: self.picks, deficits: self.deficits, next_tenant }
    }

    /// Serves one tenant's turn. Returns false when the batch can take no more.
    fn serve(&mut self, tenant: usize) -> bool {
        while let Some(&request) = self.order[tenant].last() {
            let PendingLens { sequences, range } =
                &self.view.tenants[tenant].requests[request].pending;
            let mut taken = self.taken(tenant, request);
            let before = taken;
            let mut full = false;
            while taken < range.len() {
                let seqlen = sequences.seqlen(range.start + taken);
                full = self.is_full_for(seqlen);
                if full || self.deficits[tenant] < seqlen as i64 {
                    break;
                }
                self.deficits[tenant] -= seqlen as i64;
                self.tokens += seqlen;
                self.sequences += 1;
                taken += 1;
            }
            self.pick(tenant, request, taken - before);
            if full {
                return false;
            }
            if taken < range.len() {
                return true;
            }
            self.order[tenant].pop();
        }
        // An idle tenant saves nothing up: that is what keeps the others' waiting bounded.
        self.deficits[tenant] = 0;
        true
    }

    /// An empty batch takes any sequence, so that one longer than the budget cannot block the queue.
    fn is_full_for(&self, seqlen: usize) -> bool {
        self.sequences > 0
            && (self.tokens + seqlen > self.limits.max_batch_tokens
                || self.sequences == self.limits.max_batch_sequences)
    }

    fn taken(&self, tenant: usize, request: usize) -> usize {
        self.find(tenant, request).map_or(0, |i| self.picks[i].count)
    }

    fn pick(&mut self, tenant: usize, request: usize, count: usize) {
        match self.find(tenant, request) {
            Some(i) => self.picks[i].count += count,
            None if count > 0 => self.picks.push(Pick { tenant, request, count }),
            None => {}
        }
    }

    /// A request is only ever continued by the latest pick of its tenant, so the search ends there.
    fn find(&self, tenant: usize, request: usize) -> Option<usize> {
        let i = self.picks.iter().rposition(|pick| pick.tenant == tenant)?;
        (self.picks[i].request == request).then_some(i)
    }
}
