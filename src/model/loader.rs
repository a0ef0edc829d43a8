//! From a model's files to a scorer: which head, which family, which kernels.

use super::Scorer;
use super::config::Config;
use super::families::{self, Architecture};
use super::head::Head;
use super::late::{self, Late};
use super::parameters::Parameters;
use super::prompt::Prompt;
use super::scorer::{Family, Limits, Pipeline, Threads};
use super::source::ModelFiles;
use super::weights::Weights;
use crate::engine::cpu::{Cpu, Isa};
use crate::engine::cuda::{Cuda, probe};
use crate::engine::pool::Pool;
use crate::engine::selfcheck;
use crate::engine::{Backend, Dtype, MaxSim};
use crate::error::{DeviceError, ModelError};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// How to run a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `None`: every core that the process may use (affinity and cgroup quota counted).
    pub threads: Option<NonZeroUsize>,
    /// `None`: the fastest instruction set that the machine has.
    pub isa: Option<Isa>,
    /// `None`: f16 on a GPU, and f32 on a CPU, where `rerank::prepare`, which can judge, takes the fastest that is
    /// right.
    pub dtype: Option<Dtype>,
    /// `None`: the CPU.
    pub gpus: Option<Gpus>,
    /// Whether an encoder of one vector a text is to give one a token.
    pub late_interaction: bool,
    /// Tokens in a sequence, if fewer than the model's own.
    pub max_length: Option<usize>,
}

impl LoadOptions {
    /// The least `max_length`: room for the special tokens and some words of each text.
    pub const LEAST_LENGTH: usize = 16;
}

/// GPUs to run on, each with an instance of the model.
#[derive(Debug, Clone)]
pub struct Gpus {
    pub devices: Vec<probe::Device>,
    /// Tokens of the largest batch, or the model's longest sequence if that has more: activations are allocated once,
    /// at load.
    pub max_batch_tokens: usize,
    /// Whether a pair's bits may not depend on its batch mates.
    pub batch_invariant: bool,
    /// A batch that takes longer means that the device hangs.
    pub timeout: Duration,
}

/// A model that can score.
pub struct LoadedModel {
    pub architecture: String,
    /// The longest sequence, special tokens included.
    pub max_length: usize,
    pub vocab_size: usize,
    /// Floats per sequence that the scorer gives.
    pub width: usize,
    pub head: Head,
    /// How a language model is asked.
    pub prompt: Option<Prompt>,
    /// For logs: what computes.
    pub device: String,
    pub dtype: Dtype,
    /// One an instance: the CPU, or each GPU.
    pub scorers: Vec<Box<dyn Scorer>>,
    /// Compares token vectors, of a model of late interaction.
    pub max_sim: Arc<dyn MaxSim>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("architecture", &self.architecture)
            .field("max_length", &self.max_length)
            .field("head", &self.head)
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

/// Reads `config.json` as its family does, and says what is wrong with it.
///
/// # Errors
/// A field that is missing or wrong, or an architecture without code.
pub fn check_config(json: &[u8]) -> Result<Config, ModelError> {
    let config = Config::parse(json)?;
    families::find(&config)?;
    Ok(config)
}

/// Reads, checks and prepares a model.
///
/// # Errors
/// What is wrong with which file, or that the machine lacks the instruction set or the threads asked for.
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    check_is_whole(files)?;
    load_with(files, &Weights::open(files)?, options)
}

/// Prepares a model of other weights than its files'.
///
/// # Errors
/// As for [`load`].
pub fn load_with(
    files: &ModelFiles,
    weights: &Weights,
    options: &LoadOptions,
) -> Result<LoadedModel, ModelError> {
    let config = Config::read(files)?;
    let family = families::find(&config)?;
    let prompt = family.is_prompted.then(|| Prompt::find(files)).transpose()?;
    let head = head_of(files, &config, (family.make_head)(files, &config), options)?;
    let parts = Parts { files, weights, config: &config, head: &head, options };
    let Instances { device, dtype, limits, scorers, max_sim } = (family.instances)(&parts)?;
    Ok(LoadedModel {
        max_length: limits.max_length,
        vocab_size: limits.vocab_size,
        width: scorers.first().map_or(0, |scorer| scorer.width()),
        architecture: config.architecture,
        head,
        prompt,
        device,
        dtype,
        scorers,
        max_sim,
    })
}

/// The family's head, or late interaction where the folder or the options say so.
fn head_of(
    files: &ModelFiles,
    config: &Config,
    made: Result<Head, ModelError>,
    options: &LoadOptions,
) -> Result<Head, ModelError> {
    // What makes a family's head may refuse modules that late interaction has.
    let head = match (late::head(files)?, made) {
        (Some(head), _) => head,
        (None, made) if !options.late_interaction => return made,
        (None, Ok(Head::Classifier { .. })) => {
            let message =
                format!("'{}' scores pairs and has no token vectors", config.architecture);
            return Err(ModelError::unsupported("config.json", "architectures", message));
        }
        (None, _) => Head::Late(Late::plain()),
    };
    Ok(head)
}

/// A folder may hold what was trained on top of a model, without the model.
pub(super) fn check_is_whole(files: &ModelFiles) -> Result<(), ModelError> {
    const FILE: &str = "adapter_config.json";
    let Some(json) = files.read(FILE)? else { return Ok(()) };
    let adapter: serde_json::Value = serde_json::from_slice(&json)
        .map_err(|error| ModelError::invalid(FILE, "json", error.to_string()))?;
    let kind = adapter["peft_type"].as_str().unwrap_or("an");
    let base = adapter["base_model_name_or_path"].as_str().unwrap_or("its base model");
    let message = format!(
        "this is {kind} adapter, which is not applied here: merge it into {base} and serve the result"
    );
    Err(ModelError::unsupported(FILE, "peft_type", message))
}

/// What every instance of a model is made from.
pub(super) struct Parts<'a> {
    files: &'a ModelFiles,
    weights: &'a Weights,
    config: &'a Config,
    head: &'a Head,
    options: &'a LoadOptions,
}

/// A model on its devices.
pub(super) struct Instances {
    device: String,
    dtype: Dtype,
    limits: Limits,
    scorers: Vec<Box<dyn Scorer>>,
    max_sim: Arc<dyn MaxSim>,
}

impl Parts<'_> {
    pub(super) fn instances<A: Architecture>(&self) -> Result<Instances, ModelError> {
        match &self.options.gpus {
            None => self.on_cpu::<A>(),
            Some(gpus) => self.on_gpus::<A>(gpus),
        }
    }

    fn load<A: Architecture, B: Backend>(&self, backend: &B) -> Result<A::Model<B>, ModelError> {
        let parameters = Parameters { backend, weights: self.weights, files: self.files };
        A::load(&parameters, self.config, self.head)
    }

    fn on_cpu<A: Architecture>(&self) -> Result<Instances, ModelError> {
        let cpu = backend(self.options)?;
        let threads = self.options.threads.or(std::thread::available_parallelism().ok());
        let num_threads = threads.map_or(1, NonZeroUsize::get);
        let pool = Pool::new(num_threads)
            .map_err(|source| ModelError::Io { file: "engine threads".to_owned(), source })?;
        let model = self.load::<A, Cpu>(&cpu)?;
        let limits = model.limits();
        let scorer = Threads::new(cpu, Arc::new(model), pool).map_err(ModelError::Device)?;
        let device = format!("{}, {num_threads} threads", cpu.isa().name());
        let (dtype, max_sim) = (cpu.dtype(), Arc::new(cpu));
        Ok(Instances { device, dtype, limits, scorers: vec![Box::new(scorer)], max_sim })
    }

    fn on_gpus<A: Architecture>(&self, gpus: &Gpus) -> Result<Instances, ModelError> {
        let mut scorers: Vec<Box<dyn Scorer>> = Vec::new();
        let mut limits = None;
        let mut max_sim: Option<Arc<dyn MaxSim>> = None;
        for device in &gpus.devices {
            let cuda = Cuda::new(device, gpus.batch_invariant).map_err(ModelError::Device)?;
            selfcheck::check(&cuda).map_err(ModelError::Device)?;
            cuda.forget_layers();
            let model = self.load::<A, Cuda>(&cuda)?;
            limits = Some(model.limits());
            if let (None, Head::Late(_)) = (&max_sim, self.head) {
                let comparer = cuda.comparer(model.width()).map_err(ModelError::Device)?;
                max_sim = comparer.map(|comparer| Arc::new(comparer) as _);
            }
            let pipeline = Pipeline::new(cuda, model, gpus.max_batch_tokens, gpus.timeout);
            scorers.push(Box::new(pipeline.map_err(ModelError::Device)?));
        }
        let none = || ModelError::Device(DeviceError::new("no GPU to load the model onto"));
        let names: Vec<_> = gpus.devices.iter().map(|device| device.name.as_str()).collect();
        let (device, limits) = (names.join(", "), limits.ok_or_else(none)?);
        // Vectors come back to the host, where documents are kept; wide ones are compared there too.
        let max_sim = max_sim.unwrap_or_else(|| Arc::new(Cpu::new(Dtype::F32)));
        Ok(Instances { device, dtype: Dtype::F16, limits, scorers, max_sim })
    }
}

fn backend(options: &LoadOptions) -> Result<Cpu, ModelError> {
    let dtype = options.dtype.unwrap_or(Dtype::F32);
    if dtype == Dtype::F16 {
        let message = "f16 is what GPUs compute in; a CPU has f32, bf16 and int8".to_owned();
        return Err(ModelError::unsupported("engine", "dtype", message));
    }
    let Some(isa) = options.isa else { return Ok(Cpu::new(dtype)) };
    Cpu::with_isa(isa, dtype).ok_or_else(|| {
        let have: Vec<_> = Isa::available().map(Isa::name).collect();
        let message =
            format!("this machine has not got {}; it has {}", isa.name(), have.join(", "));
        ModelError::unsupported("engine", "isa", message)
    })
}
