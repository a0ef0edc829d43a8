//! XLM-RoBERTa as Jina's checkpoints have it (jina-colbert-v2, jina-reranker-v2): tensors by other names, queries, keys
//! and values in one, and in some models heads turned by their positions. The architecture is named as RoBERTa's or as
//! ColBERT's; the class of its configuration tells it.

use super::bert::{Kind, Layout, Positions, Qkv, Sizes};
use super::config::Fields;
use super::roberta::Roberta;
use crate::engine::{Epilogue, ROPE_HEAD_DIM};
use crate::error::ModelError;

const FILE: &str = "config.json";
/// As `auto_map` names it.
pub(super) const CONFIG_CLASS: &str = "XLMRobertaFlashConfig";

#[derive(Debug)]
pub(super) enum Jina {}

impl Kind for Jina {
    const LAYOUT: Layout = Layout {
        prefix: "roberta.",
        embeddings_norm: "emb_ln",
        layer: "encoder.layers",
        qkv: Qkv::Stacked("mixer.Wqkv"),
        attention_output: "mixer.out_proj",
        attention_norm: "norm1",
        intermediate: "mlp.fc1",
        output: "mlp.fc2",
        output_norm: "norm2",
        head_dense: "classifier.dense",
        head_act: Epilogue::BiasTanh,
        head_out: "classifier.out_proj",
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        if fields.text("position_embedding_type")? != Some("rotary") {
            return Roberta::sizes(fields);
        }
        let sizes = Sizes::read_without_positions(fields)?;
        let head_dim = sizes.head_dim();
        if !head_dim.is_multiple_of(ROPE_HEAD_DIM) {
            let message =
                format!("heads of {head_dim}; rotary ones are multiples of {ROPE_HEAD_DIM}");
            return Err(ModelError::unsupported(FILE, "num_attention_heads", message));
        }
        if fields.get("rotary_emb_scale_base").is_some() {
            let message = "scaled rotary positions are not supported";
            return Err(ModelError::unsupported(FILE, "rotary_emb_scale_base", message));
        }
        let base = fields.number("rotary_emb_base", 1.0..=1e12)?.unwrap_or(1e4);
        let frequency = |i| base.powf(-2.0 * f64::from(i) / head_dim as f64);
        let inverse_frequencies = (0..head_dim as u32 / 2).map(frequency).collect();
        Ok(Sizes { positions: Positions::Rotary { inverse_frequencies }, ..sizes })
    }
}
