//! The path of one request, from its texts to its scores: each arrow one call.

mod fold;
mod golden;
mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::admit::{Admission, Bounds};
use crate::batch::{self, Answer, Batcher, Class, Entry, Limits, Rate, Share};
use crate::clock;
use crate::error::Error;
use crate::health::{Health, State};
use crate::metrics::{Load, Metrics};
use crate::model::head::Head;
use crate::model::registry::Names;
use crate::request::{RerankRequest, RerankResponse, Stamps};
use crate::tenant::Tenant;
use crate::tokenize;

pub use load::{Prepared, prepare};

/// Bounds of the service, from the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    pub limits: Limits,
    /// `None`: what the device does in [`DEFAULT_BACKLOG`].
    pub max_backlog_tokens: Option<usize>,
    pub max_requests: usize,
    pub tokenizer_threads: usize,
    /// For requests that name no deadline of their own.
    pub default_timeout: Duration,
    /// However long a client says it would wait.
    pub max_timeout: Duration,
}

/// Work that may wait by default: longer than most clients' patience, so that refusals begin about where
/// answers would come too late.
const DEFAULT_BACKLOG: Duration = Duration::from_secs(30);

/// When a server that is starting or draining may be asked again.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// A model being served: its tokenizer threads, its door, its batcher.
#[derive(Debug)]
pub struct Service {
    names: Names,
    head: Head,
    width: usize,
    tokenizers: tokenize::Pool,
    admission: Admission,
    batcher: batch::Handle,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    default_timeout: Duration,
    max_timeout: Duration,
}

impl Service {
    /// Starts the threads that serve a prepared model.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        names: Names,
        model: Prepared,
        options: &Options,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> std::io::Result<Self> {
        let Prepared { max_length, head, scorers, encoder, tokens_per_second, .. } = model;
        let num_devices = scorers.len();
        let rate = Rate::new(tokens_per_second);
        let backlog_for_default = tokens_per_second * DEFAULT_BACKLOG.as_secs_f64();
        let bounds = Bounds {
            max_backlog_tokens: options.max_backlog_tokens.unwrap_or(backlog_for_default as usize),
            max_requests: options.max_requests,
            max_length,
        };
        Ok(Self {
            names,
            head,
            width: scorers.first().map_or(0, |scorer| scorer.width()),
            tokenizers: tokenize::Pool::spawn(encoder, options.tokenizer_threads)?,
            admission: Admission::new(bounds, rate.clone()),
            batcher: batch::spawn(
                Batcher::new(options.limits, rate, num_devices),
                scorers,
                &metrics,
                &health,
            )?,
            metrics,
            health,
            default_timeout: options.default_timeout,
            max_timeout: options.max_timeout,
        })
    }

    pub fn load(&self) -> Load {
        Load {
            backlog_tokens: self.admission.backlog_tokens(),
            tokens_per_second: self.admission.tokens_per_second(),
        }
    }

    /// Scores a request: admitted whole, answered whole, and cancelled whole when the caller drops this
    /// future. `stamps` knows when it was received and parsed.
    ///
    /// # Errors
    /// Every kind of [`Error`] that concerns a request that could be read.
    pub async fn rerank(
        &self,
        request: RerankRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<RerankResponse, Error> {
        let mut visit = Visit::begin(&self.metrics);
        let result = self.score(request, stamps, tenant).await;
        visit.ended = true;
        match &result {
            Ok(response) => {
                let took = clock::now().saturating_duration_since(stamps.received);
                self.metrics.scored(response, took);
                tenant.answered(response);
            }
            Err(error) => {
                self.metrics.refused(error);
                tenant.refused();
            }
        }
        result
    }

    async fn score(
        &self,
        request: RerankRequest,
        mut stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<RerankResponse, Error> {
        // While draining, whoever still reaches this server is served: nothing is lost in a restart.
        let state = self.health.state();
        if matches!(state, State::Starting | State::Faulty | State::Lost) {
            return Err(unavailable(state));
        }
        tenant.check_model(&self.names)?;
        let model = self.names.resolve(request.model.as_deref())?.to_owned();
        let timeout = request.timeout.unwrap_or(self.default_timeout).min(self.max_timeout);
        let deadline = stamps.received + timeout;
        let share = share_of(tenant, request.priority);
        let estimate = self.admission.estimate(&request.inputs);
        let mut charge = tenant.charge(estimate, stamps.parsed)?;
        let mut permit = match self.admission.admit(estimate, share, timeout) {
            Ok(permit) => permit,
            Err(error) => {
                charge.refund(stamps.parsed);
                return Err(error);
            }
        };
        stamps.admitted = clock::now();

        let inputs = Arc::new(request.inputs);
        let tokenizing = self.tokenizers.tokenize(share.tenant, &inputs, &request.truncation);
        let tokenized = by(deadline, tokenizing).await??;
        stamps.tokenized = clock::now();
        permit.correct(tokenized.sequences.num_tokens());
        charge.correct(tokenized.sequences.num_tokens(), stamps.tokenized);

        let sequences = Arc::new(tokenized.sequences);
        let (answer, rows) = Answer::new(sequences.len(), self.width);
        self.batcher.submit(Entry {
            share,
            priority: request.priority,
            sequences: Arc::clone(&sequences),
            answer: Arc::new(answer),
            arrived: stamps.received,
            deadline: Some(deadline),
        })?;
        let rows = by(deadline, rows).await?.map_err(|_| Error::Unavailable {
            reason: "the server is stopping".into(),
            retry_after: UNAVAILABLE_RETRY_AFTER,
        })??;
        (stamps.started, stamps.scored) = (rows.started, rows.scored);

        let folded =
            fold::fold(&self.head, self.width, &rows.values, &sequences, &tokenized.items)?;
        Ok(RerankResponse {
            id: request.id,
            model,
            results: folded.results,
            label_logits: folded.label_logits,
            labels: self.head.labels().to_vec(),
            prompt_tokens: sequences.num_tokens(),
            num_chars: inputs.num_chars(),
            stamps,
        })
    }
}

/// From this priority on a request is of the lowest class, behind other tenants' too.
const LOW_PRIORITY: u16 = 500;

/// A request has the class of its tenant, or asks for the lowest: a higher one is not its own to ask for.
fn share_of(tenant: &Tenant, priority: u16) -> Share {
    let class = if priority >= LOW_PRIORITY { Class::Low } else { tenant.share.class };
    Share { class, ..tenant.share }
}

/// What a client is told of a state in which it is not served.
pub fn unavailable(state: State) -> Error {
    Error::Unavailable { reason: state.reason().into(), retry_after: UNAVAILABLE_RETRY_AFTER }
}

/// Waits for `future` no longer than to the deadline.
async fn by<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Error> {
    timeout_at(deadline.into(), future).await.map_err(|_| Error::DeadlineExceeded)
}

/// Counts a request as being worked on, and as cancelled if its future is dropped before the end.
struct Visit<'a> {
    metrics: &'a Metrics,
    ended: bool,
}

impl<'a> Visit<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.in_flight(1.0);
        Self { metrics, ended: false }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight(-1.0);
        if !self.ended {
            self.metrics.cancelled();
        }
    }
}
