//! Flags, environment and one TOML file, turned once into a checked, immutable [`Config`].
//!
//! [`Settings`] is what was written, every part optional; a flag wins over the environment, the environment
//! over the file, the file over the default. Nothing but this file reads a setting.

/// Takes from `$file` what `$flags` leaves open; `$whole` is taken as it is.
macro_rules! fill {
    ($flags:ident, $file:ident: $($setting:ident),+ $(,)? $(; $($whole:ident),+)?) => {
        Self { $($setting: $flags.$setting.or($file.$setting),)+ $($($whole),+)? }
    };
}

mod connection;
mod late;
mod models;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::batch::Limits;
use crate::engine;
use crate::model::loader::LoadOptions;
use crate::score::MatrixOptions;
use crate::tenant::{KeyHash, Source};

/// A setting that no log may show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

pub use connection::{ConnectionConfig, ConnectionSettings};
pub use late::LateSettings;
pub use models::{CascadeEntry, Kind, MAX_MODELS, ModelEntry, ServedModel};

/// Why the settings cannot be used: the setting by name, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {message}")]
pub struct ConfigError {
    pub setting: String,
    pub message: String,
}

impl ConfigError {
    pub fn new(setting: &str, message: impl Into<String>) -> Self {
        Self { setting: setting.to_owned(), message: message.into() }
    }
}

/// Which model to load and on what; shared by `serve` and `rerank`.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
#[serde(default)]
pub struct ModelSettings {
    /// 'default' (embedded in this program), a folder, or a Hugging Face name such as
    /// cross-encoder/ms-marco-MiniLM-L6-v2; 'serve' takes several, as NAME=SOURCE, the first the default
    #[arg(long, short, env = "RERANKD_MODEL", value_name = "[NAME=]SOURCE")]
    #[serde(deserialize_with = "models::one_or_many")]
    pub model: Option<Vec<String>>,
    /// Branch, tag or commit of a Hugging Face model [default: main]
    #[arg(long, env = "RERANKD_REVISION")]
    pub revision: Option<String>,
    /// Where to compute: auto, cpu, or cuda (every GPU that CUDA_VISIBLE_DEVICES leaves); auto takes GPUs
    /// if there are any [default: auto]
    #[arg(long, env = "RERANKD_DEVICE")]
    pub device: Option<Device>,
    /// Precision: auto (on a CPU the fastest that keeps the model's own test pairs, on a GPU f16), f32, bf16 or
    /// int8 (CPU), f16 (GPU) [default: auto]
    #[arg(long, env = "RERANKD_DTYPE")]
    pub dtype: Option<Dtype>,
    /// Cores the engine computes on [default: all this process may use]
    #[arg(long, env = "RERANKD_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Tokens in one batch; at least the longest sequence of the model [default: 16384 on a GPU, else
    /// 1024 a thread, 512 where a keys-file has tenants share it, for two threads or more; and as many as that
    /// sequence has]
    #[arg(long, env = "RERANKD_MAX_BATCH_TOKENS", value_name = "TOKENS")]
    pub max_batch_tokens: Option<usize>,
    /// Tokens in a sequence; longer ones are cut, or read in chunks [default: the model's own]
    #[arg(long, env = "RERANKD_MAX_LENGTH", value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Whether the same pair has the same bits in every batch. Without it, a GPU may use cuBLASLt where that
    /// is installed, agrees with our kernels and is faster [default: true]
    #[arg(long, env = "RERANKD_BATCH_INVARIANT", value_name = "true|false")]
    pub batch_invariant: Option<bool>,
    /// Time for one batch on a GPU, in milliseconds; one that takes longer hangs, and the server ends. On a
    /// CPU, twice that and at least ten times what is measured: then the worker is replaced [default: 30000]
    #[arg(long, env = "RERANKD_DEVICE_TIMEOUT_MS", value_name = "MS")]
    pub device_timeout_ms: Option<u64>,
    /// Run an encoder of one vector a text by late interaction: one a token, without a projection
    #[arg(long, env = "RERANKD_LATE_INTERACTION", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub late_interaction: Option<bool>,
}

/// What `serve` needs beside the model.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
#[serde(default)]
pub struct ServeSettings {
    #[command(flatten)]
    #[serde(flatten)]
    pub connection: ConnectionSettings,
    #[command(flatten)]
    #[serde(flatten)]
    pub late: LateSettings,
    /// Name of the model in replies [default: the model's own]
    #[arg(long, env = "RERANKD_SERVED_MODEL_NAME", value_name = "NAME")]
    pub served_model_name: Option<String>,
    /// Further names of the model, so that clients written for 'rerank-v3.5' need no change
    #[arg(long = "alias", env = "RERANKD_ALIASES", value_name = "NAME", value_delimiter = ',')]
    pub aliases: Option<Vec<String>>,
    /// Answer 404 to a model name this server does not have, instead of serving its own
    #[arg(long, env = "RERANKD_STRICT_MODEL_NAMES", num_args = 0..=1, default_missing_value = "true")]
    pub strict_model_names: Option<bool>,
    /// How long a request may wait for company while the device is busy, in microseconds [default: 500]
    #[arg(long, env = "RERANKD_MAX_QUEUE_DELAY_US", value_name = "US")]
    pub max_queue_delay_us: Option<u64>,
    /// Pairs in one batch [default: 512]
    #[arg(long, env = "RERANKD_MAX_BATCH_PAIRS", value_name = "PAIRS")]
    pub max_batch_pairs: Option<usize>,
    /// Tokens that may wait; more is answered 429 [default: 30 seconds of the device's measured speed]
    #[arg(long, env = "RERANKD_MAX_BACKLOG_TOKENS", value_name = "TOKENS")]
    pub max_backlog_tokens: Option<usize>,
    /// Requests worked on at a time; more are answered 429 [default: 4096]
    #[arg(long, env = "RERANKD_MAX_REQUESTS", value_name = "N")]
    pub max_requests: Option<usize>,
    /// Documents in one request [default: 10000]
    #[arg(long, env = "RERANKD_MAX_DOCUMENTS", value_name = "N")]
    pub max_documents: Option<usize>,
    /// Bytes of one request body [default: 33554432]
    #[arg(long, env = "RERANKD_MAX_BODY_BYTES", value_name = "BYTES")]
    pub max_body_bytes: Option<usize>,
    /// Bytes of all request bodies held at a time; more are answered 429 [default: 536870912]
    #[arg(long, env = "RERANKD_MAX_TOTAL_BODY_BYTES", value_name = "BYTES")]
    pub max_total_body_bytes: Option<usize>,
    /// Memory for scores that may be asked for again, by the same tenant, in bytes; 0: every pair is scored. A
    /// request is left out of it by 'Cache-Control: no-store' [default: 67108864]
    #[arg(long, env = "RERANKD_SCORE_CACHE_BYTES", value_name = "BYTES")]
    pub score_cache_bytes: Option<usize>,
    /// Memory that models may take, in bytes; one that does not fit is refused [default: three quarters of what
    /// this process may use, or of the smallest GPU]
    #[arg(long, env = "RERANKD_MAX_MODEL_MEMORY_BYTES", value_name = "BYTES")]
    pub max_model_memory_bytes: Option<u64>,
    /// Deadline of requests that name none, in milliseconds [default: 30000]
    #[arg(long, env = "RERANKD_DEFAULT_TIMEOUT_MS", value_name = "MS")]
    pub default_timeout_ms: Option<u64>,
    /// Longest deadline a request may name, in milliseconds [default: 600000]
    #[arg(long, env = "RERANKD_MAX_TIMEOUT_MS", value_name = "MS")]
    pub max_timeout_ms: Option<u64>,
    /// Threads that tokenise [default: half of the cores]
    #[arg(long, env = "RERANKD_TOKENIZER_THREADS", value_name = "N")]
    pub tokenizer_threads: Option<usize>,
    /// TOML file of tenants and the hashes of their keys, which `rerankd keys` writes; read again when it changes
    /// [default: no keys]
    #[arg(long, env = "RERANKD_KEYS_FILE", value_name = "FILE")]
    pub keys_file: Option<PathBuf>,
    /// Key that clients must send, for one tenant of all; may be given more than once [default: no keys]
    #[arg(
        long = "api-key",
        env = "RERANKD_API_KEYS",
        hide_env_values = true,
        value_name = "KEY",
        value_delimiter = ','
    )]
    pub api_keys: Option<Vec<Secret>>,
    /// Redis through which replicas share the rates of the keys file, such as redis://:password@host:6379/0
    /// [default: each server keeps them alone]
    #[arg(long, env = "RERANKD_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<Secret>,
}

/// The TOML file: the settings of both groups side by side.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct File {
    #[serde(flatten)]
    pub model: ModelSettings,
    #[serde(flatten)]
    pub serve: ServeSettings,
    pub models: Vec<ModelEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    #[default]
    Auto,
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
    Int8,
}

impl Dtype {
    /// What was asked for by name.
    pub fn named(self) -> Option<engine::Dtype> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(engine::Dtype::F32),
            Self::F16 => Some(engine::Dtype::F16),
            Self::Bf16 => Some(engine::Dtype::Bf16),
            Self::Int8 => Some(engine::Dtype::Int8),
        }
    }
}

/// The model's part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    pub model: String,
    pub revision: Option<String>,
    pub device: Device,
    pub dtype: Dtype,
    pub threads: usize,
    pub max_batch_tokens: usize,
    /// Whether that is a default, which gives way to longer sequences.
    pub may_grow: bool,
    pub max_length: Option<usize>,
    pub batch_invariant: bool,
    pub device_timeout: Duration,
    pub late_interaction: bool,
}

/// What the defaults depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use.
    pub threads: usize,
    /// Whether the model will run on a GPU.
    pub has_gpu: bool,
    /// Memory that this process may use, or that the smallest of its GPUs has.
    pub memory_bytes: u64,
    /// Whether tenants share it.
    pub is_shared: bool,
}

/// The whole configuration of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The first is the default. None has the name of another.
    pub models: Vec<ServedModel>,
    /// What models loaded later have.
    pub model: ModelConfig,
    pub connection: ConnectionConfig,
    pub strict_model_names: bool,
    pub max_model_memory_bytes: u64,
    pub limits: Limits,
    pub max_backlog_tokens: Option<usize>,
    pub max_requests: usize,
    pub max_documents: usize,
    pub max_body_bytes: usize,
    pub max_total_body_bytes: usize,
    pub score_cache_bytes: usize,
    pub matrices: MatrixOptions,
    pub default_timeout: Duration,
    pub max_timeout: Duration,
    pub tokenizer_threads: usize,
    pub keys: Source,
    pub redis_url: Option<Secret>,
}

/// Several groups for each core: over HTTP the rate is that of the engine by itself (`cargo bench --bench http`).
const DEFAULT_BATCH_TOKENS_PER_THREAD: usize = 1024;
/// A seventh slower, but whoever comes beside another tenant's flood waits for half as long.
const SHARED_BATCH_TOKENS_PER_THREAD: usize = 512;
/// Of a model; some hundred thousand pairs.
const DEFAULT_SCORE_CACHE_BYTES: usize = 64 << 20;
/// Enough rows for several waves of tiles on the largest card.
const DEFAULT_BATCH_TOKENS_ON_GPU: usize = 16_384;

impl ModelConfig {
    /// # Errors
    /// A setting out of range, by its name.
    pub fn new(settings: ModelSettings, machine: Machine) -> Result<Self, ConfigError> {
        let threads = at_least(1, "threads", settings.threads.unwrap_or(machine.threads))?;
        let default_batch_tokens = if machine.has_gpu {
            DEFAULT_BATCH_TOKENS_ON_GPU
        } else if machine.is_shared {
            SHARED_BATCH_TOKENS_PER_THREAD * threads.max(2)
        } else {
            DEFAULT_BATCH_TOKENS_PER_THREAD * threads.max(2)
        };
        let max_batch_tokens = settings.max_batch_tokens.unwrap_or(default_batch_tokens);
        let check = |length| at_least(LoadOptions::LEAST_LENGTH, "max-length", length);
        let max_length = settings.max_length.map(check).transpose()?;
        let timeout_ms = settings.device_timeout_ms.unwrap_or(30_000);
        at_least(1, "device-timeout-ms", timeout_ms as usize)?;
        Ok(Self {
            model: only(settings.model)?,
            revision: settings.revision,
            device: settings.device.unwrap_or_default(),
            dtype: settings.dtype.unwrap_or_default(),
            threads,
            max_batch_tokens: at_least(
                Limits::LEAST_BATCH_TOKENS,
                "max-batch-tokens",
                max_batch_tokens,
            )?,
            may_grow: settings.max_batch_tokens.is_none(),
            max_length,
            batch_invariant: settings.batch_invariant.unwrap_or(true),
            device_timeout: Duration::from_millis(timeout_ms),
            late_interaction: settings.late_interaction.unwrap_or(false),
        })
    }
}

impl Config {
    /// # Errors
    /// A setting out of range, or at odds with another, by its name.
    pub fn new(
        model: &ModelSettings,
        serve: ServeSettings,
        models: Vec<ModelEntry>,
        machine: Machine,
    ) -> Result<Self, ConfigError> {
        let machine = Machine { is_shared: serve.keys_file.is_some(), ..machine };
        let models = models::served(model, &serve, models, machine)?;
        let template = ModelSettings { model: None, revision: None, ..model.clone() };
        let model = ModelConfig::new(template, machine)?;
        let limits = Limits {
            max_batch_tokens: model.max_batch_tokens,
            max_batch_sequences: at_least(
                1,
                "max-batch-pairs",
                serve.max_batch_pairs.unwrap_or(512),
            )?,
            max_queue_delay: Duration::from_micros(serve.max_queue_delay_us.unwrap_or(500)),
        };
        let default_timeout = millis("default-timeout-ms", serve.default_timeout_ms, 30_000)?;
        let max_timeout = millis("max-timeout-ms", serve.max_timeout_ms, 600_000)?;
        if default_timeout > max_timeout {
            return Err(ConfigError::new("default-timeout-ms", "is above max-timeout-ms"));
        }
        let max_body_bytes =
            at_least(1024, "max-body-bytes", serve.max_body_bytes.unwrap_or(32 << 20))?;
        let max_total = serve.max_total_body_bytes.unwrap_or(max_body_bytes.max(512 << 20));
        if serve.redis_url.is_some() && serve.keys_file.is_none() {
            return Err(ConfigError::new(
                "redis-url",
                "shares the rates of tenants: name a keys-file",
            ));
        }
        let half_the_cores = (machine.threads / 2).max(1);
        let three_quarters = machine.memory_bytes / 4 * 3;
        Ok(Self {
            models,
            model,
            connection: ConnectionConfig::new(serve.connection)?,
            strict_model_names: serve.strict_model_names.unwrap_or(false),
            max_model_memory_bytes: serve.max_model_memory_bytes.unwrap_or(three_quarters),
            limits,
            max_backlog_tokens: serve.max_backlog_tokens,
            max_requests: at_least(1, "max-requests", serve.max_requests.unwrap_or(4096))?,
            max_documents: at_least(1, "max-documents", serve.max_documents.unwrap_or(10_000))?,
            max_body_bytes,
            max_total_body_bytes: at_least(max_body_bytes, "max-total-body-bytes", max_total)?,
            matrices: serve.late.check()?,
            score_cache_bytes: serve.score_cache_bytes.unwrap_or(DEFAULT_SCORE_CACHE_BYTES),
            default_timeout,
            max_timeout,
            tokenizer_threads: at_least(
                1,
                "tokenizer-threads",
                serve.tokenizer_threads.unwrap_or(half_the_cores),
            )?,
            keys: keys(serve.keys_file, serve.api_keys)?,
            redis_url: serve.redis_url,
        })
    }
}

/// The model of a command that has one.
fn only(models: Option<Vec<String>>) -> Result<String, ConfigError> {
    match models.unwrap_or_default().as_slice() {
        [] => Ok("default".into()),
        [one] => Ok(one.clone()),
        _ => Err(ConfigError::new("model", "is given more than once; only 'serve' takes several")),
    }
}

fn keys(file: Option<PathBuf>, keys: Option<Vec<Secret>>) -> Result<Source, ConfigError> {
    match (file, keys) {
        (None, None) => Ok(Source::Anonymous),
        (Some(file), None) => Ok(Source::File(file)),
        (None, Some(keys)) => {
            // An empty key would let those in who send none; an empty variable is no wish for open doors.
            if keys.is_empty() || keys.iter().any(|key| key.0.trim().is_empty()) {
                return Err(ConfigError::new("api-key", "is empty"));
            }
            Ok(Source::Keys(keys.iter().map(|key| KeyHash::of(key.0.trim())).collect()))
        }
        (Some(_), Some(_)) => {
            Err(ConfigError::new("api-key", "is given beside keys-file; one of them is enough"))
        }
    }
}

fn millis(setting: &str, value: Option<u64>, default: u64) -> Result<Duration, ConfigError> {
    let millis = value.unwrap_or(default);
    at_least(1, setting, millis as usize)?;
    Ok(Duration::from_millis(millis))
}

fn at_least(least: usize, setting: &str, value: usize) -> Result<usize, ConfigError> {
    if value < least {
        return Err(ConfigError::new(
            setting,
            format!("{value} is too small; the least is {least}"),
        ));
    }
    Ok(value)
}

/// Reads the TOML file.
///
/// # Errors
/// The file cannot be read, or the line and key that are wrong.
pub fn read_file(path: &Path) -> Result<File, ConfigError> {
    let setting = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|e| ConfigError::new(&setting, e.to_string()))?;
    parse_file(&text).map_err(|message| ConfigError::new(&setting, message))
}

/// # Errors
/// What is wrong, and where.
pub fn parse_file(text: &str) -> Result<File, String> {
    let tell = |e: toml::de::Error| e.to_string().trim().to_owned();
    let table: toml::Table = toml::from_str(text).map_err(tell)?;
    // Two flattened structs cannot refuse each other's keys, so the flags' own list is asked.
    let flags =
        ServeSettings::augment_args(ModelSettings::augment_args(clap::Command::new("file")));
    let is_flag = |key: &str| flags.get_arguments().any(|flag| flag.get_id() == key);
    let known = |key: &str| key == "models" || is_flag(key);
    if let Some(key) = table.keys().find(|key| !known(key)) {
        return Err(format!("no setting is called '{key}'; `rerankd serve --help` lists them"));
    }
    toml::from_str(text).map_err(tell)
}

impl ModelSettings {
    /// These settings, with the file's where they say nothing.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        fill!(self, file: model, revision, device, dtype, threads, max_batch_tokens, max_length, batch_invariant, device_timeout_ms,
            late_interaction)
    }
}

impl ServeSettings {
    /// These settings, with the file's where they say nothing.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        let connection = self.connection.or(file.connection);
        let late = self.late.or(file.late);
        fill!(self, file:
            served_model_name, aliases, strict_model_names, max_queue_delay_us, max_batch_pairs,
            max_backlog_tokens, max_requests, max_documents, max_body_bytes, max_total_body_bytes,
            score_cache_bytes, max_model_memory_bytes, default_timeout_ms, max_timeout_ms, tokenizer_threads, keys_file, api_keys,
            redis_url; connection, late
        )
    }
}

/// Where the settings file is by default: nowhere. `--config` or `RERANKD_CONFIG` names it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FileArg {
    /// TOML file with these settings, names spelled with underscores
    #[arg(long, env = "RERANKD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}
