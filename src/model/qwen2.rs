//! Qwen2 and Qwen2.5 (mxbai-rerank-v2): a decoder whose queries, keys and values have a bias.

use super::config::Fields;
use super::decoder::{Biases, Kind, Style};
use super::parameters::Bias;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum Qwen2 {}

impl Kind for Qwen2 {
    const STYLE: Style = Style::PLAIN;

    fn biases(_fields: &Fields) -> Result<Biases, ModelError> {
        Ok(Biases { qkv: Bias::Stored, attention_output: Bias::None, mlp: Bias::None })
    }
}
