//! Loading the model a command was told to use.

use std::num::NonZeroUsize;

use super::Failure;
use super::hardware::Hardware;
use crate::config::{Device, ModelConfig};
use crate::engine::Dtype;
use crate::error::ModelError;
use crate::model::loader::{Gpus, LoadOptions};
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
pub(super) fn open(config: &ModelConfig, hardware: &Hardware) -> Result<Opened, Failure> {
    let gpus = gpus(config, hardware)?;
    let source = Source::parse(&config.model, config.revision.as_deref())?;
    let hub = HubOptions::from_env(|name| std::env::var(name).ok());
    let files = source.open(&hub)?;
    let options = LoadOptions {
        threads: NonZeroUsize::new(config.threads),
        isa: None,
        dtype: config.dtype.named(),
        gpus,
        late_interaction: config.late_interaction,
    };
    let prepared = match prepare(&files, &options) {
        // The batches stay as large as a GPU's: an operator who reads the warning will set one or the other.
        Err(ModelError::Device(why)) if config.device == Device::Auto && options.gpus.is_some() => {
            tracing::warn!(%why, "computing on the CPU");
            prepare(&files, &LoadOptions { gpus: None, ..options })?
        }
        prepared => prepared?,
    };
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

/// The GPUs to load onto. They compute in f16, and only they.
fn gpus(config: &ModelConfig, hardware: &Hardware) -> Result<Option<Gpus>, Failure> {
    let on_cpu = hardware.gpus().is_empty();
    let only = |dtype: &str, device, has| {
        Err(Failure::Usage(format!("dtype: {dtype} is not to be had on {device}, which has {has}")))
    };
    match config.dtype.named() {
        Some(Dtype::F16) if on_cpu => only("f16", "a CPU", "f32, bf16 and int8"),
        _ if on_cpu => Ok(None),
        Some(dtype) if dtype != Dtype::F16 => only(dtype.name(), "a GPU", "f16"),
        _ => Ok(Some(Gpus {
            devices: hardware.gpus().to_vec(),
            max_batch_tokens: config.max_batch_tokens,
            batch_invariant: config.batch_invariant,
            timeout: config.device_timeout,
        })),
    }
}
