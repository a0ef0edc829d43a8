//! BERT: the forward pass, from token ids to label logits or to one vector a text.
//!
//! RoBERTa, DistilBERT and ELECTRA compute the same under other names; GTE turns its heads by their positions and gates
//! its feed-forward part, and DeBERTa scores distances. Each says its own in a [`Layout`] and in its [`Sizes`].

mod load;

use super::Grain;
use super::config::{Config, Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use super::deberta::Distances;
use super::end::{End, EndLane};
use super::families::Architecture;
use super::head::Head;
use super::parameters::Parameters;
use super::scorer::{Family, Limits};
use crate::engine::groups::GROUP_TOKENS;
use crate::engine::{AttentionKind, Backend, Epilogue, Gate, Pooling, Queries};
use load::Loader;

use crate::error::{DeviceError, ModelError};

/// The model's parameters, prepared for a backend.
#[derive(Debug)]
pub struct Bert<B: Backend> {
    sizes: Sizes,
    embeddings: B::Embeddings,
    embeddings_norm: B::Norm,
    /// Where embeddings are narrower than layers.
    projection: Option<B::Linear>,
    rope: Option<B::Rope>,
    layers: Vec<Layer<B>>,
    end: End<B>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    attention: Attention<B>,
    attention_output: B::Linear,
    attention_norm: B::Norm,
    /// Of a gated one what is activated, then what it gates.
    intermediate: B::Linear,
    output: B::Linear,
    output_norm: B::Norm,
}

#[derive(Debug)]
enum Attention<B: Backend> {
    Rows {
        /// Query, key and value as one matrix.
        qkv: B::Linear,
        /// What distances between tokens add to scores.
        relative: Option<B::Relative>,
    },
    /// Of a last layer that only the first token's row is wanted of.
    First(B::First),
}

/// Activations of one thread, reused by every layer.
#[derive(Debug)]
pub struct Lane<B: Backend> {
    /// Before the projection, if there is one.
    embedded: Option<B::Rows>,
    hidden: B::Rows,
    qkv: B::Rows,
    context: B::Rows,
    update: B::Rows,
    /// What is activated beside what it gates, if something is gated.
    both: Option<B::Rows>,
    intermediate: B::Rows,
    /// One row a sequence.
    pooled: B::Rows,
    end: EndLane<B>,
    scratch: B::Scratch,
    first_scratch: Option<B::Scratch>,
}

/// The sizes of a model of BERT's kind.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    pub(super) hidden_size: usize,
    pub(super) embedding_size: usize,
    pub(super) num_layers: usize,
    pub(super) num_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) vocab_size: usize,
    /// The longest sequence.
    pub(super) max_length: usize,
    pub(super) positions: Positions,
    /// Rows of the table of token types, if there is one.
    pub(super) num_types: Option<usize>,
    pub(super) eps: f32,
    pub(super) activation: FeedForward,
}

/// How a model knows where its tokens stand.
#[derive(Debug, Clone)]
pub(super) enum Positions {
    /// By vectors added to those of words. So many rows of the table come before that of the first token.
    Table { offset: usize },
    /// By turning heads of queries and keys.
    Rotary { inverse_frequencies: Vec<f64> },
    /// By what distances add to scores.
    Relative(Distances),
}

/// What lies between the two layers of a feed-forward part.
#[derive(Debug, Clone, Copy)]
pub(super) enum FeedForward {
    Plain(Epilogue),
    Gated(Gate),
}

/// What sets a family of BERT's kind apart: how it names its tensors, and its head's activation.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of every tensor but the head's. Some checkpoints go without.
    pub(super) prefix: &'static str,
    pub(super) embeddings_norm: &'static str,
    pub(super) layer: &'static str,
    pub(super) qkv: Qkv,
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
    pub(super) head_dense: &'static str,
    pub(super) head_act: Epilogue,
    pub(super) head_out: &'static str,
}

/// How queries, keys and values are stored.
#[derive(Debug)]
pub(super) enum Qkv {
    Apart([&'static str; 3]),
    Stacked(&'static str),
}

/// A family of BERT's kind.
pub(super) trait Kind {
    const LAYOUT: Layout;

    /// # Errors
    /// What is wrong with which field.
    fn sizes(fields: &Fields) -> Result<Sizes, ModelError>;
}

impl<K: Kind> Architecture for K {
    type Model<B: Backend> = Bert<B>;

    fn check(config: &Config) -> Result<(), ModelError> {
        K::sizes(&config.fields).map(|_| ())
    }

    fn load<B: Backend>(
        parameters: &Parameters<'_, B>,
        config: &Config,
        head: &Head,
    ) -> Result<Bert<B>, ModelError> {
        let sizes = K::sizes(&config.fields)?;
        let probe = format!("{}embeddings.word_embeddings.weight", K::LAYOUT.prefix);
        let prefix = if parameters.weights.contains(&probe) { K::LAYOUT.prefix } else { "" };
        Loader { parameters, layout: &K::LAYOUT, prefix, sizes: &sizes }.bert(config, head)
    }
}

/// BERT itself.
#[derive(Debug)]
pub(super) enum Original {}

pub(super) const BERT: Layout = Layout {
    prefix: "bert.",
    embeddings_norm: "embeddings.LayerNorm",
    layer: "encoder.layer",
    qkv: Qkv::Apart(["attention.self.query", "attention.self.key", "attention.self.value"]),
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    head_dense: "bert.pooler.dense",
    head_act: Epilogue::BiasTanh,
    head_out: "classifier",
};

impl Kind for Original {
    const LAYOUT: Layout = BERT;

    fn sizes(fields: &Fields) -> Result<Sizes, ModelError> {
        Sizes::read(fields)
    }
}

impl Sizes {
    /// From the fields as BERT names them.
    pub(super) fn read(fields: &Fields) -> Result<Self, ModelError> {
        fields.check_is("position_embedding_type", "absolute")?;
        Self::read_without_positions(fields)
    }

    /// The same, whatever they say of positions.
    pub(super) fn read_without_positions(fields: &Fields) -> Result<Self, ModelError> {
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        Ok(Self {
            hidden_size,
            embedding_size: hidden_size,
            num_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_heads: fields.heads("num_attention_heads", hidden_size)?,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_SIZE)?,
            positions: Positions::Table { offset: 0 },
            num_types: Some(fields.optional_size("type_vocab_size", MAX_SIZE)?.unwrap_or(2)),
            eps: fields.eps("layer_norm_eps", 1e-12)?,
            activation: FeedForward::Plain(fields.epilogue("hidden_act", "gelu")?),
        })
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

// === impl Bert ===

impl<B: Backend> Family<B> for Bert<B> {
    type Lane = Lane<B>;

    fn width(&self) -> usize {
        self.end.width()
    }

    fn grain(&self) -> Grain {
        self.end.grain()
    }

    fn limits(&self) -> Limits {
        let Sizes { hidden_size, intermediate_size, activation, .. } = self.sizes;
        let intermediate_size = match activation {
            FeedForward::Plain(_) => intermediate_size,
            FeedForward::Gated(_) => intermediate_size * 3 / 2,
        };
        Limits {
            max_length: self.sizes.max_length,
            vocab_size: self.sizes.vocab_size,
            // A table of one row means that all types are one: tokenizers give two all the same.
            type_vocab_size: self.sizes.num_types.unwrap_or(2).max(2),
            // A layer takes 8 H^2 + 4 H I flops a token, and 4 H for each token it attends to.
            token_cost: (2 * hidden_size + intermediate_size) as u64,
            group_tokens: GROUP_TOKENS,
            is_causal: false,
        }
    }

    fn lane(&self, backend: &B, max_tokens: usize) -> Result<Lane<B>, DeviceError> {
        let hidden = self.sizes.hidden_size;
        let rows = |width| backend.rows(max_tokens, width);
        let embedded = self.projection.as_ref().map(|_| rows(self.sizes.embedding_size));
        let both = match self.sizes.activation {
            FeedForward::Plain(_) => None,
            FeedForward::Gated(_) => Some(rows(2 * self.sizes.intermediate_size)?),
        };
        let max_length = self.sizes.max_length;
        let scratch = match self.layers.first().map(|layer| &layer.attention) {
            Some(Attention::Rows { relative: Some(relative), .. }) => {
                backend.relative_scratch(max_length, relative)?
            }
            _ => backend.scratch(max_length, self.sizes.head_dim())?,
        };
        let first_scratch = match self.layers.last().map(|layer| &layer.attention) {
            Some(Attention::First(first)) => Some(backend.first_scratch(max_length, first)?),
            _ => None,
        };
        Ok(Lane {
            embedded: embedded.transpose()?,
            hidden: rows(hidden)?,
            qkv: rows(3 * hidden)?,
            context: rows(hidden)?,
            update: rows(hidden)?,
            both,
            intermediate: rows(self.sizes.intermediate_size)?,
            pooled: rows(hidden)?,
            end: self.end.lane(backend, max_tokens)?,
            scratch,
            first_scratch,
        })
    }

    fn forward<'a>(&self, b: &B, lane: &'a mut Lane<B>, batch: &B::Batch) -> &'a B::Rows {
        let embedded = lane.embedded.as_mut().unwrap_or(&mut lane.hidden);
        b.embed_norm(batch, &self.embeddings, &self.embeddings_norm, embedded);
        if let (Some(projection), Some(embedded)) = (&self.projection, &lane.embedded) {
            b.project(embedded, projection, &mut lane.hidden);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            // What follows the last attention touches each row by itself, so rows that the pooling drops
            // are dropped before it.
            let last = i + 1 == self.layers.len();
            let only_cls = last && self.end.pooling == Some(Pooling::Cls);
            let queries = if only_cls { Queries::First } else { Queries::All };
            let kind = AttentionKind::full(queries, self.sizes.num_heads);

            self.attend(b, lane, batch, &layer.attention, &kind);
            if only_cls {
                b.pool(&lane.hidden, batch, Pooling::Cls, &mut lane.pooled);
                std::mem::swap(&mut lane.hidden, &mut lane.pooled);
            }
            b.linear(&lane.context, &layer.attention_output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.attention_norm);
            match (self.sizes.activation, &mut lane.both) {
                (FeedForward::Gated(gate), Some(both)) => {
                    b.linear(&lane.hidden, &layer.intermediate, Epilogue::Bias, both);
                    b.gated_activation(both, gate, &mut lane.intermediate);
                }
                (FeedForward::Plain(act), _) => {
                    b.linear(&lane.hidden, &layer.intermediate, act, &mut lane.intermediate);
                }
                (FeedForward::Gated(_), None) => unreachable!("`lane` made rows for both"),
            }
            b.linear(&lane.intermediate, &layer.output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.output_norm);
        }
        if let Some(pooling @ (Pooling::Mean | Pooling::Last)) = self.end.pooling {
            b.pool(&lane.hidden, batch, pooling, &mut lane.pooled);
            std::mem::swap(&mut lane.hidden, &mut lane.pooled);
        }
        self.end.forward(b, &mut lane.hidden, &mut lane.end)
    }
}

impl<B: Backend> Bert<B> {
    /// Fills `lane.context`.
    fn attend(
        &self,
        b: &B,
        lane: &mut Lane<B>,
        batch: &B::Batch,
        attention: &Attention<B>,
        kind: &AttentionKind,
    ) {
        let (scratch, context) = (&mut lane.scratch, &mut lane.context);
        match (attention, &mut lane.first_scratch) {
            (Attention::Rows { qkv, relative }, _) => {
                b.linear(&lane.hidden, qkv, Epilogue::Bias, &mut lane.qkv);
                if let Some(rope) = &self.rope {
                    b.rotate(&mut lane.qkv, batch, rope, kind);
                }
                match relative {
                    None => b.attention(&lane.qkv, batch, kind, scratch, context),
                    Some(relative) => {
                        b.relative_attention(&lane.qkv, batch, kind, relative, scratch, context);
                    }
                }
            }
            (Attention::First(first), Some(scratch)) => {
                b.first_attention(&lane.hidden, batch, first, scratch, context);
            }
            (Attention::First(_), None) => unreachable!("`lane` made a workspace"),
        }
    }
}
