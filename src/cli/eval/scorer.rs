//! What is measured: a model on this machine, or a server.

use super::Failure;
use crate::cli::hardware::Hardware;
use crate::cli::model::{open, start_alone};
use crate::clock;
use crate::config::ModelConfig;
use crate::request::{Inputs, RerankRequest, Stamps, Truncation};
use crate::rerank::Service;
use crate::score::MatrixOptions;
use crate::tenant::Tenant;

/// Scores the documents of one query. Many threads call it at once, and each call blocks.
pub(super) trait Scorer: Sync {
    /// One score a document, in their order; a higher one is better.
    fn score(&self, query: &str, documents: Vec<String>) -> Result<Vec<f64>, Failure>;
}

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
    let opened = open(config, hardware)?;
    let (name, revision) = (opened.name.clone(), opened.revision.clone());
    let service = start_alone(config, opened, MatrixOptions::default(), max_requests)?;
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
