//! From a model's files to a model that gives its golden scores.

use serde::Deserialize;

use crate::batch::Rate;
use crate::clock;
use crate::engine::packed::Packed;
use crate::error::{Error, ModelError};
use crate::model::Scorer;
use crate::model::head::Head;
use crate::model::loader::{self, LoadOptions, LoadedModel, Precision};
use crate::model::source::ModelFiles;
use crate::request::{Inputs, Truncation};
use crate::tokenize::{self, Encoder, Form};

/// A model with its tokenizer, checked and timed.
pub struct Prepared {
    pub architecture: String,
    /// Tokens in a sequence, by the model's limit and the tokenizer's.
    pub max_length: usize,
    pub head: Head,
    /// For logs: what computes.
    pub device: String,
    pub precision: Precision,
    /// One an instance of the model.
    pub scorers: Vec<Box<dyn Scorer>>,
    pub encoder: Encoder,
    /// Measured on a warm-up batch: a first guess at the speed of all instances together.
    pub tokens_per_second: f64,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("architecture", &self.architecture)
            .field("max_length", &self.max_length)
            .finish_non_exhaustive()
    }
}

/// A pair and the logits the reference implementation gave for it in f32.
#[derive(Debug, Deserialize)]
struct Golden {
    query: String,
    document: String,
    logits: Vec<f32>,
}

/// `model.toml`, of which only the tolerance matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Recipe {
    tolerance: Tolerance,
}

/// Largest difference of a logit from its golden value, by precision.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Tolerance {
    f32: f32,
    f16: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        // Two f32 forward passes that sum in different orders differ by about 1e-5 at six layers.
        // An f16 keeps three digits, and a logit is a sum over many of them.
        Self { f32: 2e-4, f16: 2e-2 }
    }
}

/// Loads weights and tokenizer, runs the golden pairs if the model has some, and times the device.
///
/// # Errors
/// A file that is missing, broken, of an unknown kind, or that does not fit the others; golden scores
/// that do not come out.
pub fn prepare(files: &ModelFiles, options: &LoadOptions) -> Result<Prepared, ModelError> {
    let LoadedModel {
        architecture,
        max_length,
        vocab_size,
        width,
        head,
        device,
        precision,
        mut scorers,
    } = loader::load(files, options)?;
    if !head.can_rank() {
        let message =
            format!("{width} labels; a reranker has one, or two of which the second counts");
        return Err(ModelError::unsupported("config.json", "id2label", message));
    }
    let form = match head {
        Head::Classifier { .. } => Form::Pair,
        Head::Embedding { .. } => Form::Single,
    };
    let encoder = Encoder::new(tokenize::load(files, vocab_size)?, form, max_length)?;
    let mut tokens_per_second = 0.0;
    for scorer in &mut scorers {
        check_golden(files, &encoder, precision, &mut **scorer)?;
        tokens_per_second += time(&encoder, &mut **scorer);
    }
    let max_length = encoder.max_length();
    Ok(Prepared {
        architecture,
        max_length,
        head,
        device,
        precision,
        scorers,
        encoder,
        tokens_per_second,
    })
}

fn check_golden(
    files: &ModelFiles,
    encoder: &Encoder,
    precision: Precision,
    scorer: &mut dyn Scorer,
) -> Result<(), ModelError> {
    const FILE: &str = "golden.json";
    let Some(bytes) = files.read(FILE)? else { return Ok(()) };
    let golden: Vec<Golden> = serde_json::from_slice(&bytes)
        .map_err(|e| ModelError::invalid(FILE, "json", e.to_string()))?;
    let recipe = match files.read("model.toml")? {
        Some(bytes) => toml::from_slice(&bytes)
            .map_err(|e| ModelError::invalid("model.toml", "toml", e.message().to_owned()))?,
        None => Recipe::default(),
    };
    let tolerance = match precision {
        Precision::F32 => recipe.tolerance.f32,
        Precision::F16 => recipe.tolerance.f16,
    };
    let failed = |e: Error| ModelError::invalid(FILE, "tokens", e.to_string());
    for (index, Golden { query, document, logits }) in golden.into_iter().enumerate() {
        let inputs = Inputs::Pairs(vec![(query, document)]);
        let tokenized = encoder.tokenize(&inputs, &Truncation::default()).map_err(failed)?;
        let mut packed = Packed::with_capacity(tokenized.sequences.num_tokens(), 1);
        let (input_ids, first_segment_len) = tokenized.sequences.get(0);
        packed.push(input_ids, first_segment_len);
        let mut row = vec![0.0; scorer.width()];
        scorer
            .score(&packed, &mut row)
            .map_err(|e| ModelError::invalid(FILE, format!("pair {index}"), e.to_string()))?;
        if row.len() != logits.len() {
            let message = format!("{} logits, but the model gives {}", logits.len(), row.len());
            return Err(ModelError::invalid(FILE, format!("pair {index}"), message));
        }
        for (&got, &expected) in row.iter().zip(&logits) {
            // Asked this way round, a NaN fails too.
            let is_close = (got - expected).abs() <= tolerance;
            if !is_close {
                let model = files.name().to_owned();
                return Err(ModelError::Golden { model, index, got, expected, tolerance });
            }
        }
    }
    Ok(())
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
    let mut out = vec![0.0; packed.num_sequences() * scorer.width()];
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
