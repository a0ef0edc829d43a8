//! Gemma (bge-reranker-v2-gemma) and Gemma 2: decoders whose norms multiply by one more than their weight and whose
//! words are scaled up. Gemma 2 norms what each part adds too, caps scores and logits, and gives every other layer a
//! window.

use super::config::Fields;
use super::decoder::{Biases, Kind, Style};
use super::parameters::Bias;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum Gemma {}

impl Kind for Gemma {
    const STYLE: Style = Style { is_gemma: true, ..Style::PLAIN };

    fn biases(fields: &Fields) -> Result<Biases, ModelError> {
        let attention = Bias::if_stored(fields.flag("attention_bias", false)?);
        Ok(Biases { qkv: attention, attention_output: attention, mlp: Bias::None })
    }
}

#[derive(Debug)]
pub(super) enum Gemma2 {}

impl Kind for Gemma2 {
    const STYLE: Style = Style { is_gemma2: true, ..Gemma::STYLE };

    fn biases(fields: &Fields) -> Result<Biases, ModelError> {
        Gemma::biases(fields)
    }
}
