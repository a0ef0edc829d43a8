//! Loading the model a command was told to use.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Failure;
use super::hardware::Hardware;
use crate::batch::Limits;
use crate::config::{Device, ModelConfig};
use crate::engine::Dtype;
use crate::model::loader::{Gpus, LoadOptions};
use crate::model::source::{HubOptions, Source};
use crate::rerank::{BatchTokens, Host, Options, Prepared, Service, prepare_to_fit};
use crate::score::MatrixOptions;

/// A model ready to serve, and what it is called.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) name: String,
    pub(super) revision: Option<String>,
    pub(super) prepared: Prepared,
    pub(super) max_batch_tokens: usize,
}

/// Opens, loads and checks the configured model.
pub(super) fn open(config: &ModelConfig, hardware: &Hardware) -> Result<Opened, Failure> {
    let load = load_options(config, hardware)?;
    let source = Source::parse(&config.model, config.revision.as_deref())?;
    let files = source.open(&hub())?;
    let tokens = BatchTokens { max: config.max_batch_tokens, may_grow: config.may_grow };
    let may_fall_back = config.device == Device::Auto;
    let (prepared, max_batch_tokens) = prepare_to_fit(&files, &load, may_fall_back, tokens)?;
    Ok(Opened {
        name: files.name().to_owned(),
        revision: files.revision().map(str::to_owned),
        prepared,
        max_batch_tokens,
    })
}

/// No one waits behind a command line but its user, who can interrupt it.
const NO_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A service for one command, which sends up to `max_requests` at a time and has the device alone.
pub(super) fn start_alone(
    config: &ModelConfig,
    opened: Opened,
    matrices: MatrixOptions,
    max_requests: usize,
) -> Result<Service, Failure> {
    let Opened { name, prepared, max_batch_tokens, .. } = opened;
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
        matrices,
    };
    let host = Host::default();
    host.health.started();
    Service::start(name, prepared, &options, &host)
        .map_err(|e| Failure::io("cannot start a thread", e))
}

/// The hub as the environment has it.
pub(super) fn hub() -> HubOptions {
    HubOptions::from_env(|name| std::env::var(name).ok())
}

/// How to run the configured model here.
pub(super) fn load_options(
    config: &ModelConfig,
    hardware: &Hardware,
) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions {
        threads: NonZeroUsize::new(config.threads),
        isa: None,
        dtype: config.dtype.named(),
        gpus: gpus(config, hardware)?,
        late_interaction: config.late_interaction,
        max_length: config.max_length,
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
