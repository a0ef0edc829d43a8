//! The planner: what goes to the device next. Pure: no clock, no I/O, no memory of its own.
//!
//! A higher class goes first, yet each class has a floor of an eighth of the batches while it waits. Between the
//! tenants of a class it runs deficit round robin (Shreedhar & Varghese, 1995) with tokens as the unit; a round
//! grants one batch, so whoever waits has its part of every batch. Between the requests of a tenant the earliest
//! [`key`](order_key) goes first: every token a long request has been served moves it back in time, so one of
//! 5,000 documents yields to one of 20 that came later, yet is never passed by more than a bounded stretch of
//! newcomers.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::Class;

/// Bounds of one batch. Checked by `config`: `max_batch_tokens` holds the longest sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_batch_tokens: usize,
    pub max_batch_sequences: usize,
    /// How long a request may wait for company while the device has a batch to run.
    pub max_queue_delay: Duration,
}

impl Limits {
    /// The smallest `max_batch_tokens`: rows of one tile of a GPU's product.
    pub const LEAST_BATCH_TOKENS: usize = 64;
}

/// Batches in a row that may pass over a class with work waiting; the next one is its own. Two lower classes
/// can be due at once, and then one of them waits for one batch more.
pub const MAX_BATCHES_PASSED: usize = 8;

/// How much later a request counts as having arrived per second of device time it has used.
/// At 2 a long request keeps about a third of a device that newcomers would fill alone.
const SERVICE_PENALTY: f64 = 2.0;

/// How much later a request counts as having arrived for each step of its priority: at 999 it yields to
/// whatever its tenant sends in the ten seconds after it, and to nothing later, so it cannot starve.
const PRIORITY_STEP: Duration = Duration::from_millis(10);

/// What the planner sees of the queue.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The highest class first.
    pub classes: [ClassView<'a>; Class::COUNT],
    /// Tokens per second the device has lately done; scales service into time.
    pub tokens_per_second: f64,
    /// The device has a batch to run while this one is prepared.
    pub device_busy: bool,
}

#[derive(Debug, Clone)]
pub struct ClassView<'a> {
    /// In ring order: the tenant whose turn it is comes first.
    pub tenants: Vec<TenantView<'a>>,
    /// What is missing to its floor, in batches; due at 1.
    pub owed_batches: f64,
}

#[derive(Debug, Clone)]
pub struct TenantView<'a> {
    pub weight: u32,
    /// Tokens it may still take before others had theirs.
    pub deficit: i64,
    /// Its turn goes on: the last batch was full before its grant was used.
    pub is_granted: bool,
    pub requests: Vec<RequestView<'a>>,
}

/// One queued request. `pending` is never empty: a request without pending sequences has left the queue.
#[derive(Debug, Clone)]
pub struct RequestView<'a> {
    pub arrived: Instant,
    pub deadline: Option<Instant>,
    pub priority: u16,
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

#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    Batch {
        picks: Vec<Pick>,
        after: [After; Class::COUNT],
    },
    /// More may come to fill the batch: ask again at this instant, or when something arrives.
    WaitUntil(Instant),
    /// Nothing is queued.
    Empty,
}

/// A class after the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct After {
    /// Of each tenant of the view, in its order.
    pub deficits: Vec<i64>,
    /// The tenant of the view whose turn is next.
    pub next_tenant: usize,
    /// Whether that turn goes on.
    pub is_granted: bool,
    pub owed_batches: f64,
}

/// The next `count` pending sequences of a request go into the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub class: usize,
    pub tenant: usize,
    pub request: usize,
    pub count: usize,
}

/// Decides the next batch.
pub fn plan(view: &View<'_>, now: Instant, limits: &Limits) -> Plan {
    let tenants = || view.classes.iter().flat_map(|class| &class.tenants);
    let requests = || tenants().flat_map(|tenant| &tenant.requests);
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
/// in order of arrival, plus [`PRIORITY_STEP`]s, plus [`SERVICE_PENALTY`] times the device time used if
/// they are long.
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
    let penalty = Duration::from_secs_f64(penalty.min(86_400.0));
    (true, request.arrived + PRIORITY_STEP * u32::from(request.priority) + penalty)
}

/// A batch being filled.
struct Filling<'a> {
    view: &'a View<'a>,
    limits: &'a Limits,
    classes: [Served; Class::COUNT],
    picks: Vec<Pick>,
    tokens: usize,
    sequences: usize,
}

/// One class while a batch is filled.
struct Served {
    /// Request indices of each tenant, the next to be served last.
    order: Vec<Vec<usize>>,
    after: After,
    tokens: usize,
}

impl<'a> Filling<'a> {
    fn new(view: &'a View<'a>, now: Instant, limits: &'a Limits) -> Self {
        let order = |tenant: &TenantView<'_>| {
            let keys = tenant.requests.iter().enumerate();
            let mut keyed: Vec<_> =
                keys.map(|(i, r)| (order_key(r, now, view.tokens_per_second, limits), i)).collect();
            keyed.sort_unstable_by(|a, b| b.cmp(a));
            keyed.into_iter().map(|(_, i)| i).collect()
        };
        let classes = view.classes.each_ref().map(|class| Served {
            order: class.tenants.iter().map(order).collect(),
            after: After {
                deficits: class.tenants.iter().map(|tenant| tenant.deficit).collect(),
                next_tenant: 0,
                is_granted: class.tenants.first().is_some_and(|tenant| tenant.is_granted),
                owed_batches: class.owed_batches,
            },
            tokens: 0,
        });
        Self { view, limits, classes, picks: Vec::new(), tokens: 0, sequences: 0 }
    }

    fn run(mut self) -> Plan {
        for class in self.order_of_classes() {
            if !self.serve_class(class) {
                break;
            }
        }
        let floor = 1.0 / MAX_BATCHES_PASSED as f64;
        for (served, class) in self.classes.iter_mut().zip(&self.view.classes) {
            if !class.tenants.is_empty() {
                let got = served.tokens as f64 / self.tokens.max(1) as f64;
                served.after.owed_batches = (class.owed_batches + floor - got).max(0.0);
            }
        }
        Plan::Batch { picks: self.picks, after: self.classes.map(|served| served.after) }
    }

    /// Classes whose floor is due, the one that waits longest leading; then from the highest down.
    fn order_of_classes(&self) -> [usize; Class::COUNT] {
        let mut order = std::array::from_fn(|class| class);
        let owed = |class: usize| self.view.classes[class].owed_batches;
        let due = |class: usize| if owed(class) >= 1.0 { owed(class) } else { 0.0 };
        order.sort_by(|&a, &b| due(b).total_cmp(&due(a)));
        order
    }

    /// Rounds over the tenants of a class. Returns false when the batch can take no more.
    fn serve_class(&mut self, class: usize) -> bool {
        let view = &self.view.classes[class];
        let sum: u64 = view.tenants.iter().map(|tenant| u64::from(tenant.weight)).sum();
        // A round grants one batch in all: then nobody waits for the rest of another's large grant.
        let round = self.usual_batch_tokens(class) as u64;
        let quantum =
            |tenant: usize| (u64::from(view.tenants[tenant].weight) * round / sum).max(1) as i64;
        let mut tenant = 0;
        let mut granted: Vec<_> = view.tenants.iter().map(|tenant| tenant.is_granted).collect();
        while self.classes[class].order.iter().any(|requests| !requests.is_empty()) {
            if !std::mem::take(&mut granted[tenant]) {
                self.classes[class].after.deficits[tenant] += quantum(tenant);
            }
            if !self.serve(class, tenant) {
                let after = &mut self.classes[class].after;
                (after.next_tenant, after.is_granted) = (tenant, true);
                if view.tenants.len() == 1 {
                    // Alone it had its turn against nobody: the next to come must not wait for the rest of it.
                    (after.deficits[0], after.is_granted) = (0, false);
                }
                return false;
            }
            tenant = (tenant + 1) % view.tenants.len();
        }
        let after = &mut self.classes[class].after;
        (after.next_tenant, after.is_granted) = (tenant, false);
        true
    }

    /// Tokens of a batch of this class: of short sequences it holds fewer, by what each tenant sends next.
    fn usual_batch_tokens(&self, class: usize) -> usize {
        let tenants = self.view.classes[class].tenants.iter();
        let next = tenants.zip(&self.classes[class].order).filter_map(|(tenant, order)| {
            let PendingLens { sequences, range } = &tenant.requests[*order.last()?].pending;
            Some(sequences.seqlen(range.start))
        });
        let (sum, count) = next.fold((0, 0), |(sum, count), seqlen| (sum + seqlen, count + 1));
        let most = self.limits.max_batch_sequences * sum / count.max(1);
        most.min(self.limits.max_batch_tokens)
    }

    /// Serves one tenant's turn. Returns false when the batch can take no more.
    fn serve(&mut self, class: usize, tenant: usize) -> bool {
        while let Some(&request) = self.classes[class].order[tenant].last() {
            let PendingLens { sequences, range } =
                &self.view.classes[class].tenants[tenant].requests[request].pending;
            let pick = Pick { class, tenant, request, count: 0 };
            let mut taken = self.taken(pick);
            let before = taken;
            let mut full = false;
            let mut spent = false;
            while taken < range.len() {
                let seqlen = sequences.seqlen(range.start + taken);
                spent = self.classes[class].after.deficits[tenant] < seqlen as i64;
                full = self.is_full_for(seqlen);
                if spent || full {
                    break;
                }
                self.classes[class].after.deficits[tenant] -= seqlen as i64;
                self.classes[class].tokens += seqlen;
                self.tokens += seqlen;
                self.sequences += 1;
                taken += 1;
            }
            self.pick(Pick { count: taken - before, ..pick });
            if spent {
                return true;
            }
            if full {
                return false;
            }
            self.classes[class].order[tenant].pop();
        }
        // An idle tenant saves nothing up: that is what keeps the others' waiting bounded.
        self.classes[class].after.deficits[tenant] = 0;
        true
    }

    /// An empty batch takes any sequence, so that one longer than the budget cannot block the queue.
    fn is_full_for(&self, seqlen: usize) -> bool {
        self.sequences > 0
            && (self.tokens + seqlen > self.limits.max_batch_tokens
                || self.sequences == self.limits.max_batch_sequences)
    }

    fn taken(&self, pick: Pick) -> usize {
        self.find(pick).map_or(0, |i| self.picks[i].count)
    }

    fn pick(&mut self, pick: Pick) {
        match self.find(pick) {
            Some(i) => self.picks[i].count += pick.count,
            None if pick.count > 0 => self.picks.push(pick),
            None => {}
        }
    }

    /// A request is only ever continued by the latest pick of its tenant, so the search ends there.
    fn find(&self, Pick { class, tenant, request, .. }: Pick) -> Option<usize> {
        let own = |pick: &Pick| (pick.class, pick.tenant) == (class, tenant);
        let i = self.picks.iter().rposition(own)?;
        (self.picks[i].request == request).then_some(i)
    }
}
