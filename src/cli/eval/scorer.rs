//! What is measured: a model on this machine, or a server.

use std::time::Duration;

use super::Failure;
use crate::batch::Limits;
use crate::cli::hardware::Hardware;
use crate::cli::model::{Opened, open};
use crate::clock;
use crate::config::ModelConfig;
use crate::request::{Inputs, RerankRequest, Stamps, Truncation};
use crate::rerank::{Host, Options, Service};
use crate::score::MatrixOptions;
use crate::tenant::Tenant;

/// Scores the documents of one query. Many threads call it at once, and each call blocks.
pub(super) trait Scorer: Sync {
    /// One score a document, in their order; a higher one is better.
    fn score(&self, query: &str, documents: Vec<String>) -> Result<Vec<f64>, Failure>;
}

/// Nobody waits behind a measurement but its user, who can interrupt it.
const NO_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A model on this machine, on the path that requests to a server take.
pub(super) struct Local {
    service: Service,
    runtime: tokio::runtime::Runtime,
    truncation: Truncation,
}

/// A model that is loaded, and what to call it.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) revision: Option<String>,
    pub(super) scorer: Local,
}

/// Loads a model for `max_requests` requests at a time.
pub(super) fn load(
    config: &ModelConfig,
    hardware: &Hardware,
    max_requests: usize,
    max_chunks_per_doc: usize,
) -> Result<Loaded, Failure> {
    let Opened { name, revision, prepared, max_batch_tokens } = open(config, hardware)?;
    let options = Options {
        limits: Limits {
            max_batch_tokens,
            max_batch_sequences: 512,
            max_queue_delay: Duration::ZERO,
        },
        max_backlog_tokens: Some(usize::MAX),
        max_requests,
        tokenizer_threads: config.threads,
        default_timeout: NO_TIMEOUT,
        max_timeout: NO_TIMEOUT,
        device_timeout: config.device_timeout,
        score_cache_bytes: 0,
        matrices: MatrixOptions::default(),
    };
    let host = Host::default();
    host.health.started();
    let service = Service::start(name.clone(), prepared, &options, &host)
        .map_err(|e| Failure::io("cannot start a thread", e))?;
    // Keeps the timers; the futures run on the threads that block on them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .map_err(|e| Failure::io("cannot start the async runtime", e))?;
    let truncation = Truncation { max_chunks_per_doc, ..Truncation::default() };
    Ok(Loaded { name, revision, scorer: Local { service, runtime, truncation } })
}

impl Scorer for Local {
    fn score(&self, query: &str, documents: Vec<String>) -> Result<Vec<f64>, Failure> {
        let request = RerankRequest {
            id: String::new(),
            model: None,
            inputs: Inputs::OneQuery { query: query.to_owned(), documents },
            truncation: self.truncation.clone(),
            timeout: None,
            priority: 0,
            may_cache: false,
        };
        let (tenant, stamps) = (Tenant::anonymous(), Stamps::at(clock::now()));
        let response = self.service.rerank(request, stamps, &tenant);
        let results = self.runtime.block_on(response)?.results;
        Ok(results.iter().map(|scored| f64::from(scored.score.raw)).collect())
    }
}
