//! A tenant as a request meets it: what it may do, what it has used.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::quota::{Meter, Quota, Spent};
use crate::batch::Share;
use crate::error::Error;
use crate::metrics::TenantCounts;
use crate::model::registry::Names;
use crate::request::Tally;

/// Retry-After is a whole number of seconds; the least that clients respect.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// One request in so many makes the mean time of a tenant's requests.
const REMEMBERED_REQUESTS: u64 = 8;

/// A tenant by the latest table.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub name: String,
    pub share: Share,
    /// May see the usage of all, and change the models.
    pub is_admin: bool,
    /// `None` is all.
    pub models: Option<Vec<String>>,
    pub quota: Quota,
    pub(super) account: Arc<Account>,
}

/// What outlives a reload: counts, buckets, requests under way.
#[derive(Debug, Default)]
pub(super) struct Account {
    meter: Mutex<Meter>,
    concurrent: AtomicUsize,
    /// What its latest requests took in the mean, in microseconds; 0 before the first.
    mean_micros: AtomicU64,
    requests: AtomicU64,
    refusals: AtomicU64,
    documents: AtomicU64,
    tokens: AtomicU64,
    search_units: AtomicU64,
}

/// What a request has taken of its tenant's quota. Its place among the concurrent ones is given back when it
/// is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    quota: Quota,
    tokens: usize,
}

impl Tenant {
    /// Everybody where nobody has a key: no limits.
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".into(),
            share: Share::ANONYMOUS,
            is_admin: false,
            models: None,
            quota: Quota::default(),
            account: Arc::default(),
        }
    }

    /// Whether the tenant may use the model of these names.
    pub fn may_use(&self, model: &Names) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|name| model.has(name)))
    }

    /// Takes a request of an estimated size off the quota.
    ///
    /// # Errors
    /// [`Error::RateLimited`], and then nothing is taken.
    pub fn charge(&self, tokens: usize, now: Instant) -> Result<Charge, Error> {
        let concurrent = self.account.concurrent.fetch_add(1, Ordering::AcqRel);
        // From here on dropping the charge undoes the addition.
        let charge = Charge { account: Arc::clone(&self.account), quota: self.quota, tokens };
        if let Some(max) = self.quota.max_concurrent_requests.filter(|max| concurrent >= *max) {
            let limit = "concurrent requests";
            let retry_after = self.account.time_for_one(max);
            return Err(Error::RateLimited { limit, retry_after });
        }
        self.account.meter().admit(&self.quota, tokens, now)?;
        Ok(charge)
    }

    /// A request was answered.
    pub fn answered(&self, tally: &Tally<'_>) {
        let account = &*self.account;
        let stamps = &tally.stamps;
        account.took(stamps.scored.saturating_duration_since(stamps.parsed));
        let add = |counter: &AtomicU64, n: usize| counter.fetch_add(n as u64, Ordering::Relaxed);
        add(&account.requests, 1);
        add(&account.documents, tally.num_texts);
        add(&account.tokens, tally.prompt_tokens);
        add(&account.search_units, tally.search_units);
    }

    /// A request got an error.
    pub fn refused(&self) {
        self.account.refusals.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> TenantCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let account = &*self.account;
        TenantCounts {
            requests: read(&account.requests),
            refusals: read(&account.refusals),
            documents: read(&account.documents),
            tokens: read(&account.tokens),
            search_units: read(&account.search_units),
        }
    }
}

impl Charge {
    /// Replaces the estimate by the number of tokens that were found.
    pub fn correct(&mut self, tokens: usize, now: Instant) {
        let more = Spent { requests: 0.0, tokens: tokens as f64 - self.tokens as f64 };
        self.tokens = tokens;
        self.account.meter().take(&self.quota, more, now);
    }

    /// Gives everything back: the request was refused for another reason.
    pub fn refund(self, now: Instant) {
        let back = Spent { requests: -1.0, tokens: -(self.tokens as f64) };
        self.account.meter().take(&self.quota, back, now);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.concurrent.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Account {
    fn took(&self, time: Duration) {
        let micros = time.as_micros() as u64;
        let next = |mean: u64| match mean {
            0 => Some(micros),
            _ => Some(mean - mean / REMEMBERED_REQUESTS + micros / REMEMBERED_REQUESTS),
        };
        // The function has an answer for every mean.
        let _ = self.mean_micros.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// When one of `concurrent` requests under way is expected to end, if they began evenly spread.
    fn time_for_one(&self, concurrent: usize) -> Duration {
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        mean.div_f64(concurrent.max(1) as f64).max(MIN_RETRY_AFTER)
    }

    pub(super) fn meter(&self) -> MutexGuard<'_, Meter> {
        // Every change of a meter is complete before the lock is left, so a poisoned one is still whole.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
