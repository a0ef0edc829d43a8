//! Models come and go while the server serves: load, swap, unload.
//!
//! A model is loaded beside those that serve, and only what gives its golden scores is put in place, in one step.
//! Requests that came before keep the model they resolved; when the last of them has its answer the old model is
//! freed. So a swap loses no request, and no answer is of two models.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use super::memory::{Ledger, Reservation};
use super::models::{Models, Scoring, Serving};
use super::{BatchTokens, Cascade, Host, Options, Service, prepare_to_fit};
use crate::api::info::{ModelFacts, VectorFacts};
use crate::batch::Limits;
use crate::clock;
use crate::engine::Dtype;
use crate::error::{Error, ModelError};
use crate::model::loader::LoadOptions;
use crate::model::memory::{Need, Run};
use crate::model::registry::Names;
use crate::model::source::{HubOptions, ModelFiles, Source};
use crate::request::LoadRequest;

/// What to load, and how.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `None`: the model's own.
    pub name: Option<String>,
    /// `None`: those of the model that is replaced, if one is.
    pub aliases: Option<Vec<String>>,
    /// A folder, a hub name, or `default`.
    pub source: String,
    pub revision: Option<String>,
    pub load: LoadOptions,
    /// Whether the CPU takes the model if the GPUs cannot.
    pub may_fall_back: bool,
    /// Whether batches of a model of long sequences are larger than `options` says.
    pub may_grow: bool,
    pub options: Options,
}

/// What came of a load.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub facts: ModelFacts,
    pub memory_bytes: u64,
    /// Whether it took the place of another.
    pub has_replaced: bool,
}

/// Loads models for a server, one at a time.
#[derive(Debug)]
pub struct Loader {
    models: Arc<Models>,
    host: Host,
    hub: HubOptions,
    memory: Arc<Ledger>,
    /// For what an operator's request leaves open.
    template: Spec,
    loading: Mutex<()>,
}

/// How often a model that was replaced is looked at until nobody uses it.
const RETIRE_POLL: Duration = Duration::from_millis(10);

impl Loader {
    pub fn new(
        models: Arc<Models>,
        host: Host,
        hub: HubOptions,
        max_memory_bytes: u64,
        template: Spec,
    ) -> Self {
        let memory = Ledger::new(max_memory_bytes);
        Self { models, host, hub, memory, template, loading: Mutex::default() }
    }

    /// Loads a model and serves it. Blocks: a download may take minutes.
    ///
    /// # Errors
    /// Why it cannot be had; then everything is as it was.
    pub fn load(&self, spec: &Spec) -> Result<Loaded, ModelError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        self.load_alone(spec)
    }

    /// As an operator asks for it while the server serves. Only one load runs at a time.
    ///
    /// # Errors
    /// Another is running, or why it cannot be had.
    pub fn load_for(&self, request: LoadRequest) -> Result<Loaded, Error> {
        let _one_at_a_time = match self.loading.try_lock() {
            Ok(guard) => guard,
            // It guards no data.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Conflict("another model is being loaded".into()));
            }
        };
        let spec = self.spec_of(request)?;
        self.load_alone(&spec).map_err(|error| {
            tracing::warn!(source = spec.source, %error, "a model was not loaded");
            Error::ModelRefused(error.to_string())
        })
    }

    /// Takes a model away. Whoever it was admitted for still gets its scores.
    ///
    /// # Errors
    /// No model has the name, or it may not go.
    pub fn unload(&self, name: &str) -> Result<(), Error> {
        let serving = self.models.take(name)?;
        tracing::info!(model = name, "unloaded");
        retire(serving);
        Ok(())
    }

    /// Serves two models as one, before the models from `place` on. Both are there already.
    ///
    /// # Errors
    /// One is not, or a name is taken.
    pub fn join(&self, place: usize, names: &Names, cascade: Cascade) -> Result<(), Error> {
        let facts = cascade.facts(names, &self.models)?;
        let scoring = Scoring::Cascade(cascade);
        let put = self.models.put_at(place, Serving::new(scoring, facts, None));
        put.map(drop).map_err(|taken| Error::Conflict(taken.to_string()))
    }

    fn spec_of(&self, request: LoadRequest) -> Result<Spec, Error> {
        let LoadRequest { name, source, revision, aliases, dtype, max_batch_tokens, max_length } =
            request;
        let mut spec = Spec { name, source, revision, aliases, ..self.template.clone() };
        match dtype.as_deref() {
            None => {}
            Some("auto") => spec.load.dtype = None,
            Some(name) => {
                let unknown = || Error::invalid("dtype", format!("dtype: no '{name}' here"));
                spec.load.dtype = Some(Dtype::named(name).ok_or_else(unknown)?);
            }
        }
        if spec.load.gpus.is_some() && spec.load.dtype.is_some_and(|dtype| dtype != Dtype::F16) {
            return Err(Error::invalid("dtype", "dtype: a GPU has f16 alone"));
        }
        let at_least = |least: usize, field: &str, value: Option<usize>| match value {
            Some(value) if value < least => {
                Err(Error::invalid(field, format!("{field}: the least is {least}")))
            }
            _ => Ok(value),
        };
        if let Some(tokens) =
            at_least(Limits::LEAST_BATCH_TOKENS, "max_batch_tokens", max_batch_tokens)?
        {
            spec.options.limits.max_batch_tokens = tokens;
            spec.may_grow = false;
            if let Some(gpus) = &mut spec.load.gpus {
                gpus.max_batch_tokens = tokens;
            }
        }
        if let Some(length) = at_least(LoadOptions::LEAST_LENGTH, "max_length", max_length)? {
            spec.load.max_length = Some(length);
        }
        Ok(spec)
    }

    fn load_alone(&self, spec: &Spec) -> Result<Loaded, ModelError> {
        let begin = clock::now();
        let files = Source::parse(&spec.source, spec.revision.as_deref())?.open(&self.hub)?;
        let name = spec.name.clone().unwrap_or_else(|| files.name().to_owned());
        let aliases = spec.aliases.clone().or_else(|| self.models.aliases_of(&name));
        let names = Names { served: name, aliases: aliases.unwrap_or_default() };
        let taken = |error: crate::model::registry::NameTaken| {
            ModelError::invalid(&spec.source, "name", error.to_string())
        };
        // Known before minutes are spent.
        self.models.check_names(&names).map_err(taken)?;
        let (serving, device) = self.serving(spec, &files, &names)?;
        let facts = serving.facts.clone();
        let tokens_per_second = serving.load().tokens_per_second as u64;
        let memory_bytes = serving.memory.as_ref().map_or(0, Reservation::num_bytes);
        let old = self.models.put_at(usize::MAX, serving).map_err(taken)?;
        let has_replaced = old.is_some();
        old.into_iter().for_each(retire);
        let seconds = clock::now().saturating_duration_since(begin).as_secs_f64();
        tracing::info!(
            model = facts.name,
            device,
            dtype = facts.dtype,
            tokens_per_second,
            memory_bytes,
            has_replaced,
            seconds,
            "ready"
        );
        Ok(Loaded { facts, memory_bytes, has_replaced })
    }

    /// A model that runs, and what computes it.
    fn serving(
        &self,
        spec: &Spec,
        files: &ModelFiles,
        names: &Names,
    ) -> Result<(Serving, String), ModelError> {
        let Spec { load, options, .. } = spec;
        let tokens = BatchTokens { max: options.limits.max_batch_tokens, may_grow: spec.may_grow };
        let run = |dtype, max_length| Run {
            dtype,
            threads: match dtype {
                Dtype::F16 => 1,
                _ => load.threads.map_or(1, std::num::NonZero::get),
            },
            max_batch_tokens: match dtype {
                Dtype::F16 => tokens.max,
                _ if tokens.may_grow => max_length,
                _ => tokens.max,
            },
            max_length,
            late_interaction: load.late_interaction,
            matrix_bytes: options.matrices.memory_bytes as u64,
        };
        let longest = load.max_length.unwrap_or(usize::MAX);
        let need = Need::of(files, run(expected_dtype(load), longest))?;
        let (load, memory) = match self.memory.reserve(&names.served, &need) {
            Ok(memory) => (load.clone(), Some(memory)),
            // The memory that is reckoned with is the card's.
            Err(why) if spec.may_fall_back && load.gpus.is_some() => {
                tracing::warn!(%why, "computing on the CPU");
                (LoadOptions { gpus: None, ..load.clone() }, None)
            }
            Err(why) => return Err(why),
        };
        let (prepared, max_batch_tokens) =
            prepare_to_fit(files, &load, spec.may_fall_back, tokens)?;
        if let Some(memory) = &memory {
            memory.correct(&Need::of(files, run(prepared.dtype, prepared.max_length))?);
        }
        let limits = Limits { max_batch_tokens, ..options.limits };
        let options = Options { limits, ..options.clone() };
        let facts = ModelFacts {
            name: names.served.clone(),
            aliases: names.aliases.clone(),
            architecture: prepared.architecture.clone(),
            labels: prepared.head.labels().to_vec(),
            vectors: prepared
                .head
                .pooling()
                .map(|pooling| VectorFacts { pooling, dimensions: prepared.width() }),
            max_length: prepared.max_length,
            dtype: wire_name(prepared.dtype).into(),
            revision: files.revision().map(str::to_owned),
            created_unix_seconds: clock::unix_seconds(),
        };
        let device = prepared.device.clone();
        let service = Service::start(names.served.clone(), prepared, &options, &self.host)
            .map_err(|source| ModelError::Io { file: "threads".into(), source })?;
        let scoring = Scoring::Model(Box::new(service));
        Ok((Serving::new(scoring, facts, memory), device))
    }
}

/// The precision whose memory is set aside: without a choice the widest, since a narrow one may turn out not to be
/// right.
fn expected_dtype(load: &LoadOptions) -> Dtype {
    match (&load.gpus, load.dtype) {
        (Some(_), _) => Dtype::F16,
        (None, Some(dtype)) => dtype,
        (None, None) => Dtype::F32,
    }
}

/// Frees a model as soon as nobody uses it any more: at the latest when the last request it was admitted for has
/// reached its deadline. On a thread of its own, since its threads are waited for.
fn retire(old: Arc<Serving>) {
    let name = old.facts.name.clone();
    let wait = move || {
        while Arc::strong_count(&old) > 1 {
            std::thread::sleep(RETIRE_POLL);
        }
        let model = old.facts.name.clone();
        drop(old);
        tracing::info!(model, "freed");
    };
    if let Err(error) = std::thread::Builder::new().name("rerankd-retire".into()).spawn(wait) {
        // Then whoever uses it last frees it.
        tracing::warn!(model = name, %error, "no thread to free a model on");
    }
}

/// A precision as TEI's clients know it.
fn wire_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float32",
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        Dtype::Int8 => "int8",
    }
}
