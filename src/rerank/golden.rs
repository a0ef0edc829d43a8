//! The pairs by which a model shows that it computes what its reference does.

use serde::Deserialize;

use crate::engine::Dtype;
use crate::engine::packed::Packed;
use crate::error::{Error, ModelError};
use crate::model::Scorer;
use crate::model::source::ModelFiles;
use crate::request::{Inputs, Truncation};
use crate::tokenize::Encoder;

const FILE: &str = "golden.json";

/// A model's pairs, and how near their logits must come.
#[derive(Debug, Default)]
pub(super) struct Golden {
    pairs: Vec<Pair>,
    tolerance: Tolerance,
}

/// A pair and the logits the reference implementation gave for it in f32.
#[derive(Debug, Deserialize)]
struct Pair {
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

/// Largest difference of a logit from its golden value, by precision. How much a narrow one costs depends on
/// the model, so none is assumed.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Tolerance {
    f32: f32,
    f16: f32,
    bf16: Option<f32>,
    int8: Option<f32>,
}

impl Default for Tolerance {
    fn default() -> Self {
        // Two f32 forward passes that sum in different orders differ by about 1e-5 at six layers.
        // An f16 keeps three digits, and a logit is a sum over many of them; a GPU has nothing else.
        Self { f32: 2e-4, f16: 2e-2, bf16: None, int8: None }
    }
}

impl Golden {
    /// Of a model without pairs, none.
    ///
    /// # Errors
    /// A file that is broken.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let Some(bytes) = files.read(FILE)? else { return Ok(Self::default()) };
        let pairs = serde_json::from_slice(&bytes)
            .map_err(|e| ModelError::invalid(FILE, "json", e.to_string()))?;
        let recipe = match files.read("model.toml")? {
            Some(bytes) => toml::from_slice(&bytes)
                .map_err(|e| ModelError::invalid("model.toml", "toml", e.message().to_owned()))?,
            None => Recipe::default(),
        };
        Ok(Self { pairs, tolerance: recipe.tolerance })
    }

    /// `None`: nothing to judge this precision by.
    pub(super) fn tolerance(&self, dtype: Dtype) -> Option<f32> {
        let Tolerance { f32, f16, bf16, int8 } = self.tolerance;
        match dtype {
            _ if self.pairs.is_empty() => None,
            Dtype::F32 => Some(f32),
            Dtype::F16 => Some(f16),
            Dtype::Bf16 => bf16,
            Dtype::Int8 => int8,
        }
    }

    /// # Errors
    /// The pair whose logit is too far off, or that cannot be scored.
    pub(super) fn check(
        &self,
        model: &str,
        encoder: &Encoder,
        scorer: &mut dyn Scorer,
        dtype: Dtype,
    ) -> Result<(), ModelError> {
        let Some(tolerance) = self.tolerance(dtype) else { return Ok(()) };
        for (index, pair) in self.pairs.iter().enumerate() {
            let row = pair.score(index, encoder, scorer)?;
            for (&got, &expected) in row.iter().zip(&pair.logits) {
                // Asked this way round, a NaN fails too.
                let is_close = (got - expected).abs() <= tolerance;
                if !is_close {
                    let model = model.to_owned();
                    return Err(ModelError::Golden { model, index, got, expected, tolerance });
                }
            }
        }
        Ok(())
    }
}

impl Pair {
    fn score(
        &self,
        index: usize,
        encoder: &Encoder,
        scorer: &mut dyn Scorer,
    ) -> Result<Vec<f32>, ModelError> {
        let failed = |e: Error| ModelError::invalid(FILE, "tokens", e.to_string());
        let inputs = Inputs::Pairs(vec![(self.query.clone(), self.document.clone())]);
        let tokenized = encoder.tokenize(&inputs, &Truncation::default()).map_err(failed)?;
        let mut packed = Packed::with_capacity(tokenized.sequences.num_tokens(), 1);
        let (input_ids, first_segment_len) = tokenized.sequences.get(0);
        packed.push(input_ids, first_segment_len);
        let mut row = vec![0.0; scorer.width()];
        scorer
            .score(&packed, &mut row)
            .map_err(|e| ModelError::invalid(FILE, format!("pair {index}"), e.to_string()))?;
        if row.len() != self.logits.len() {
            let message =
                format!("{} logits, but the model gives {}", self.logits.len(), row.len());
            return Err(ModelError::invalid(FILE, format!("pair {index}"), message));
        }
        Ok(row)
    }
}
