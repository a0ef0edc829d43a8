//! Qwen3 (Qwen3-Reranker): a decoder that norms its heads of queries and keys.

use super::config::Fields;
use super::decoder::{Biases, Kind, Style};
use super::parameters::Bias;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum Qwen3 {}

impl Kind for Qwen3 {
    const STYLE: Style = Style { head_norms: true, ..Style::PLAIN };

    fn biases(fields: &Fields) -> Result<Biases, ModelError> {
        let attention = Bias::if_stored(fields.flag("attention_bias", false)?);
        Ok(Biases { qkv: attention, attention_output: attention, mlp: Bias::None })
    }
}
