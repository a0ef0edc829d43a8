//! BERT: the forward pass, from token ids to label logits or to one vector a text.
//!
//! RoBERTa, DistilBERT and ELECTRA compute the same under other names; each says its own in a [`Layout`].

use super::Grain;
use super::config::{Config, Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use super::families::Architecture;
use super::head::Head;
use super::late::TokenVectors;
use super::parameters::{Bias, Meets, Parameters, Part, Shape};
use super::scorer::{Family, Limits};
use crate::engine::groups::GROUP_TOKENS;
use crate::engine::{
    AttentionKind, Backend, EmbeddingsInit, Epilogue, Pooling, Queries, query_scale,
};
use crate::error::{DeviceError, ModelError};

/// The model's parameters, prepared for a backend.
#[derive(Debug)]
pub struct Bert<B: Backend> {
    sizes: Sizes,
    embeddings: B::Embeddings,
    embeddings_norm: B::Norm,
    /// Where embeddings are narrower than layers.
    projection: Option<B::Linear>,
    layers: Vec<Layer<B>>,
    end: End<B>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    /// Query, key and value as one matrix.
    qkv: B::Linear,
    attention_output: B::Linear,
    attention_norm: B::Norm,
    intermediate: B::Linear,
    output: B::Linear,
    output_norm: B::Norm,
}

#[derive(Debug)]
enum End<B: Backend> {
    Classifier { dense: B::Linear, act: Epilogue, out: B::Linear, num_labels: usize },
    Embedding { pooling: Pooling, normalize: bool },
    Late(TokenVectors<B>),
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
    intermediate: B::Rows,
    /// One row a sequence.
    pooled: B::Rows,
    logits: B::Rows,
    vectors: Option<B::Rows>,
    scratch: B::Scratch,
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
    /// Rows of the position table before that of the first token.
    pub(super) position_offset: usize,
    /// Rows of the table of token types, if there is one.
    pub(super) num_types: Option<usize>,
    pub(super) eps: f32,
    pub(super) hidden_act: Epilogue,
}

/// What sets a family of BERT's kind apart: how it names its tensors, and its head's activation.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of every tensor but the head's. Some checkpoints go without.
    pub(super) prefix: &'static str,
    pub(super) layer: &'static str,
    pub(super) qkv: [&'static str; 3],
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
    pub(super) head_dense: &'static str,
    pub(super) head_act: Epilogue,
    pub(super) head_out: &'static str,
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
        Loader { parameters, layout: &K::LAYOUT, prefix, sizes: &sizes }.bert(head)
    }
}

/// BERT itself.
#[derive(Debug)]
pub(super) enum Original {}

pub(super) const BERT: Layout = Layout {
    prefix: "bert.",
    layer: "encoder.layer",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
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
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        Ok(Self {
            hidden_size,
            embedding_size: hidden_size,
            num_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
            num_heads: fields.heads("num_attention_heads", hidden_size)?,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_SIZE)?,
            position_offset: 0,
            num_types: Some(fields.optional_size("type_vocab_size", MAX_SIZE)?.unwrap_or(2)),
            eps: fields.eps("layer_norm_eps", 1e-12)?,
            hidden_act: fields.epilogue("hidden_act", "gelu")?,
        })
    }

    fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

// === impl Bert ===

impl<B: Backend> Bert<B> {
    fn num_labels(&self) -> Option<usize> {
        match self.end {
            End::Classifier { num_labels, .. } => Some(num_labels),
            End::Embedding { .. } | End::Late(_) => None,
        }
    }

    /// How the rows of a sequence become one, if they do.
    fn pooling(&self) -> Option<Pooling> {
        match self.end {
            End::Classifier { .. } => Some(Pooling::Cls),
            End::Embedding { pooling, .. } => Some(pooling),
            End::Late(_) => None,
        }
    }
}

impl<B: Backend> Family<B> for Bert<B> {
    type Lane = Lane<B>;

    fn width(&self) -> usize {
        match &self.end {
            End::Classifier { num_labels, .. } => *num_labels,
            End::Embedding { .. } => self.sizes.hidden_size,
            End::Late(vectors) => vectors.dim(),
        }
    }

    fn grain(&self) -> Grain {
        if self.pooling().is_some() { Grain::Sequence } else { Grain::Token }
    }

    fn limits(&self) -> Limits {
        let Sizes { hidden_size, intermediate_size, .. } = self.sizes;
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
        Ok(Lane {
            embedded: embedded.transpose()?,
            hidden: rows(hidden)?,
            qkv: rows(3 * hidden)?,
            context: rows(hidden)?,
            update: rows(hidden)?,
            intermediate: rows(self.sizes.intermediate_size)?,
            pooled: rows(hidden)?,
            logits: backend.logits(max_tokens, self.num_labels().unwrap_or(1))?,
            vectors: match &self.end {
                End::Late(vectors) => vectors.rows(backend, max_tokens)?,
                _ => None,
            },
            scratch: backend.scratch(self.sizes.max_length, self.sizes.head_dim())?,
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
            let only_cls = last && self.pooling() == Some(Pooling::Cls);
            let queries = if only_cls { Queries::First } else { Queries::All };
            let kind = AttentionKind::full(queries, self.sizes.num_heads);

            b.linear(&lane.hidden, &layer.qkv, Epilogue::Bias, &mut lane.qkv);
            b.attention(&lane.qkv, batch, &kind, &mut lane.scratch, &mut lane.context);
            if only_cls {
                b.pool(&lane.hidden, batch, Pooling::Cls, &mut lane.pooled);
                std::mem::swap(&mut lane.hidden, &mut lane.pooled);
            }
            b.linear(&lane.context, &layer.attention_output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.attention_norm);
            let act = self.sizes.hidden_act;
            b.linear(&lane.hidden, &layer.intermediate, act, &mut lane.intermediate);
            b.linear(&lane.intermediate, &layer.output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.output_norm);
        }
        if let Some(pooling @ (Pooling::Mean | Pooling::Last)) = self.pooling() {
            b.pool(&lane.hidden, batch, pooling, &mut lane.pooled);
            std::mem::swap(&mut lane.hidden, &mut lane.pooled);
        }
        match &self.end {
            End::Classifier { dense, act, out, .. } => {
                b.linear(&lane.hidden, dense, *act, &mut lane.pooled);
                b.classify(&lane.pooled, out, &mut lane.logits);
                &lane.logits
            }
            End::Embedding { normalize, .. } => {
                if *normalize {
                    b.normalize(&mut lane.hidden);
                }
                &lane.hidden
            }
            End::Late(vectors) => vectors.of(b, &mut lane.hidden, lane.vectors.as_mut()),
        }
    }
}

// === impl Loader ===

struct Loader<'a, B: Backend> {
    parameters: &'a Parameters<'a, B>,
    layout: &'a Layout,
    prefix: &'static str,
    sizes: &'a Sizes,
}

impl<B: Backend> Loader<'_, B> {
    fn bert(&self, head: &Head) -> Result<Bert<B>, ModelError> {
        let sizes = self.sizes;
        let (end, only_cls) = match head {
            Head::Classifier { labels, .. } => (self.classifier(labels.len())?, true),
            Head::Embedding { pooling, normalize } => {
                let end = End::Embedding { pooling: *pooling, normalize: *normalize };
                (end, *pooling == Pooling::Cls)
            }
            Head::Late(late) => {
                let vectors = TokenVectors::load(self.parameters, late, sizes.hidden_size)?;
                (End::Late(vectors), false)
            }
        };
        let layers = (0..sizes.num_layers).map(|i| {
            let few_rows = only_cls && i + 1 == sizes.num_layers;
            self.layer(i, if few_rows { Meets::Sequences } else { Meets::Tokens })
        });
        let projects = sizes.embedding_size != sizes.hidden_size;
        let project = || {
            let shape = Shape::new(sizes.hidden_size, sizes.embedding_size, Bias::Stored);
            let name = format!("{}embeddings_project", self.prefix);
            self.parameters.linear(&name, shape, Meets::Sequences)
        };
        let norm = format!("{}embeddings.LayerNorm", self.prefix);
        Ok(Bert {
            embeddings: self.embeddings()?,
            embeddings_norm: self.norm(&norm, sizes.embedding_size)?,
            projection: projects.then(project).transpose()?,
            layers: layers.collect::<Result<_, _>>()?,
            end,
            sizes: sizes.clone(),
        })
    }

    fn classifier(&self, num_labels: usize) -> Result<End<B>, ModelError> {
        let hidden = self.sizes.hidden_size;
        let of = |name: &str, n| {
            // The pooler is a part of the encoder, whose names may go without their prefix.
            let bare = name.strip_prefix(self.layout.prefix).filter(|_| self.prefix.is_empty());
            let shape = Shape::new(n, hidden, Bias::Stored);
            self.parameters.linear(bare.unwrap_or(name), shape, Meets::Sequences)
        };
        Ok(End::Classifier {
            dense: of(self.layout.head_dense, hidden)?,
            act: self.layout.head_act,
            out: of(self.layout.head_out, num_labels)?,
            num_labels,
        })
    }

    fn embeddings(&self) -> Result<B::Embeddings, ModelError> {
        let Sizes { embedding_size, position_offset, max_length, .. } = *self.sizes;
        let table = |name: &str, rows: usize| {
            let name = format!("{}embeddings.{name}_embeddings.weight", self.prefix);
            self.parameters.weights.tensor(&name, &[rows, embedding_size])
        };
        let mut types = match self.sizes.num_types {
            Some(num_types) => table("token_type", num_types)?,
            None => Vec::new(),
        };
        if self.sizes.num_types == Some(1) {
            types.extend_from_within(..);
        }
        let mut positions = table("position", position_offset + max_length)?;
        positions.drain(..position_offset * embedding_size);
        let words = table("word", self.sizes.vocab_size)?;
        let init = EmbeddingsInit { words, types, positions, hidden_size: embedding_size };
        self.parameters.backend.prepare_embeddings(init).map_err(ModelError::Device)
    }

    fn layer(&self, i: usize, meets: Meets) -> Result<Layer<B>, ModelError> {
        let (hidden, intermediate) = (self.sizes.hidden_size, self.sizes.intermediate_size);
        let name = |part: &str| format!("{}{}.{i}.{part}", self.prefix, self.layout.layer);
        let linear = |part: &str, n, k| {
            self.parameters.linear(&name(part), Shape::new(n, k, Bias::Stored), meets)
        };
        let norm = |part: &str| self.norm(&name(part), hidden);
        let factors = [query_scale(self.sizes.head_dim()), 1.0, 1.0];
        let qkv = self.layout.qkv.iter().zip(factors);
        let qkv = qkv.map(|(part, factor)| Part { name: name(part), n: hidden, factor });
        Ok(Layer {
            qkv: self.parameters.stacked(
                &qkv.collect::<Vec<_>>(),
                hidden,
                Bias::Stored,
                Meets::Tokens,
            )?,
            attention_output: linear(self.layout.attention_output, hidden, hidden)?,
            attention_norm: norm(self.layout.attention_norm)?,
            intermediate: linear(self.layout.intermediate, intermediate, hidden)?,
            output: linear(self.layout.output, hidden, intermediate)?,
            output_norm: norm(self.layout.output_norm)?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<B::Norm, ModelError> {
        self.parameters.layer_norm(name, width, self.sizes.eps, Bias::Stored)
    }
}
