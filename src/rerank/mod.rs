//! The path of one request, from its texts to its scores: each arrow one call.

mod cascade;
mod embed;
mod fold;
mod golden;
mod late;
mod load;
mod loader;
mod memory;
mod models;
mod rows;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::admit::{Admission, Bounds};
use crate::batch::{self, Batcher, Class, Limits, Rate, Sequences, Share, Turns, Watch};
use crate::clock;
use crate::engine::Dtype;
use crate::error::Error;
use crate::health::{Health, State};
use crate::metrics::{Load, Metrics};
use crate::model::head::Head;
use crate::request::{Answer, Inputs, RerankRequest, RerankResponse, Stamps, Tally, Truncation};
use crate::score::{Matrices, MatrixOptions, Scores};
use crate::tenant::Tenant;
use crate::tokenize::{self, Item};

use fold::Folded;
use rows::Visit;

pub use cascade::Cascade;
pub use load::{BatchTokens, Prepared, PreparedLate, prepare, prepare_to_fit};
pub use loader::{Loaded, Loader, Spec};
pub use models::{Models, Serving};

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
    /// How long a batch may take before its device is said to hang.
    pub device_timeout: Duration,
    /// Memory for rows that may be asked for again; 0: every sequence is scored.
    pub score_cache_bytes: usize,
    /// Of a model of late interaction.
    pub matrices: MatrixOptions,
}

/// An idle device is asked for a score this often: soon enough for the third probe of a process to say within
/// a load balancer's patience whether it recovered, for a thousandth of its time.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Batches differ in cost by less than this factor from their tokens at the measured speed.
const SLOWEST_BATCH: f64 = 10.0;

/// Work that may wait by default: longer than most clients' patience, so that refusals begin about where
/// answers would come too late.
const DEFAULT_BACKLOG: Duration = Duration::from_secs(30);

/// When a server that is starting or draining may be asked again.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the models of a process share.
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    pub devices: Devices,
}

/// The turns of each device: of the CPU, and of each GPU.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    cpu: Turns,
    gpus: Arc<Mutex<Vec<Turns>>>,
}

impl Devices {
    /// Those of a model's instances, in their order: one on the CPU, or one a GPU.
    fn turns(&self, dtype: Dtype, num_instances: usize) -> Vec<Turns> {
        // What computes in f16 is a GPU, and nothing else does.
        if dtype != Dtype::F16 {
            return vec![self.cpu.clone(); num_instances];
        }
        let mut gpus = self.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        let num_gpus = gpus.len().max(num_instances);
        gpus.resize_with(num_gpus, Turns::default);
        gpus[..num_instances].to_vec()
    }
}

/// A model being served: its tokenizer threads, its door, its batcher.
#[derive(Debug)]
pub struct Service {
    /// As replies have it.
    name: String,
    /// What computes, and how: with the model's name all that decides the bits of a row.
    computes: [String; 2],
    head: Head,
    width: usize,
    scores: Option<Scores>,
    late: Option<Arc<late::Late>>,
    tokenizers: tokenize::Pool,
    admission: Admission,
    batcher: batch::Handle,
    host: Host,
    default_timeout: Duration,
    max_timeout: Duration,
}

impl Options {
    /// A device that tells by itself that it hangs is let to. On a slow machine a large batch takes its time.
    fn watch(&self, tokens_per_second: f64) -> Watch {
        let batch_seconds = self.limits.max_batch_tokens as f64 / tokens_per_second.max(1.0);
        let slowest = Duration::try_from_secs_f64(SLOWEST_BATCH * batch_seconds);
        let limit = (2 * self.device_timeout).max(slowest.unwrap_or(Duration::MAX));
        Watch { limit, probe_interval: PROBE_INTERVAL }
    }
}

impl Service {
    /// Starts the threads that serve a prepared model.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        name: String,
        model: Prepared,
        options: &Options,
        host: &Host,
    ) -> std::io::Result<Self> {
        let Prepared {
            max_length,
            head,
            scorers,
            encoder,
            tokens_per_second,
            device,
            dtype,
            late,
            ..
        } = model;
        let width = scorers.first().map_or(0, |scorer| scorer.width());
        let scores = (options.score_cache_bytes > 0).then(|| {
            Scores::new(options.score_cache_bytes, width, options.limits.max_batch_tokens)
        });
        let late = late.map(|prepared| {
            let PreparedLate { max_sim, weights } = prepared;
            let format = options.matrices.format.name().to_owned();
            let late = late::Late {
                matrices: Matrices::open(&options.matrices, width)?,
                max_sim,
                skiplist: encoder.skiplist().clone(),
                identity: [weights, dtype.name().to_owned(), format],
                is_shared: options.matrices.is_shared,
                patience_tokens: options.limits.max_batch_tokens,
            };
            Ok::<_, std::io::Error>(Arc::new(late))
        });
        let num_devices = scorers.len();
        let rate = Rate::new(tokens_per_second);
        let backlog_for_default = tokens_per_second * DEFAULT_BACKLOG.as_secs_f64();
        let bounds = Bounds {
            max_backlog_tokens: options.max_backlog_tokens.unwrap_or(backlog_for_default as usize),
            max_requests: options.max_requests,
            max_length,
        };
        Ok(Self {
            name,
            computes: [device, dtype.name().to_owned()],
            head,
            width,
            scores,
            late: late.transpose()?,
            tokenizers: tokenize::Pool::spawn(encoder, options.tokenizer_threads)?,
            admission: Admission::new(bounds, rate.clone()),
            batcher: batch::spawn_on(
                Batcher::new(options.limits, rate, num_devices),
                scorers.into_iter().zip(host.devices.turns(dtype, num_devices)).collect(),
                options.watch(tokens_per_second),
                &host.metrics,
                &host.health,
            )?,
            host: host.clone(),
            default_timeout: options.default_timeout,
            max_timeout: options.max_timeout,
        })
    }

    pub fn load(&self) -> Load {
        Load {
            backlog_tokens: self.admission.backlog_tokens(),
            tokens_per_second: self.admission.tokens_per_second(),
            cache_bytes: self.scores.as_ref().map_or(0, Scores::num_bytes),
            matrices: self.late.as_ref().map(|late| late.counts()),
            ..Load::default()
        }
    }

    /// What keeps apart the rows of different models; the cache itself is born with its model.
    fn identity(&self) -> [&str; 3] {
        let [device, dtype] = &self.computes;
        [&self.name, device, dtype]
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
        let _in_flight = InFlight::begin(&self.host.metrics);
        let response = self.score(request, stamps, tenant).await?;
        self.answered(&response.tally());
        Ok(response)
    }

    fn answered(&self, tally: &Tally<'_>) {
        let took = clock::now().saturating_duration_since(tally.stamps.received);
        self.host.metrics.scored(tally, took);
    }

    /// How long a request may take that asked for so much.
    fn timeout_of(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(self.default_timeout).min(self.max_timeout)
    }

    /// When a request would be done that came now, by what waits and the measured speed.
    fn time_for(&self, inputs: &Inputs) -> Duration {
        let tokens = self.admission.backlog_tokens() + self.admission.estimate(inputs);
        let seconds = tokens as f64 / self.admission.tokens_per_second();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    async fn score(
        &self,
        request: RerankRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<RerankResponse, Error> {
        let work = Work {
            inputs: request.inputs,
            truncation: request.truncation,
            timeout: request.timeout,
            priority: request.priority,
            may_cache: request.may_cache,
            of_tokens: false,
        };
        let done = self.run(work, stamps, tenant).await?;
        let (sequences, items) = (&done.sequences, &done.items);
        let mut num_precomputed = 0;
        let folded = match &done.found {
            Found::Rows(values) => fold::fold(&self.head, self.width, values, sequences, items)?,
            Found::Matches(matches) => fold::fold_matches(matches, sequences, items)?,
            Found::TokenRows(_) => {
                return Err(Error::Internal("token vectors in the place of scores".into()));
            }
            Found::Precomputed(num_documents) => {
                num_precomputed = *num_documents;
                Folded::default()
            }
        };
        Ok(RerankResponse {
            id: request.id,
            model: self.name.clone(),
            results: folded.results,
            label_logits: folded.label_logits,
            labels: self.head.labels().to_vec(),
            prompt_tokens: done.sequences.num_tokens(),
            num_chars: done.num_chars,
            num_precomputed,
            is_degraded: false,
            stamps: done.stamps,
        })
    }

    /// From texts to rows, whatever is then made of them.
    async fn run(&self, work: Work, mut stamps: Stamps, tenant: &Tenant) -> Result<Done, Error> {
        // While draining, whoever still reaches this server is served: nothing is lost in a restart.
        let state = self.host.health.state();
        if matches!(state, State::Starting | State::Faulty | State::Lost) {
            return Err(unavailable(state));
        }
        let timeout = self.timeout_of(work.timeout);
        let deadline = stamps.received + timeout;
        let share = share_of(tenant, work.priority);
        let estimate = self.admission.estimate(&work.inputs);
        let mut charge = tenant.charge(estimate, stamps.parsed)?;
        let mut permit = match self.admission.admit(estimate, share, timeout) {
            Ok(permit) => permit,
            Err(error) => {
                charge.refund(stamps.parsed);
                return Err(error);
            }
        };
        stamps.admitted = clock::now();

        let inputs = Arc::new(work.inputs);
        let tokenizing = self.tokenizers.tokenize(share.tenant, &inputs, &work.truncation);
        let tokenized = by(deadline, tokenizing).await??;
        stamps.tokenized = clock::now();
        charge.correct(tokenized.sequences.num_tokens(), stamps.tokenized);

        let sequences = Arc::new(tokenized.sequences);
        let visit = Visit {
            service: self,
            share,
            tenant_name: &tenant.name,
            priority: work.priority,
            sequences: &sequences,
            arrived: stamps.received,
            deadline,
        };
        let items = tokenized.items;
        let found = match (&self.late, &*inputs) {
            (None, Inputs::Documents(_)) => return Err(keeps_no_vectors()),
            (Some(late), Inputs::Documents(_)) => {
                let num_precomputed = late.precompute(&visit, &mut permit, &items).await?;
                (stamps.started, stamps.scored) = (stamps.tokenized, clock::now());
                Found::Precomputed(num_precomputed)
            }
            (None, _) => {
                let rows = visit.rows(&mut permit, work.may_cache).await?;
                (stamps.started, stamps.scored) = (rows.started, rows.scored);
                Found::Rows(rows.values)
            }
            (Some(_), _) if work.of_tokens => {
                permit.correct(sequences.num_tokens());
                let rows = visit.score(Arc::clone(&sequences)).await?;
                (stamps.started, stamps.scored) = (rows.started, rows.scored);
                Found::TokenRows(rows.values)
            }
            (Some(late), _) => {
                let matches = late.matches(&visit, &mut permit, work.may_cache, &items).await?;
                (stamps.started, stamps.scored) = (matches.started, matches.scored);
                Found::Matches(matches)
            }
        };
        let num_chars = inputs.num_chars();
        Ok(Done { found, sequences, items, num_chars, stamps })
    }
}

/// What of a request the path to its rows needs.
struct Work {
    inputs: Inputs,
    truncation: Truncation,
    timeout: Option<Duration>,
    priority: u16,
    may_cache: bool,
    /// Whether the vectors of all tokens are asked for.
    of_tokens: bool,
}

/// What the device or a store had for a request.
enum Found {
    /// `[num_sequences, width]`.
    Rows(Vec<f32>),
    /// `[num_tokens, width]`.
    TokenRows(Vec<f32>),
    /// Of late interaction.
    Matches(late::Matches),
    /// Documents whose vectors are kept now and were not before.
    Precomputed(usize),
}

/// What was found for a request, and what it belongs to.
struct Done {
    found: Found,
    sequences: Arc<Sequences>,
    items: Vec<Item>,
    num_chars: usize,
    stamps: Stamps,
}

/// From this priority on a request is of the lowest class, behind other tenants' too.
const LOW_PRIORITY: u16 = 500;

/// A request has the class of its tenant, or asks for the lowest: a higher one is not its own to ask for.
fn share_of(tenant: &Tenant, priority: u16) -> Share {
    let class = if priority >= LOW_PRIORITY { Class::Low } else { tenant.share.class };
    Share { class, ..tenant.share }
}

fn keeps_no_vectors() -> Error {
    Error::NotSupported(
        "this model keeps no vectors of documents; one of late interaction does".into(),
    )
}

/// What a client is told of a state in which it is not served.
pub fn unavailable(state: State) -> Error {
    Error::Unavailable { reason: state.reason().into(), retry_after: UNAVAILABLE_RETRY_AFTER }
}

/// Waits for `future` no longer than to the deadline.
async fn by<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Error> {
    timeout_at(deadline.into(), future).await.map_err(|_| Error::DeadlineExceeded)
}

/// Counts a request as being worked on.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.in_flight(1.0);
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight(-1.0);
    }
}
