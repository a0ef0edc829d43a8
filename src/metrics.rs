//! Every metric: its name, what it means, its unit and its buckets.
//!
//! Base units throughout: seconds, tokens. Names are `rerank_<thing>_<unit>[_total]`.

mod matrices;
mod models;
mod tenants;

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::error::{DeviceError, Error, Fault};
use crate::request::{Stamps, Tally};

pub use matrices::MatrixCounts;
pub use models::{Load, ModelState, model_page};
pub use tenants::tenant_page;

/// 0.5 ms to 30 s: from a refusal to the longest deadline worth having.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Powers of two up to the largest batch a device takes.
const TOKENS: &[f64] =
    &[64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0];
/// From a lone pair to the most candidates a request may bring.
const DOCUMENTS: &[f64] = &[1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 10000.0];

const REQUESTS: &str = "rerank_requests_total";
const REQUEST_SECONDS: &str = "rerank_request_seconds";
const REQUEST_DOCUMENTS: &str = "rerank_request_documents";
const STAGE_SECONDS: &str = "rerank_stage_seconds";
const IN_FLIGHT: &str = "rerank_in_flight_requests";
const RECEIVED: &str = "rerank_received_requests_total";
const ANSWERED: &str = "rerank_answered_requests_total";
const REFUSED: &str = "rerank_refused_requests_total";
const FAILED: &str = "rerank_failed_requests_total";
const REFUSALS: &str = "rerank_refusals_total";
const REFUSAL_SECONDS: &str = "rerank_refusal_seconds";
const CANCELLED: &str = "rerank_cancelled_requests_total";
const EXPIRED: &str = "rerank_expired_requests_total";
const PAIRS: &str = "rerank_scored_pairs_total";
const TOKENS_SCORED: &str = "rerank_scored_tokens_total";
const TRUNCATED: &str = "rerank_truncated_documents_total";
const BACKLOG: &str = "rerank_backlog_tokens";
const RATE: &str = "rerank_tokens_per_second";
const BATCHES: &str = "rerank_batches_total";
const BATCH_TOKENS: &str = "rerank_batch_tokens";
const BATCH_SEQUENCES: &str = "rerank_batch_sequences";
const BATCH_SECONDS: &str = "rerank_batch_seconds";
const CACHED: &str = "rerank_cached_sequences_total";
const JOINED: &str = "rerank_joined_sequences_total";
const MISSED: &str = "rerank_missed_sequences_total";
const CACHE_BYTES: &str = "rerank_cache_bytes";
const BODY_BYTES: &str = "rerank_body_bytes";
const PADDING: &str = "rerank_padding_tokens_total";
const LATE_CANCELS: &str = "rerank_late_cancelled_pairs_total";
const FAULTS: &str = "rerank_device_faults_total";
const FAILED_PROBES: &str = "rerank_failed_probes_total";
const REPLACED_WORKERS: &str = "rerank_replaced_workers_total";
const READY: &str = "rerank_ready";
const SHARED_QUOTA_UP: &str = "rerank_shared_quota_up";
const SHARED_QUOTA_FAILURES: &str = "rerank_shared_quota_failures_total";

/// The type a metric has, its unit and its HELP text.
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const DESCRIPTIONS: &[(&str, Kind, Unit, &str)] = &[
    (REQUESTS, Kind::Counter, Unit::Count, "Requests answered, by route and HTTP status."),
    (
        REQUEST_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        "From the first byte of a scoring request to its answer.",
    ),
    (
        REFUSAL_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        "From the first byte of a scoring request to its error.",
    ),
    (REQUEST_DOCUMENTS, Kind::Histogram, Unit::Count, "Documents in an answered scoring request."),
    (
        STAGE_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        "Time of an answered request in each stage of its path.",
    ),
    (IN_FLIGHT, Kind::Gauge, Unit::Count, "Scoring requests being worked on."),
    (
        RECEIVED,
        Kind::Counter,
        Unit::Count,
        "Scoring requests whose head came; at rest, the answered, refused, cancelled and failed.",
    ),
    (ANSWERED, Kind::Counter, Unit::Count, "Scoring requests that got their scores."),
    (REFUSED, Kind::Counter, Unit::Count, "Scoring requests that could not be served, or not now."),
    (FAILED, Kind::Counter, Unit::Count, "Scoring requests whose scores this server owed: 5xx."),
    (
        CANCELLED,
        Kind::Counter,
        Unit::Count,
        "Scoring requests whose client left before the answer.",
    ),
    (REFUSALS, Kind::Counter, Unit::Count, "Requests that got no scores, by reason."),
    (EXPIRED, Kind::Counter, Unit::Count, "Requests whose deadline passed in the queue."),
    (PAIRS, Kind::Counter, Unit::Count, "Documents scored and answered."),
    (
        TOKENS_SCORED,
        Kind::Counter,
        Unit::Count,
        "Tokens scored and answered, special tokens included.",
    ),
    (TRUNCATED, Kind::Counter, Unit::Count, "Documents of which tokens were cut away."),
    (BACKLOG, Kind::Gauge, Unit::Count, "Tokens admitted and not answered yet."),
    (RATE, Kind::Gauge, Unit::Count, "Tokens per second of the device over its last batches."),
    (BATCHES, Kind::Counter, Unit::Count, "Batches run."),
    (BATCH_TOKENS, Kind::Histogram, Unit::Count, "Tokens in a batch."),
    (BATCH_SEQUENCES, Kind::Histogram, Unit::Count, "Sequences in a batch."),
    (BATCH_SECONDS, Kind::Histogram, Unit::Seconds, "Time of a batch on the device."),
    (CACHED, Kind::Counter, Unit::Count, "Sequences whose rows were known from earlier requests."),
    (
        JOINED,
        Kind::Counter,
        Unit::Count,
        "Sequences whose rows were on their way for another request, or twice in one.",
    ),
    (MISSED, Kind::Counter, Unit::Count, "Sequences looked for in the cache, and scored."),
    (CACHE_BYTES, Kind::Gauge, Unit::Bytes, "Memory of the rows that are kept."),
    (BODY_BYTES, Kind::Gauge, Unit::Bytes, "Request bodies that are being read or worked on."),
    (
        PADDING,
        Kind::Counter,
        Unit::Count,
        "Token rows computed to fill a bucket; packed CPU batches have none.",
    ),
    (
        LATE_CANCELS,
        Kind::Counter,
        Unit::Count,
        "Pairs scored or skipped after their client had left.",
    ),
    (FAULTS, Kind::Counter, Unit::Count, "Batches lost to a device fault, a panic or a hang."),
    (
        FAILED_PROBES,
        Kind::Counter,
        Unit::Count,
        "Probes of an idle device that gave no right score.",
    ),
    (REPLACED_WORKERS, Kind::Counter, Unit::Count, "Workers put in the place of one that failed."),
    (
        SHARED_QUOTA_UP,
        Kind::Gauge,
        Unit::Count,
        "1 while quotas are shared through Redis, 0 while it does not answer; absent without Redis.",
    ),
    (
        SHARED_QUOTA_FAILURES,
        Kind::Counter,
        Unit::Count,
        "Exchanges with Redis that failed; quotas are this server's own meanwhile.",
    ),
    (READY, Kind::Gauge, Unit::Count, "1 while the server takes requests."),
];

/// How a scoring request ends: in exactly one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Answered,
    /// It could not be served, or not now.
    Refused,
    /// Its client left.
    Cancelled,
    /// It was owed an answer that it did not get.
    Failed,
}

impl End {
    pub fn of(error: &Error) -> Self {
        let verdict = error.verdict();
        match error {
            Error::Cancelled => Self::Cancelled,
            _ if verdict.status >= 500 && verdict.fault == Fault::Server => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// How many of a request's sequences need no scoring of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub cached: usize,
    /// On their way for another request, or twice in this one.
    pub joined: usize,
    pub missed: usize,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub num_tokens: usize,
    pub num_sequences: usize,
    pub took: Duration,
    /// Sequences whose client had left when the batch came to the device.
    pub late_cancels: usize,
    /// Token rows the device computed to fill a bucket.
    pub padding_tokens: usize,
    /// What the device did wrong, in words for the log.
    pub fault: Option<DeviceError>,
}

/// What a sweep of the queue removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub expired: usize,
    /// Requests whose client left, or which a failed batch had already answered.
    pub closed: usize,
}

/// What a tenant has used since the server started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantCounts {
    /// Answered with scores.
    pub requests: u64,
    /// Answered with an error.
    pub refusals: u64,
    pub documents: u64,
    pub tokens: u64,
    pub search_units: u64,
}

impl TenantCounts {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            refusals: self.refusals + other.refusals,
            documents: self.documents + other.documents,
            tokens: self.tokens + other.tokens,
            search_units: self.search_units + other.search_units,
        }
    }
}

static METADATA: Metadata<'static> = Metadata::new("rerankd", Level::INFO, None);

/// The server's metrics, registered once; those without labels are held ready.
#[derive(Debug)]
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    request_seconds: Histogram,
    refusal_seconds: Histogram,
    request_documents: Histogram,
    in_flight: Gauge,
    received: Counter,
    ended_answered: Counter,
    ended_refused: Counter,
    ended_failed: Counter,
    cancelled: Counter,
    expired: Counter,
    pairs: Counter,
    tokens: Counter,
    truncated: Counter,
    backlog: Gauge,
    rate: Gauge,
    batches: Counter,
    batch_tokens: Histogram,
    batch_sequences: Histogram,
    batch_seconds: Histogram,
    cached: Counter,
    joined: Counter,
    missed: Counter,
    cache_bytes: Gauge,
    body_bytes: Gauge,
    padding: Counter,
    late_cancels: Counter,
    faults: Counter,
    failed_probes: Counter,
    replaced_workers: Counter,
    ready: Gauge,
    /// Of the documents of late interaction.
    pub matrices: matrices::Found,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let recorder = builder().build_recorder();
        for (name, kind, unit, help) in DESCRIPTIONS {
            let (name, unit, help) = ((*name).into(), Some(*unit), (*help).into());
            match kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
        }
        let counter = |name| recorder.register_counter(&Key::from_static_name(name), &METADATA);
        let gauge = |name| recorder.register_gauge(&Key::from_static_name(name), &METADATA);
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        Self {
            handle: recorder.handle(),
            request_seconds: histogram(REQUEST_SECONDS),
            refusal_seconds: histogram(REFUSAL_SECONDS),
            request_documents: histogram(REQUEST_DOCUMENTS),
            in_flight: gauge(IN_FLIGHT),
            received: counter(RECEIVED),
            ended_answered: counter(ANSWERED),
            ended_refused: counter(REFUSED),
            ended_failed: counter(FAILED),
            cancelled: counter(CANCELLED),
            expired: counter(EXPIRED),
            pairs: counter(PAIRS),
            tokens: counter(TOKENS_SCORED),
            truncated: counter(TRUNCATED),
            backlog: gauge(BACKLOG),
            rate: gauge(RATE),
            batches: counter(BATCHES),
            batch_tokens: histogram(BATCH_TOKENS),
            batch_sequences: histogram(BATCH_SEQUENCES),
            batch_seconds: histogram(BATCH_SECONDS),
            cached: counter(CACHED),
            joined: counter(JOINED),
            missed: counter(MISSED),
            cache_bytes: gauge(CACHE_BYTES),
            body_bytes: gauge(BODY_BYTES),
            padding: counter(PADDING),
            late_cancels: counter(LATE_CANCELS),
            faults: counter(FAULTS),
            failed_probes: counter(FAILED_PROBES),
            replaced_workers: counter(REPLACED_WORKERS),
            ready: gauge(READY),
            matrices: matrices::Found::default(),
            recorder,
        }
    }

    /// A request was answered, with scores or an error. `route` is one of a fixed few.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.counter(
            REQUESTS,
            vec![
                Label::from_static_parts("route", route),
                Label::new("status", status.to_string()),
            ],
        )
        .increment(1);
    }

    /// A scoring request got its scores, or its vectors.
    pub fn scored(&self, tally: &Tally<'_>, took: Duration) {
        self.request_seconds.record(took);
        self.request_documents.record(tally.num_texts as f64);
        self.pairs.increment(tally.num_texts as u64);
        self.tokens.increment(tally.prompt_tokens as u64);
        self.truncated.increment(tally.num_truncated as u64);
        self.stages(&tally.stamps);
    }

    fn stages(&self, stamps: &Stamps) {
        for (stage, took) in stamps.stages() {
            let labels = vec![Label::from_static_parts("stage", stage)];
            let key = Key::from_parts(STAGE_SECONDS, labels);
            self.recorder.register_histogram(&key, &METADATA).record(took);
        }
    }

    /// A scoring request got an error.
    pub fn refused(&self, error: &Error, took: Duration) {
        self.refusal_seconds.record(took);
        let reason = Label::from_static_parts("reason", error.verdict().kind);
        self.counter(REFUSALS, vec![reason]).increment(1);
    }

    /// The head of a scoring request came. It is counted once more, when it ends.
    pub fn received(&self) {
        self.received.increment(1);
    }

    /// A scoring request came to its end.
    pub fn ended(&self, end: End) {
        let counter = match end {
            End::Answered => &self.ended_answered,
            End::Refused => &self.ended_refused,
            End::Cancelled => &self.cancelled,
            End::Failed => &self.ended_failed,
        };
        counter.increment(1);
    }

    /// One more, or one fewer, scoring request is being worked on.
    pub fn in_flight(&self, change: f64) {
        self.in_flight.increment(change);
    }

    /// Whether Redis answers; only told where it is configured.
    pub fn shared_quota_up(&self, is_up: bool) {
        let key = Key::from_static_name(SHARED_QUOTA_UP);
        self.recorder.register_gauge(&key, &METADATA).set(f64::from(u8::from(is_up)));
    }

    pub fn shared_quota_failed(&self) {
        self.counter(SHARED_QUOTA_FAILURES, Vec::new()).increment(1);
    }

    /// What a request's sequences found in the cache.
    pub fn looked_up(&self, Found { cached, joined, missed }: Found) {
        self.cached.increment(cached as u64);
        self.joined.increment(joined as u64);
        self.missed.increment(missed as u64);
    }

    pub fn swept(&self, swept: Swept) {
        self.expired.increment(swept.expired as u64);
    }

    pub fn batch(&self, outcome: &Outcome) {
        self.batches.increment(1);
        self.batch_tokens.record(outcome.num_tokens as f64);
        self.batch_sequences.record(outcome.num_sequences as f64);
        self.batch_seconds.record(outcome.took);
        self.late_cancels.increment(outcome.late_cancels as u64);
        self.padding.increment(outcome.padding_tokens as u64);
        self.faults.increment(u64::from(outcome.fault.is_some()));
    }

    /// A worker was given up over a batch that took too long.
    pub fn worker_hung(&self) {
        self.faults.increment(1);
    }

    pub fn worker_replaced(&self) {
        self.replaced_workers.increment(1);
    }

    /// An idle device did not give the score it gave before.
    pub fn probe_failed(&self) {
        self.failed_probes.increment(1);
    }

    /// The Prometheus text page, with the gauges as they stand now.
    pub fn render(&self, load: Load, ready: bool) -> String {
        self.backlog.set(load.backlog_tokens as f64);
        self.rate.set(load.tokens_per_second);
        self.cache_bytes.set(load.cache_bytes as f64);
        self.body_bytes.set(load.body_bytes as f64);
        self.ready.set(f64::from(u8::from(ready)));
        self.handle.run_upkeep();
        let matrices = load.matrices.map(|counts| self.matrices.page(&counts));
        self.handle.render() + &matrices.unwrap_or_default()
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }
}

fn builder() -> PrometheusBuilder {
    let buckets = [
        ("_seconds", SECONDS),
        ("_tokens", TOKENS),
        ("_sequences", TOKENS),
        ("_documents", DOCUMENTS),
    ];
    buckets.into_iter().fold(PrometheusBuilder::new(), |builder, (suffix, buckets)| {
        builder
            .set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets)
            .expect("the tables above are not empty")
    })
}
