//! GTE's encoders (gte-multilingual-reranker-base), which their files call `new`: BERT with rotary positions and a gated
//! feed-forward part. Written from the model code that its authors publish with the checkpoints.

use super::bert::{BERT, FeedForward, Kind, Layout, Positions, Qkv, Sizes};
use super::config::{Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use crate::engine::{Epilogue, ROPE_HEAD_DIM};
use crate::error::ModelError;

const FILE: &str = "config.json";

#[derive(Debug)]
pub(super) enum Gte {}

impl Kind for Gte {
    const LAYOUT: Layout = Layout {
        prefix: "new.",
        qkv: Qkv::Stacked("attention.qkv_proj"),
        attention_output: "attention.o_proj",
        attention_norm: "attn_ln",
        intermediate: "mlp.up_gate_proj",
        output: "mlp.down_proj",
        output_norm: "mlp_ln",
        head_dense: "new.pooler.dense",
        head_act: Epilogue::BiasTanh,
        ..BERT
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        fields.check_is("position_embedding_type", "rope")?;
        fields.check_is("layer_norm_type", "layer_norm")?;
        for (field, only) in [("pack_qkv", true), ("logn_attention_scale", false)] {
            if fields.flag(field, only)? != only {
                let message = format!("only {only} is supported");
                return Err(ModelError::unsupported(FILE, field, message));
            }
        }
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        let num_heads = fields.heads("num_attention_heads", hidden_size)?;
        let head_dim = hidden_size / num_heads;
        if !head_dim.is_multiple_of(ROPE_HEAD_DIM) {
            let message =
                format!("heads of {head_dim}; rotary ones are multiples of {ROPE_HEAD_DIM}");
            return Err(ModelError::unsupported(FILE, "num_attention_heads", message));
        }
        let inverse_frequencies = inverse_frequencies(fields, head_dim)?;
        Ok(Sizes {
            hidden_size,
            embedding_size: hidden_size,
            num_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_heads,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_SIZE)?,
            positions: Positions::Rotary { inverse_frequencies },
            num_types: fields.count("type_vocab_size", MAX_SIZE)?,
            eps: fields.eps("layer_norm_eps", 1e-12)?,
            activation: FeedForward::Gated(fields.gate("hidden_act", "gelu")?),
        })
    }
}

/// Plain ones, or stretched as the family's `ntk` does: at every length, not only beyond the trained one.
fn inverse_frequencies(fields: &Fields, head_dim: usize) -> Result<Vec<f64>, ModelError> {
    let mut theta = fields.number("rope_theta", 1.0..=1e12)?.unwrap_or(1e4);
    let mut stretch = 1.0;
    if fields.get("rope_scaling").is_some() {
        fields.check_is("rope_scaling.type", "ntk")?;
        if fields.get("rope_scaling.mixed_b").is_some() {
            let message = "mixed scaling is not supported";
            return Err(ModelError::unsupported(FILE, "rope_scaling.mixed_b", message));
        }
        let factor = fields.number("rope_scaling.factor", 1.0..=1e6)?.unwrap_or(1.0);
        if factor > 1.0 {
            theta *= factor;
            stretch = factor.powf(2.0 / head_dim as f64);
        }
    }
    let frequency = |i| theta.powf(-2.0 * f64::from(i) / head_dim as f64) / stretch;
    Ok((0..head_dim as u32 / 2).map(frequency).collect())
}
