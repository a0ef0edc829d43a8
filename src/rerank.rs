//! The path of one request, from its texts to its scores: each arrow one call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admit::{Admission, Bounds};
use crate::batch::{self, Answer, Batcher, Limits, Rate, Rows};
use crate::clock;
use crate::error::Error;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::head::Head;
use crate::model::registry::Names;
use crate::model::{LoadedModel, ModelFacts};
use crate::queue::{Entry, TenantId};
use crate::request::{Inputs, RerankRequest, RerankResponse, Scored, Stamps};
use crate::tokenize::{self, Form, Item, Rules, Template, Tokenized};

/// Bounds of the service, from the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    pub limits: Limits,
    pub max_backlog_tokens: usize,
    pub max_requests: usize,
    pub tokenizer_threads: usize,
    /// For requests that name no deadline of their own.
    pub default_timeout: Duration,
}

/// A model being served: its tokenizer threads, its door, its batcher.
#[derive(Debug)]
pub struct Service {
    names: Names,
    facts: ModelFacts,
    head: Head,
    width: usize,
    tokenizers: tokenize::Pool,
    admission: Admission,
    batcher: batch::Handle,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    default_timeout: Duration,
}

impl Service {
    /// Starts the threads that serve `model`.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub fn start(
        names: Names,
        model: LoadedModel,
        tokenizer: tokenize::Prepared,
        options: &Options,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> std::io::Result<Self> {
        let LoadedModel { facts, head, scorer, tokens_per_second } = model;
        let rate = Rate::new(tokens_per_second);
        let bounds = Bounds {
            max_backlog_tokens: options.max_backlog_tokens,
            max_requests: options.max_requests,
            max_length: facts.max_length,
        };
        let width = scorer.width();
        let batcher = Batcher::new(options.limits, rate.clone());
        Ok(Self {
            names,
            width,
            tokenizers: tokenize::Pool::spawn(tokenizer, options.tokenizer_threads)?,
            admission: Admission::new(bounds, rate),
            batcher: batch::spawn(batcher, scorer, &metrics, &health)?,
            facts,
            head,
            metrics,
            health,
            default_timeout: options.default_timeout,
        })
    }
}
