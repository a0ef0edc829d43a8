//! From a model's files to a scorer: which head, which family, which kernels.

use super::bert::Bert;
use super::config::Config;
use super::head::Head;
use super::scorer::{Pipeline, Threads};
use super::source::ModelFiles;
use super::weights::Weights;
use super::{Scorer, modules};
use crate::engine::Dtype;
use crate::engine::cpu::{Cpu, Isa};
use crate::engine::cuda::{Cuda, probe};
use crate::engine::pool::Pool;
use crate::engine::selfcheck;
use crate::error::ModelError;
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
}

/// GPUs to run on, each with an instance of the model.
#[derive(Debug, Clone)]
pub struct Gpus {
    pub devices: Vec<probe::Device>,
    /// Tokens of the largest batch: activations are allocated once, at load.
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
    /// For logs: what computes.
    pub device: String,
    pub dtype: Dtype,
    /// One an instance: the CPU, or each GPU.
    pub scorers: Vec<Box<dyn Scorer>>,
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

type MakeHead = fn(&ModelFiles, &Config) -> Result<Head, ModelError>;

/// The architectures with code, and the head each ends in.
const FAMILIES: [(&str, MakeHead); 2] =
    [("BertForSequenceClassification", classifier), ("BertModel", modules::embedding_head)];

/// Reads, checks and prepares a model.
///
/// # Errors
/// What is wrong with which file, or that the machine lacks the instruction set or the threads asked for.
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<LoadedModel, ModelError> {
    let config = Config::read(files)?;
    let Some((_, make_head)) = FAMILIES.iter().find(|(name, _)| *name == config.architecture)
    else {
        let supported = FAMILIES.map(|(name, _)| name).join(", ");
        let message = format!("'{}' is not supported; {supported} are", config.architecture);
        return Err(ModelError::unsupported("config.json", "architectures", message));
    };
    let head = make_head(files, &config)?;
    let weights = Weights::open(files)?;
    let parts = Parts { weights: &weights, config: &config, head: &head };
    let (device, dtype, scorers) = match &options.gpus {
        None => parts.on_cpu(options)?,
        Some(gpus) => parts.on_gpus(gpus)?,
    };
    Ok(LoadedModel {
        max_length: config.max_position_embeddings,
        vocab_size: config.vocab_size,
        width: scorers.first().map_or(0, |scorer| scorer.width()),
        architecture: config.architecture,
        head,
        device,
        dtype,
        scorers,
    })
}

/// What every instance of a model is made from.
struct Parts<'a> {
    weights: &'a Weights,
    config: &'a Config,
    head: &'a Head,
}

type Instances = (String, Dtype, Vec<Box<dyn Scorer>>);

impl Parts<'_> {
    fn on_cpu(&self, options: &LoadOptions) -> Result<Instances, ModelError> {
        let cpu = backend(options)?;
        let threads = options.threads.or(std::thread::available_parallelism().ok());
        let num_threads = threads.map_or(1, NonZeroUsize::get);
        let pool = Pool::new(num_threads)
            .map_err(|source| ModelError::Io { file: "engine threads".to_owned(), source })?;
        let bert = Bert::load(&cpu, self.weights, self.config.clone(), self.head)?;
        let scorer = Threads::new(cpu, Arc::new(bert), pool).map_err(ModelError::Device)?;
        let device = format!("{}, {num_threads} threads", cpu.isa().name());
        Ok((device, cpu.dtype(), vec![Box::new(scorer)]))
    }

    fn on_gpus(&self, gpus: &Gpus) -> Result<Instances, ModelError> {
        let instance = |device: &probe::Device| -> Result<Box<dyn Scorer>, ModelError> {
            let cuda = Cuda::new(device, gpus.batch_invariant).map_err(ModelError::Device)?;
            selfcheck::check(&cuda).map_err(ModelError::Device)?;
            cuda.forget_layers();
            let bert = Bert::load(&cuda, self.weights, self.config.clone(), self.head)?;
            let pipeline = Pipeline::new(cuda, bert, gpus.max_batch_tokens, gpus.timeout);
            Ok(Box::new(pipeline.map_err(ModelError::Device)?))
        };
        let scorers = gpus.devices.iter().map(instance).collect::<Result<_, _>>()?;
        let names: Vec<_> = gpus.devices.iter().map(|device| device.name.as_str()).collect();
        Ok((names.join(", "), Dtype::F16, scorers))
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

fn classifier(_files: &ModelFiles, config: &Config) -> Result<Head, ModelError> {
    Ok(Head::Classifier { labels: config.labels.clone(), activation: config.activation })
}
