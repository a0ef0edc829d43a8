//! From a model's files to a scorer: which head, which family, which kernels.

use super::bert::Bert;
use super::config::Config;
use super::head::Head;
use super::scorer::Driver;
use super::source::ModelFiles;
use super::weights::Weights;
use super::{Scorer, modules};
use crate::engine::Dtype;
use crate::engine::cpu::{Cpu, Isa};
use crate::engine::pool::Pool;
use crate::error::ModelError;
use std::num::NonZeroUsize;

/// How to run a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// `None`: every core that the process may use (affinity and cgroup quota counted).
    pub threads: Option<NonZeroUsize>,
    /// `None`: the fastest instruction set that the machine has.
    pub isa: Option<Isa>,
    /// `None`: f32; `rerank::prepare`, which can judge, takes the fastest that is right.
    pub dtype: Option<Dtype>,
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
    pub isa: Isa,
    pub dtype: Dtype,
    pub num_threads: usize,
    pub scorer: Box<dyn Scorer>,
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("architecture", &self.architecture)
            .field("max_length", &self.max_length)
            .field("head", &self.head)
            .field("isa", &self.isa)
            .field("dtype", &self.dtype)
            .field("num_threads", &self.num_threads)
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
    let cpu = backend(options)?;
    let threads = options.threads.or(std::thread::available_parallelism().ok());
    let num_threads = threads.map_or(1, NonZeroUsize::get);
    let pool = Pool::new(num_threads)
        .map_err(|source| ModelError::Io { file: "engine threads".to_owned(), source })?;

    let weights = Weights::open(files)?;
    let bert = Bert::load(&cpu, &weights, config.clone(), &head)?;
    let scorer: Box<dyn Scorer> = Box::new(Driver::new(cpu, bert, pool));
    Ok(LoadedModel {
        max_length: config.max_position_embeddings,
        vocab_size: config.vocab_size,
        architecture: config.architecture,
        width: scorer.width(),
        head,
        isa: cpu.isa(),
        dtype: cpu.dtype(),
        num_threads,
        scorer,
    })
}

fn backend(options: &LoadOptions) -> Result<Cpu, ModelError> {
    let dtype = options.dtype.unwrap_or(Dtype::F32);
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
