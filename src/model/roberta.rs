//! RoBERTa and its kin, XLM-RoBERTa and CamemBERT: BERT with positions that begin after the padding's.

use super::bert::{BERT, Kind, Layout, Positions, Sizes};
use super::config::{Fields, MAX_VOCAB};
use crate::engine::Epilogue;
use crate::error::ModelError;
use serde_json::Value;

#[derive(Debug)]
pub(super) enum Roberta {}

impl Kind for Roberta {
    const LAYOUT: Layout = Layout {
        prefix: "roberta.",
        head_dense: "classifier.dense",
        head_act: Epilogue::BiasTanh,
        head_out: "classifier.out_proj",
        ..BERT
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        let sizes = Sizes::read(fields)?;
        let padding = match fields.get("pad_token_id").map(Value::as_u64) {
            // All checkpoints of this family have 1.
            None => 1,
            Some(Some(id)) if id < MAX_VOCAB as u64 => id as usize,
            Some(_) => {
                let message = "is no token id";
                return Err(ModelError::invalid("config.json", "pad_token_id", message));
            }
        };
        let offset = padding + 1;
        let max_length = sizes.max_length.saturating_sub(offset);
        if max_length == 0 {
            let message = format!("{} leave none after the padding's", sizes.max_length);
            return Err(ModelError::invalid("config.json", "max_position_embeddings", message));
        }
        Ok(Sizes { max_length, positions: Positions::Table { offset }, ..sizes })
    }
}
