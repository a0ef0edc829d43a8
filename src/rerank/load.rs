//! From a model's files to a model that gives its golden scores.

use std::sync::Arc;

use super::golden::Golden;
use crate::batch::Rate;
use crate::clock;
use crate::engine::cpu::Isa;
use crate::engine::packed::Packed;
use crate::engine::{Dtype, MaxSim};
use crate::error::ModelError;
use crate::model::config::Config;
use crate::model::head::Head;
use crate::model::known;
use crate::model::loader::{self, LoadOptions, LoadedModel};
use crate::model::prompts::Prompts;
use crate::model::source::ModelFiles;
use crate::model::{Grain, Scorer};
use crate::tokenize::{self, Encoder, Form};

/// A model with its tokenizer, checked and timed.
pub struct Prepared {
    pub architecture: String,
    /// Tokens in a sequence, by the model's limit and the tokenizer's.
    pub max_length: usize,
    pub head: Head,
    /// For logs: what computes.
    pub device: String,
    /// What was asked for, or what `auto` came to.
    pub dtype: Dtype,
    /// One an instance of the model.
    pub scorers: Vec<Box<dyn Scorer>>,
    pub encoder: Encoder,
    /// Measured on a warm-up batch: a first guess at the speed of all instances together.
    pub tokens_per_second: f64,
    pub late: Option<PreparedLate>,
}

/// What a model of late interaction brings beside.
#[derive(Debug)]
pub struct PreparedLate {
    pub max_sim: Arc<dyn MaxSim>,
    /// The hash of all files that decide a token's vector.
    pub weights: String,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("architecture", &self.architecture)
            .field("max_length", &self.max_length)
            .finish_non_exhaustive()
    }
}

/// Loads weights and tokenizer, runs the golden pairs if the model has some, and times the device.
///
/// Without a precision in `options` it is the fastest of this machine that keeps the golden pairs within the
/// model's tolerance, and f32 for a model without pairs or tolerance.
///
/// # Errors
/// A file that is missing, broken, of an unknown kind, or that does not fit the others; golden scores
/// that do not come out.
pub fn prepare(files: &ModelFiles, options: &LoadOptions) -> Result<Prepared, ModelError> {
    let golden = Golden::read(files)?;
    if options.gpus.is_some() {
        return prepare_as(files, options, Dtype::F16, &golden);
    }
    if options.dtype.is_none() {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let hidden_size = Config::read(files)?.fields.hidden_size();
        let dtypes = isa.fastest_dtypes(hidden_size).iter();
        for &dtype in dtypes.filter(|dtype| **dtype != Dtype::F32) {
            if golden.tolerance(dtype).is_none() {
                let model = files.name();
                tracing::debug!(
                    model,
                    dtype = dtype.name(),
                    "not tried: no golden pairs to judge by"
                );
                continue;
            }
            match prepare_as(files, options, dtype, &golden) {
                Err(ModelError::Golden { model, got, expected, tolerance, .. }) => {
                    let dtype = dtype.name();
                    tracing::info!(model, dtype, got, expected, tolerance, "not precise enough");
                }
                result => return result,
            }
        }
    }
    prepare_as(files, options, options.dtype.unwrap_or(Dtype::F32), &golden)
}

/// Like [`prepare`]; with `may_fall_back`, on the CPU if the GPUs of `options` cannot take the model.
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_or_fall_back(
    files: &ModelFiles,
    options: &LoadOptions,
    may_fall_back: bool,
) -> Result<Prepared, ModelError> {
    match prepare(files, options) {
        // The batches stay as large as a GPU's: an operator who reads the warning will set one or the other.
        Err(ModelError::Device(why)) if may_fall_back && options.gpus.is_some() => {
            tracing::warn!(%why, "computing on the CPU");
            prepare(files, &LoadOptions { gpus: None, ..options.clone() })
        }
        prepared => prepared,
    }
}

/// Tokens in a batch, as they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTokens {
    pub max: usize,
    /// Nobody set them: for a model of longer sequences they are as many as one of those has.
    pub may_grow: bool,
}

/// Like [`prepare_or_fall_back`], for batches that hold the longest sequence: also how many tokens these have.
///
/// # Errors
/// As for [`prepare`]; or a sequence of the model may be longer than a batch.
pub fn prepare_to_fit(
    files: &ModelFiles,
    options: &LoadOptions,
    may_fall_back: bool,
    tokens: BatchTokens,
) -> Result<(Prepared, usize), ModelError> {
    let prepared = prepare_or_fall_back(files, options, may_fall_back)?;
    let (max_length, max_batch_tokens) = (prepared.max_length, tokens.max);
    if max_length <= max_batch_tokens {
        return Ok((prepared, max_batch_tokens));
    }
    if !tokens.may_grow {
        return Err(ModelError::LongerThanBatch { max_batch_tokens, max_length });
    }
    let model = files.name();
    tracing::info!(model, max_length, "a batch holds one sequence of the longest");
    // A card has memory for it: what is taken at load holds the longest sequence in any case.
    Ok((prepared, max_length))
}

impl Prepared {
    /// Floats that the model gives for a sequence.
    pub fn width(&self) -> usize {
        self.scorers.first().map_or(0, |scorer| scorer.width())
    }
}

fn prepare_as(
    files: &ModelFiles,
    options: &LoadOptions,
    dtype: Dtype,
    golden: &Golden,
) -> Result<Prepared, ModelError> {
    let options = LoadOptions { dtype: Some(dtype), ..options.clone() };
    let LoadedModel {
        architecture,
        max_length,
        vocab_size,
        width,
        head,
        prompt,
        device,
        dtype,
        mut scorers,
        max_sim,
    } = loader::load(files, &options)?;
    let made_for = known::find(files.name()).map_or(max_length, |known| known.max_length);
    let max_length = max_length.min(made_for).min(options.max_length.unwrap_or(usize::MAX));
    if !head.can_rank() {
        let message = format!(
            "{width} labels; a reranker has one, or two of which the second counts, or model.toml names the \
                     label that is the relevance (rank_by = \"...\")"
        );
        return Err(ModelError::unsupported("config.json", "id2label", message));
    }
    let tokenizer = tokenize::load(files, vocab_size)?;
    let encoder = match (&prompt, &head) {
        (Some(prompt), _) => Encoder::prompting(tokenizer, prompt, max_length)?,
        // The prompts of a cross-encoder's folder are left from the encoder it was made of.
        (None, Head::Classifier { .. }) => Encoder::new(tokenizer, Form::Pair, max_length)?,
        (None, Head::Embedding { .. }) => {
            Encoder::new(tokenizer, Form::Single, max_length)?.with_prompts(Prompts::read(files)?)
        }
        (None, Head::Late(late)) => Encoder::late(tokenizer, late, max_length)?,
    };
    let mut tokens_per_second = 0.0;
    for scorer in &mut scorers {
        // Golden pairs have a row each; a model of token vectors has none.
        if scorer.grain() == Grain::Sequence {
            golden.check(files.name(), &encoder, &mut **scorer, dtype)?;
        }
        tokens_per_second += time(&encoder, &mut **scorer);
    }
    #[cfg(debug_assertions)]
    let scorers = crate::model::faults::inject(scorers);
    let max_length = encoder.max_length();
    let late = match &head {
        Head::Late(late) => Some(PreparedLate { max_sim, weights: late.fingerprint(files)? }),
        _ => None,
    };
    Ok(Prepared {
        architecture,
        max_length,
        head,
        device,
        dtype,
        scorers,
        encoder,
        tokens_per_second,
        late,
    })
}

/// Tokens per second on one batch of short sequences, after one to warm up.
fn time(encoder: &Encoder, scorer: &mut dyn Scorer) -> f64 {
    // Enough to show the speed, little enough to start at once on any CPU.
    const NUM_TOKENS: usize = 512;
    let seqlen = encoder.max_length().min(64);
    let mut packed = Packed::with_capacity(NUM_TOKENS, NUM_TOKENS / seqlen + 1);
    while packed.num_tokens() + seqlen <= NUM_TOKENS {
        packed.push(&vec![0; seqlen], seqlen / 2);
    }
    let mut out = vec![0.0; scorer.grain().num_rows(&packed) * scorer.width()];
    let rate = Rate::new(1000.0);
    let mut best = rate.tokens_per_second();
    for _ in 0..2 {
        let start = clock::now();
        // A device that fails here shows it again on the first request, with an answer to give.
        if scorer.score(&packed, &mut out).is_ok() {
            let seconds = clock::now().saturating_duration_since(start).as_secs_f64();
            best = f64::max(best, packed.num_tokens() as f64 / seconds.max(1e-9));
        }
    }
    best
}
