//! The door: a request is let in whole, or refused at once with the time at which to come back.
//!
//! The cost of a request is estimated from its bytes before anything is tokenised, and corrected after. So a
//! burst is refused for the price of parsing it, not of tokenising it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::batch::Rate;
use crate::error::Error;
use crate::request::{Inputs, RerankRequest};

/// Bytes a token stands for in the estimate. English has 4 to 5; fewer elsewhere, so 4 errs on the high
/// side for most text, and the correction follows within milliseconds.
const BYTES_PER_TOKEN: usize = 4;

/// Special tokens of a pair, for the estimate.
const TOKENS_PER_PAIR: usize = 3;

/// Retry-After is a whole number of seconds, at least this; clients ignore 0.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// And at most this: a longer promise than the clients' own patience helps nobody.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What may wait at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens admitted and not answered yet. A request larger than this is let in when it is alone.
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
    inside: Arc<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    tokens: AtomicUsize,
    requests: AtomicUsize,
}

/// A request's place inside; given back when dropped, however the request ends.
#[derive(Debug)]
pub struct Permit {
    inside: Arc<Inside>,
    tokens: usize,
}

impl Admission {
    pub fn new(bounds: Bounds, rate: Rate) -> Self {
        Self { bounds, rate, inside: Arc::default() }
    }

    /// Tokens admitted and not answered yet.
    pub fn backlog_tokens(&self) -> usize {
        self.inside.tokens.load(Ordering::Relaxed)
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.rate.tokens_per_second()
    }

    /// Lets a request in, or says when to come back.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when the backlog is full, or so long that `timeout` cannot be kept.
    pub fn admit(&self, request: &RerankRequest, timeout: Duration) -> Result<Permit, Error> {
        let tokens = self.estimate(&request.inputs);
        let requests = self.inside.requests.fetch_add(1, Ordering::AcqRel);
        let backlog = self.inside.tokens.fetch_add(tokens, Ordering::AcqRel);
        // From here on dropping the permit undoes both additions.
        let permit = Permit { inside: Arc::clone(&self.inside), tokens };
        let crowded = requests >= self.bounds.max_requests;
        // What has to be done before there is room for it, and before its deadline can be kept. Alone, a
        // request is always let in: waiting would not make it smaller.
        let limit = self.bounds.max_backlog_tokens.min(self.rate.tokens_in(timeout));
        let excess = if backlog == 0 { 0 } else { (backlog + tokens).saturating_sub(limit) };
        if excess > 0 || crowded {
            let wait = self.rate.time_for(excess.min(backlog));
            let retry_after = wait.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
            return Err(Error::Overloaded { backlog_tokens: backlog, retry_after });
        }
        Ok(permit)
    }

    /// Tokens the pairs of a request will come to, from their bytes.
    fn estimate(&self, inputs: &Inputs) -> usize {
        let pair = |a: usize, b: usize| {
            let tokens = (a + b) / BYTES_PER_TOKEN + TOKENS_PER_PAIR;
            tokens.min(self.bounds.max_length)
        };
        match inputs {
            Inputs::OneQuery { query, documents } => {
                documents.iter().map(|document| pair(query.len(), document.len())).sum()
            }
            Inputs::Pairs(pairs) => pairs.iter().map(|(a, b)| pair(a.len(), b.len())).sum(),
            Inputs::Texts(texts) => texts.iter().map(|text| pair(text.len(), 0)).sum(),
        }
    }
}

impl Permit {
    /// Replaces the estimate by the number of tokens that were found.
    pub fn correct(&mut self, tokens: usize) {
        if tokens >= self.tokens {
            self.inside.tokens.fetch_add(tokens - self.tokens, Ordering::AcqRel);
        } else {
            self.inside.tokens.fetch_sub(self.tokens - tokens, Ordering::AcqRel);
        }
        self.tokens = tokens;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inside.tokens.fetch_sub(self.tokens, Ordering::AcqRel);
        self.inside.requests.fetch_sub(1, Ordering::AcqRel);
    }
}
