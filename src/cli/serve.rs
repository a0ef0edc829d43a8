//! `rerankd serve`: builds the parts and runs the server until it is told to stop.

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;
use super::hardware::Hardware;
use super::model::{hub, load_options};
use crate::api::info::ServerFacts;
use crate::batch::Limits;
use crate::clock;
use crate::config::{
    CascadeEntry, Config, ConfigError, ConnectionConfig, Device, FileArg, Kind, ModelConfig,
    ModelSettings, Secret, ServeSettings, ServedModel, read_file,
};
use crate::health::Health;
use crate::http;
use crate::model::registry::Names;
use crate::rerank::{self, Cascade, Host, Loader, Models, Spec};
use crate::tenant::{self, Source, Tenants};

/// Serve rerank requests over HTTP
///
/// Speaks Cohere v1 and v2, Jina, vLLM, TEI and their kin on the paths their
/// clients use. With an encoder it gives vectors as well, by OpenAI's
/// /v1/embeddings, Cohere's /v2/embed and TEI's /embed. Prometheus metrics are at /metrics, probes at /live and /ready.
/// Every setting can also come from the environment or, with --config, from a
/// TOML file; flags win over the environment, the environment over the file.
///
/// Examples:
///   rerankd serve
///   rerankd serve --model cross-encoder/ms-marco-MiniLM-L6-v2 --alias rerank-v3.5
///   rerankd serve --model ./my-model --host 0.0.0.0 --port 8000
///   rerankd serve --model small=default --model large=BAAI/bge-reranker-v2-m3 --max-batch-tokens 8192
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    model: ModelSettings,
    #[command(flatten)]
    serve: ServeSettings,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let file = args.file.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let model = args.model.or(file.model);
    let hardware = Hardware::find(model.device)?;
    let config = Config::new(&model, args.serve.or(file.serve), file.models, hardware.machine())?;
    log();
    tracing::info!(?config, "starting");
    if let Some(why) = &hardware.no_gpu {
        tracing::info!(%why, "computing on the CPU");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("rerankd-http")
        .build()
        .map_err(|e| Failure::io("cannot start the async runtime", e))?;
    let result = runtime.block_on(serve(config, hardware));
    // A model that is still loading must not hold up the end of the process.
    runtime.shutdown_background();
    result
}

/// JSON for machines, plain lines for a terminal; `RUST_LOG` chooses what is logged.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}

/// Listens first, so that a busy port is told at once and probes see a server that is starting; then loads.
async fn serve(config: Config, hardware: Hardware) -> Result<(), Failure> {
    let host = Host::default();
    let Host { metrics, health, .. } = host.clone();
    let cannot_serve = |e| Failure::io("cannot serve", e);
    let models = Arc::new(Models::new(config.strict_model_names, Arc::clone(&metrics)));
    let template = spec(&config.model, None, config.score_cache_bytes, &config, &hardware)?;
    let limit = config.max_model_memory_bytes;
    let loader = Loader::new(Arc::clone(&models), host, hub(), limit, template);
    let loader = Arc::new(loader);
    let tenants = Arc::new(open_keys(&config)?);
    let redis = open_redis(&config)?;
    let options = options(&config, models, Arc::clone(&loader), Arc::clone(&tenants));
    let server = http::Server::bind(options, Arc::clone(&metrics), Arc::clone(&health));
    let server = server.await.map_err(cannot_serve)?;
    let address = server.address().map_err(cannot_serve)?;
    tracing::info!(%address, "listening");
    let stop = stop_signal().map_err(|e| Failure::io("cannot wait for signals", e))?;
    let loading = tokio::task::spawn_blocking(move || load(&config, &hardware, &loader));
    if let Some(redis) = redis {
        tokio::spawn(tenant::share(Arc::clone(&tenants), redis, metrics));
    }
    tokio::spawn(tenant::watch(tenants));
    let run = server.run(stop_or_lost(stop, Arc::clone(&health)));
    tokio::pin!(run);
    tokio::select! {
        () = &mut run => return Ok(()),
        loaded = loading => {
            loaded.map_err(|e| Failure::io("loading broke off", e.into()))??;
            health.started();
        }
    }
    run.await;
    if health.is_lost() {
        // What the device still holds cannot be freed: a driver that hangs would hang this process too.
        tracing::error!("ended for want of a device");
        std::process::exit(1);
    }
    tracing::info!("stopped");
    Ok(())
}

/// A lost device drains the server as a signal does: what waits is told so, and a supervisor starts anew.
async fn stop_or_lost(stop: impl Future<Output = ()>, health: Arc<Health>) {
    tokio::select! {
        () = stop => {}
        () = health.lost() => {}
    }
}

/// Fails at once, like any wrong setting: a server that lets everybody in, or nobody, is not what was meant.
fn open_keys(config: &Config) -> Result<Tenants, ConfigError> {
    let tenants = Tenants::open(config.keys.clone());
    tenants.map_err(|error| match &config.keys {
        Source::File(path) => ConfigError::new(&path.display().to_string(), error.to_string()),
        _ => ConfigError::new("api-key", error.to_string()),
    })
}

/// Does not connect: Redis may come later than this server, or never.
fn open_redis(config: &Config) -> Result<Option<redis::Client>, ConfigError> {
    let client = |url: &Secret| redis::Client::open(url.0.as_str());
    let opened = config.redis_url.as_ref().map(client).transpose();
    opened.map_err(|e| ConfigError::new("redis-url", e.to_string()))
}

fn options(
    config: &Config,
    models: Arc<Models>,
    loader: Arc<Loader>,
    tenants: Arc<Tenants>,
) -> http::Options {
    let ConnectionConfig { address, tls, max_connections, timeouts, drain_delay, drain_timeout } =
        config.connection.clone();
    http::Options {
        address,
        tls,
        server: ServerFacts {
            version: env!("CARGO_PKG_VERSION").into(),
            max_documents: config.max_documents,
            max_body_bytes: config.max_body_bytes,
            max_batch_tokens: config.limits.max_batch_tokens,
            max_concurrent_requests: config.max_requests,
            tokenization_workers: config.tokenizer_threads,
            started_unix_seconds: clock::unix_seconds(),
        },
        models,
        loader: Some(loader),
        tenants,
        max_total_body_bytes: config.max_total_body_bytes,
        max_connections,
        timeouts,
        drain_delay,
        drain_timeout,
    }
}

/// Loads the models, cascades after their parts, and serves them in the order of the configuration. Blocks: a
/// download may take minutes.
fn load(config: &Config, hardware: &Hardware, loader: &Loader) -> Result<(), Failure> {
    for ServedModel { name, aliases, kind } in &config.models {
        let Kind::Files { model, max_backlog_tokens, score_cache_bytes } = kind else { continue };
        let spec = spec(model, *max_backlog_tokens, *score_cache_bytes, config, hardware)?;
        loader.load(&Spec { name: name.clone(), aliases: Some(aliases.clone()), ..spec })?;
    }
    for (place, ServedModel { name, aliases, kind }) in config.models.iter().enumerate() {
        let Kind::Cascade(CascadeEntry { first, second, k }) = kind else { continue };
        let served = name.clone().unwrap_or_default();
        let names = Names { served, aliases: aliases.clone() };
        let (first, second) = (first.clone(), second.clone());
        loader.join(place, &names, Cascade { first, second, k: *k })?;
    }
    Ok(())
}

/// A model of the configuration, without its names.
fn spec(
    model: &ModelConfig,
    max_backlog_tokens: Option<usize>,
    score_cache_bytes: usize,
    config: &Config,
    hardware: &Hardware,
) -> Result<Spec, Failure> {
    Ok(Spec {
        name: None,
        aliases: None,
        source: model.model.clone(),
        revision: model.revision.clone(),
        load: load_options(model, hardware)?,
        may_fall_back: model.device == Device::Auto,
        may_grow: model.may_grow,
        options: rerank::Options {
            limits: Limits { max_batch_tokens: model.max_batch_tokens, ..config.limits },
            max_backlog_tokens: max_backlog_tokens.or(config.max_backlog_tokens),
            max_requests: config.max_requests,
            tokenizer_threads: config.tokenizer_threads,
            default_timeout: config.default_timeout,
            max_timeout: config.max_timeout,
            device_timeout: model.device_timeout,
            score_cache_bytes,
            matrices: config.matrices.clone(),
        },
    })
}

/// Ready at the first SIGTERM or SIGINT. The second ends the process at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (first, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        next().await;
        // The receiver is gone only when the server is, and with it the process.
        let _ = first.send(());
        next().await;
        tracing::warn!("second signal: stopping at once");
        std::process::exit(1);
    });
    Ok(async move {
        let _ = stopped.await;
    })
}
