//! Rates a tenant is held to: token buckets on a clock that is passed in.

use std::time::{Duration, Instant};

use crate::error::Error;

/// What a tenant may take; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quota {
    pub requests_per_second: Option<f64>,
    pub tokens_per_second: Option<f64>,
    pub max_concurrent_requests: Option<usize>,
}

impl Quota {
    /// Whether there is a rate to keep, alone or with other servers.
    pub fn has_rate(&self) -> bool {
        self.requests_per_second.is_some() || self.tokens_per_second.is_some()
    }
}

/// What one second allows may come at once, and a single request or token always.
fn burst(rate: f64) -> f64 {
    rate.max(1.0)
}

/// A token bucket (Turner, 1986). It may be in debt: by the part of an estimate that fell short, by a cost
/// above its burst, by what other servers spent.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// `None`: full, as it has never been used.
    state: Option<(f64, Instant)>,
}

impl Bucket {
    /// What is in it at `now`.
    fn level(&self, rate: f64, now: Instant) -> f64 {
        let Some((level, at)) = self.state else { return burst(rate) };
        let gained = rate * now.saturating_duration_since(at).as_secs_f64();
        (level + gained).min(burst(rate))
    }

    /// How long until `cost` can be taken; zero is now. A cost above the burst waits for a full bucket.
    fn wait(&self, rate: f64, cost: f64, now: Instant) -> Duration {
        let missing = cost.min(burst(rate)) - self.level(rate, now);
        // A day: nobody waits for longer, and the sum stays far from the end of time.
        Duration::from_secs_f64((missing / rate).clamp(0.0, 86_400.0))
    }

    /// Takes `amount`, or gives back what is negative. Debts end at ten bursts: what other servers spent
    /// must not lock a tenant out for long after they are gone.
    fn take(&mut self, rate: f64, amount: f64, now: Instant) {
        let level = (self.level(rate, now) - amount).max(-10.0 * burst(rate));
        self.state = Some((level, now));
    }
}

/// Requests and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spent {
    pub requests: f64,
    pub tokens: f64,
}

/// A tenant's buckets, and what it spent here since somebody last asked.
#[derive(Debug, Default)]
pub struct Meter {
    requests: Bucket,
    tokens: Bucket,
    spent: Spent,
}

impl Meter {
    /// Takes one request of so many tokens, or nothing.
    ///
    /// # Errors
    /// [`Error::RateLimited`] with the time at which both rates allow it.
    pub fn admit(&mut self, quota: &Quota, tokens: usize, now: Instant) -> Result<(), Error> {
        let wait = |bucket: &Bucket, rate: Option<f64>, cost| {
            rate.map_or(Duration::ZERO, |rate| bucket.wait(rate, cost, now))
        };
        let for_requests = wait(&self.requests, quota.requests_per_second, 1.0);
        let for_tokens = wait(&self.tokens, quota.tokens_per_second, tokens as f64);
        let limit =
            if for_tokens > for_requests { "tokens per second" } else { "requests per second" };
        let retry_after = for_requests.max(for_tokens);
        if !retry_after.is_zero() {
            return Err(Error::RateLimited { limit, retry_after });
        }
        self.take(quota, Spent { requests: 1.0, tokens: tokens as f64 }, now);
        Ok(())
    }

    /// Takes what an estimate left out, or gives back what is negative.
    pub fn take(&mut self, quota: &Quota, spent: Spent, now: Instant) {
        self.take_elsewhere(quota, spent, now);
        self.spent.requests += spent.requests;
        self.spent.tokens += spent.tokens;
    }

    /// Takes what the tenant spent at other servers.
    pub fn take_elsewhere(&mut self, quota: &Quota, spent: Spent, now: Instant) {
        if let Some(rate) = quota.requests_per_second {
            self.requests.take(rate, spent.requests, now);
        }
        if let Some(rate) = quota.tokens_per_second {
            self.tokens.take(rate, spent.tokens, now);
        }
    }

    /// What was spent here since the last call.
    pub fn spent(&mut self) -> Spent {
        std::mem::take(&mut self.spent)
    }
}
