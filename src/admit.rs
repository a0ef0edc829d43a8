//! The door: a request is let in whole, or refused at once with the time at which to come back.
//!
//! The cost of a request is estimated from its bytes before anything is tokenised, and corrected after. So a
//! burst is refused for the price of parsing it, not of tokenising it.
//!
//! What fills the backlog is counted by tenant. A tenant may always hold its part of the backlog, whatever the
//! others hold beside it, and its deadlines are held against the part of the device it gets: otherwise
//! a flood would shut at the door those whom the queue would serve next.

use std::collections::HashMap;
use std::time::Duration;

use crate::batch::{Class, Rate, Share, TenantId};
use crate::error::Error;
use crate::request::Inputs;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes a token stands for in the estimate. English has 4 to 5; fewer elsewhere, so 4 errs on the high
/// side for most text, and the correction follows within milliseconds.
const BYTES_PER_TOKEN: usize = 4;

/// Special tokens of a pair, for the estimate.
const TOKENS_PER_PAIR: usize = 3;

/// The part of the time to a deadline that is promised away. A flood fills what is promised to the brim, so where
/// batches differ in speed some of it would come late. It covers a spread of 30 % between batches, but not slow
/// ones that come in long runs.
const SURE_PART: f64 = 0.8;

/// Retry-After is a whole number of seconds, at least this; clients ignore 0.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// And at most this: a longer promise than the clients' own patience helps nobody.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What may wait at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens admitted and not answered yet, of whoever holds more than its part. With everybody's part beside
    /// it that is twice as much at most, and one request for each tenant, which is let in however large.
    pub max_backlog_tokens: usize,
    /// Requests admitted and not answered yet: bounds what is held for each beside its tokens.
    pub max_requests: usize,
    /// Tokens in a pair, to which the estimate of one pair is cut.
    pub max_length: usize,
}

/// Counts what is inside.
#[derive(Debug)]
pub struct Admission {
    bounds: Bounds,
    rate: Rate,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Only tenants that hold something.
    tenants: HashMap<(TenantId, Class), Held>,
    classes: [Total; Class::COUNT],
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    tokens: usize,
    requests: usize,
    /// By which it was added to its class, whatever a new table says.
    weight: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Total {
    tokens: usize,
    requests: usize,
    weight: u64,
}

/// A request's place inside; given back when dropped, however the request ends.
#[derive(Debug)]
pub struct Permit {
    inside: Arc<Mutex<Inside>>,
    key: (TenantId, Class),
    tokens: usize,
}

impl Admission {
    pub fn new(bounds: Bounds, rate: Rate) -> Self {
        Self { bounds, rate, inside: Arc::default() }
    }

    /// Tokens admitted and not answered yet.
    pub fn backlog_tokens(&self) -> usize {
        lock(&self.inside).classes.iter().map(|total| total.tokens).sum()
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.rate.tokens_per_second()
    }

    /// Lets a request of so many tokens in, or says when to come back.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the backlog is full, or so long that `timeout` cannot be kept.
    pub fn admit(&self, tokens: usize, share: Share, timeout: Duration) -> Result<Permit, Error> {
        let mut inside = lock(&self.inside);
        let backlog = inside.backlog_tokens();
        // Alone, a request is always let in: waiting would not make it smaller.
        if backlog > 0 {
            let excess = self.excess(&inside, tokens, share, timeout);
            if excess > 0 || self.is_crowded(&inside, share) {
                let wait = self.rate.time_for(excess.min(backlog));
                let retry_after = wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
                return Err(Error::Overloaded { backlog_tokens: backlog, retry_after });
            }
        }
        let key = (share.tenant, share.class);
        inside.enter(key, share.weight, tokens);
        Ok(Permit { inside: Arc::clone(&self.inside), key, tokens })
    }

    /// Tokens the device has to do before there is room for the request and its deadline can be kept.
    fn excess(&self, inside: &Inside, tokens: usize, share: Share, timeout: Duration) -> usize {
        let own = inside.held(share);
        let part = inside.part(share);
        let backlog = inside.backlog_tokens();
        let alike = inside.classes[share.class as usize].tokens;
        let above: usize =
            inside.classes[..share.class as usize].iter().map(|total| total.tokens).sum();
        // What the device does until the request is done: at most all of its class and above, at least what
        // its own part of the device takes.
        let with_others = ((own.tokens + tokens) as f64 / part) as usize;
        let until_done = above + (alike + tokens).min(with_others);
        let late = until_done.saturating_sub(self.rate.tokens_in(timeout.mul_f64(SURE_PART)));
        let max = self.bounds.max_backlog_tokens;
        let over_all = (backlog + tokens).saturating_sub(max);
        let over_own = if own.requests == 0 { 0 } else { with_others.saturating_sub(max) };
        late.max(over_all.min(over_own))
    }

    fn is_crowded(&self, inside: &Inside, share: Share) -> bool {
        let requests: usize = inside.classes.iter().map(|total| total.requests).sum();
        let own = inside.held(share).requests as f64;
        let max = self.bounds.max_requests;
        requests >= max && own >= inside.part(share) * max as f64
    }

    /// Tokens the pairs of a request will come to, from their bytes.
    pub fn estimate(&self, inputs: &Inputs) -> usize {
        let pair = |a: usize, b: usize| {
            let tokens = (a + b) / BYTES_PER_TOKEN + TOKENS_PER_PAIR;
            tokens.min(self.bounds.max_length)
        };
        match inputs {
            Inputs::OneQuery { query, documents } => {
                documents.iter().map(|document| pair(query.len(), document.len())).sum()
            }
            Inputs::Pairs(pairs) => pairs.iter().map(|(a, b)| pair(a.len(), b.len())).sum(),
            Inputs::Texts(texts) | Inputs::Documents(texts) => {
                texts.iter().map(|text| pair(text.len(), 0)).sum()
            }
            Inputs::Tokens(texts) => {
                let tokens = texts.iter().map(|ids| ids.len() + TOKENS_PER_PAIR);
                tokens.map(|tokens| tokens.min(self.bounds.max_length)).sum()
            }
        }
    }
}

impl Inside {
    fn backlog_tokens(&self) -> usize {
        self.classes.iter().map(|total| total.tokens).sum()
    }

    fn held(&self, share: Share) -> Held {
        self.tenants.get(&(share.tenant, share.class)).copied().unwrap_or_default()
    }

    /// The part of its class that a tenant gets beside those who hold something, in (0, 1].
    fn part(&self, share: Share) -> f64 {
        let held = self.held(share);
        let weight = if held.requests > 0 { held.weight } else { share.weight };
        let others = self.classes[share.class as usize].weight - u64::from(held.weight);
        f64::from(weight) / (others + u64::from(weight)) as f64
    }

    fn enter(&mut self, key: (TenantId, Class), weight: u32, tokens: usize) {
        let total = &mut self.classes[key.1 as usize];
        let held = self.tenants.entry(key).or_insert_with(|| {
            total.weight += u64::from(weight);
            Held { tokens: 0, requests: 0, weight }
        });
        held.tokens += tokens;
        held.requests += 1;
        total.tokens += tokens;
        total.requests += 1;
    }

    fn leave(&mut self, key: (TenantId, Class), tokens: usize) {
        let total = &mut self.classes[key.1 as usize];
        total.tokens -= tokens;
        total.requests -= 1;
        let Some(held) = self.tenants.get_mut(&key) else { return };
        held.tokens -= tokens;
        held.requests -= 1;
        if held.requests == 0 {
            total.weight -= u64::from(held.weight);
            self.tenants.remove(&key);
        }
    }
}

impl Permit {
    /// Replaces the estimate by the number of tokens that were found.
    pub fn correct(&mut self, tokens: usize) {
        let mut inside = lock(&self.inside);
        let corrected = |held: usize| held - self.tokens + tokens;
        let total = &mut inside.classes[self.key.1 as usize].tokens;
        *total = corrected(*total);
        if let Some(held) = inside.tenants.get_mut(&self.key) {
            held.tokens = corrected(held.tokens);
        }
        self.tokens = tokens;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.inside).leave(self.key, self.tokens);
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    // Every change is complete before the lock is left, so poisoned counts are still whole.
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}
