//! DistilBERT: BERT without token types, under names of its own.

use super::bert::{BERT, FeedForward, Kind, Layout, Positions, Qkv, Sizes};
use super::config::{Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use crate::engine::Epilogue;
use crate::error::ModelError;

#[derive(Debug)]
pub(super) enum DistilBert {}

impl Kind for DistilBert {
    const LAYOUT: Layout = Layout {
        prefix: "distilbert.",
        layer: "transformer.layer",
        qkv: Qkv::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        intermediate: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
        head_dense: "pre_classifier",
        head_act: Epilogue::BiasRelu,
        head_out: "classifier",
        ..BERT
    };

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        let hidden_size = fields.size("dim", MAX_SIZE)?;
        Ok(Sizes {
            hidden_size,
            embedding_size: hidden_size,
            num_layers: fields.size("n_layers", MAX_LAYERS)?,
            num_heads: fields.heads("n_heads", hidden_size)?,
            intermediate_size: fields.size("hidden_dim", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_SIZE)?,
            positions: Positions::Table { offset: 0 },
            num_types: None,
            // The family's code has it as a constant.
            eps: 1e-12,
            activation: FeedForward::Plain(fields.epilogue("activation", "gelu")?),
        })
    }
}
