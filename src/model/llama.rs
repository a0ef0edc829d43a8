//! Llama: the plain decoder.

use super::config::Fields;
use super::decoder::{Biases, Kind, Style};
use super::parameters::Bias;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum Llama {}

impl Kind for Llama {
    const STYLE: Style = Style::PLAIN;

    fn biases(fields: &Fields) -> Result<Biases, ModelError> {
        let attention = Bias::if_stored(fields.flag("attention_bias", false)?);
        let mlp = Bias::if_stored(fields.flag("mlp_bias", false)?);
        Ok(Biases { qkv: attention, attention_output: attention, mlp })
    }
}
