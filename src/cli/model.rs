//! Loading the model a command was told to use.

use std::num::NonZeroUsize;

use super::Failure;
use crate::config::{Device, ModelConfig};
use crate::model::loader::LoadOptions;
use crate::model::source::{HubOptions, Source};
use crate::rerank::{Prepared, prepare};

/// A model ready to serve, and what it is called.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) revision: Option<String>,
    pub(super) prepared: Prepared,
}

/// Opens, loads and checks the configured model.
pub(super) fn open(config: &ModelConfig) -> Result<Opened, Failure> {
    // Only one device exists in this version, and it is what `auto` means.
    let (Device::Auto | Device::Cpu) = config.device;
    let source = Source::parse(&config.model, config.revision.as_deref())?;
    let hub = HubOptions::from_env(|name| std::env::var(name).ok());
    let files = source.open(&hub)?;
    let options = LoadOptions {
        threads: NonZeroUsize::new(config.threads),
        isa: None,
        dtype: config.dtype.named(),
    };
    let prepared = prepare(&files, &options)?;
    if prepared.max_length > config.max_batch_tokens {
        return Err(Failure::Usage(format!(
            "max-batch-tokens: {} is less than one sequence of this model may have ({})",
            config.max_batch_tokens, prepared.max_length
        )));
    }
    Ok(Opened {
        name: files.name().to_owned(),
        revision: files.revision().map(str::to_owned),
        prepared,
    })
}

/// Cores this process may use: affinity and cgroup limits count.
pub(super) fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
