//! BERT: the forward pass, from token ids to label logits or to one vector a text.

use super::config::Config;
use super::head::Head;
use super::scorer::{Family, Limits};
use super::weights::Weights;
use crate::engine::{
    Backend, EmbeddingsInit, Epilogue, LinearInit, NormInit, Pooling, Queries, query_scale,
};
use crate::error::{DeviceError, ModelError};

/// The model's parameters, prepared for a backend.
#[derive(Debug)]
pub struct Bert<B: Backend> {
    config: Config,
    embeddings: B::Embeddings,
    embeddings_norm: B::Norm,
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
    Classifier { pooler: B::Linear, classifier: B::Linear },
    Embedding { pooling: Pooling, normalize: bool },
}

/// Activations of one thread, reused by every layer.
#[derive(Debug)]
pub struct Lane<B: Backend> {
    hidden: B::Rows,
    qkv: B::Rows,
    context: B::Rows,
    update: B::Rows,
    intermediate: B::Rows,
    /// One row a sequence.
    pooled: B::Rows,
    logits: B::Rows,
    scratch: B::Scratch,
}

// === impl Bert ===

impl<B: Backend> Bert<B> {
    /// # Errors
    /// A tensor is missing or damaged, or its shape is not what `config` asks for.
    pub fn load(
        backend: &B,
        weights: &Weights,
        config: Config,
        head: &Head,
    ) -> Result<Self, ModelError> {
        let names = Names::of(weights);
        let only_cls = pooling_of(head) == Pooling::Cls;
        let load = Loader { backend, weights, config: &config, names, only_cls };
        let layers =
            (0..config.num_hidden_layers).map(|i| load.layer(i)).collect::<Result<_, _>>()?;
        let hidden = config.hidden_size;
        let end = match head {
            Head::Classifier { labels, .. } => End::Classifier {
                pooler: load.precise(&load.names.inner("pooler.dense"), hidden, hidden)?,
                classifier: load.precise("classifier", labels.len(), hidden)?,
            },
            Head::Embedding { pooling, normalize } => {
                End::Embedding { pooling: *pooling, normalize: *normalize }
            }
        };
        let embeddings = load.embeddings()?;
        let embeddings_norm = load.norm(&load.names.inner("embeddings.LayerNorm"))?;
        Ok(Self { config, embeddings, embeddings_norm, layers, end })
    }

    fn pooling(&self) -> Pooling {
        match self.end {
            End::Classifier { .. } => Pooling::Cls,
            End::Embedding { pooling, .. } => pooling,
        }
    }
}

impl<B: Backend> Family<B> for Bert<B> {
    type Lane = Lane<B>;

    fn width(&self) -> usize {
        match self.end {
            End::Classifier { .. } => self.config.labels.len(),
            End::Embedding { .. } => self.config.hidden_size,
        }
    }

    fn limits(&self) -> Limits {
        let Config { hidden_size, intermediate_size, .. } = self.config;
        Limits {
            max_length: self.config.max_position_embeddings,
            vocab_size: self.config.vocab_size,
            type_vocab_size: self.config.type_vocab_size,
            // A layer takes 8 H^2 + 4 H I flops a token, and 4 H for each token it attends to.
            token_cost: (2 * hidden_size + intermediate_size) as u64,
        }
    }

    fn lane(&self, backend: &B, max_tokens: usize) -> Result<Lane<B>, DeviceError> {
        let Config { hidden_size: hidden, max_position_embeddings, .. } = self.config;
        let rows = |width| backend.rows(max_tokens, width);
        Ok(Lane {
            hidden: rows(hidden)?,
            qkv: rows(3 * hidden)?,
            context: rows(hidden)?,
            update: rows(hidden)?,
            intermediate: rows(self.config.intermediate_size)?,
            pooled: rows(hidden)?,
            logits: backend.logits(max_tokens, self.config.labels.len())?,
            scratch: backend.scratch(max_position_embeddings, self.config.head_dim())?,
        })
    }

    fn forward<'a>(&self, b: &B, lane: &'a mut Lane<B>, batch: &B::Batch) -> &'a B::Rows {
        let heads = self.config.num_attention_heads;
        b.embed_norm(batch, &self.embeddings, &self.embeddings_norm, &mut lane.hidden);
        for (i, layer) in self.layers.iter().enumerate() {
            // What follows the last attention touches each row by itself, so rows that the pooling drops
            // are dropped before it.
            let last = i + 1 == self.layers.len();
            let only_cls = last && self.pooling() == Pooling::Cls;
            let queries = if only_cls { Queries::First } else { Queries::All };

            b.linear(&lane.hidden, &layer.qkv, Epilogue::Bias, &mut lane.qkv);
            b.attention(&lane.qkv, batch, queries, heads, &mut lane.scratch, &mut lane.context);
            if only_cls {
                b.pool(&lane.hidden, batch, Pooling::Cls, &mut lane.pooled);
                std::mem::swap(&mut lane.hidden, &mut lane.pooled);
            }
            b.linear(&lane.context, &layer.attention_output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.attention_norm);
            let act = self.config.hidden_act;
            b.linear(&lane.hidden, &layer.intermediate, act, &mut lane.intermediate);
            b.linear(&lane.intermediate, &layer.output, Epilogue::Bias, &mut lane.update);
            b.residual_norm(&mut lane.hidden, &lane.update, &layer.output_norm);
        }
        if self.pooling() == Pooling::Mean {
            b.pool(&lane.hidden, batch, Pooling::Mean, &mut lane.pooled);
            std::mem::swap(&mut lane.hidden, &mut lane.pooled);
        }
        match &self.end {
            End::Classifier { pooler, classifier } => {
                b.linear(&lane.hidden, pooler, Epilogue::BiasTanh, &mut lane.pooled);
                b.classify(&lane.pooled, classifier, &mut lane.logits);
                &lane.logits
            }
            End::Embedding { normalize, .. } => {
                if *normalize {
                    b.normalize(&mut lane.hidden);
                }
                &lane.hidden
            }
        }
    }
}

// === impl Loader ===

/// Checkpoints differ in a prefix and in the old names of the norms' parameters.
#[derive(Debug)]
struct Names {
    prefix: &'static str,
}

impl Names {
    fn of(weights: &Weights) -> Self {
        let prefixed = weights.contains("bert.embeddings.word_embeddings.weight");
        Self { prefix: if prefixed { "bert." } else { "" } }
    }

    fn inner(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

struct Loader<'a, B: Backend> {
    backend: &'a B,
    weights: &'a Weights,
    config: &'a Config,
    names: Names,
    /// The last layer computes one row a sequence.
    only_cls: bool,
}

fn pooling_of(head: &Head) -> Pooling {
    match head {
        Head::Classifier { .. } => Pooling::Cls,
        Head::Embedding { pooling, .. } => *pooling,
    }
}

impl<B: Backend> Loader<'_, B> {
    fn embeddings(&self) -> Result<B::Embeddings, ModelError> {
        let hidden_size = self.config.hidden_size;
        let table = |name: &str, rows: usize| {
            let name = self.names.inner(&format!("embeddings.{name}_embeddings.weight"));
            self.weights.tensor(&name, &[rows, hidden_size])
        };
        let init = EmbeddingsInit {
            words: table("word", self.config.vocab_size)?,
            types: table("token_type", self.config.type_vocab_size)?,
            positions: table("position", self.config.max_position_embeddings)?,
            hidden_size,
        };
        self.backend.prepare_embeddings(init).map_err(ModelError::Device)
    }

    fn layer(&self, i: usize) -> Result<Layer<B>, ModelError> {
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |part: &str| self.names.inner(&format!("encoder.layer.{i}.{part}"));
        let few_rows = self.only_cls && i + 1 == self.config.num_hidden_layers;
        let linear = |part: &str, n, k| match few_rows {
            true => self.precise(&name(part), n, k),
            false => self.linear(&name(part), n, k),
        };
        Ok(Layer {
            qkv: self.qkv(&name("attention.self"))?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"))?,
            intermediate: linear("intermediate.dense", intermediate, hidden)?,
            output: linear("output.dense", hidden, intermediate)?,
            output_norm: self.norm(&name("output.LayerNorm"))?,
        })
    }

    fn qkv(&self, name: &str) -> Result<B::Linear, ModelError> {
        let hidden = self.config.hidden_size;
        let scale = query_scale(self.config.head_dim());
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in ["query", "key", "value"] {
            let scale = if part == "query" { scale } else { 1.0 };
            let of_part = |kind: &str, shape: &[usize]| {
                let tensor = self.weights.tensor(&format!("{name}.{part}.{kind}"), shape);
                tensor.map(|values| values.into_iter().map(move |x| x * scale))
            };
            weight.extend(of_part("weight", &[hidden, hidden])?);
            bias.extend(of_part("bias", &[hidden])?);
        }
        let init = LinearInit { weight: &weight, bias: &bias, n: 3 * hidden, k: hidden };
        self.backend.prepare_linear(&init).map_err(ModelError::Device)
    }

    fn linear(&self, name: &str, n: usize, k: usize) -> Result<B::Linear, ModelError> {
        let (weight, bias) = self.weight_and_bias(name, n, k)?;
        let init = LinearInit { weight: &weight, bias: &bias, n, k };
        self.backend.prepare_linear(&init).map_err(ModelError::Device)
    }

    fn precise(&self, name: &str, n: usize, k: usize) -> Result<B::Linear, ModelError> {
        let (weight, bias) = self.weight_and_bias(name, n, k)?;
        let init = LinearInit { weight: &weight, bias: &bias, n, k };
        self.backend.prepare_precise(&init).map_err(ModelError::Device)
    }

    fn weight_and_bias(
        &self,
        name: &str,
        n: usize,
        k: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let weight = self.weights.tensor(&format!("{name}.weight"), &[n, k])?;
        Ok((weight, self.weights.tensor(&format!("{name}.bias"), &[n])?))
    }

    fn norm(&self, name: &str) -> Result<B::Norm, ModelError> {
        let vector = |new: &str, old: &str| {
            let old = format!("{name}.{old}");
            let tensor = if self.weights.contains(&old) { old } else { format!("{name}.{new}") };
            self.weights.tensor(&tensor, &[self.config.hidden_size])
        };
        let (gamma, beta) = (vector("weight", "gamma")?, vector("bias", "beta")?);
        let init = NormInit { gamma: &gamma, beta: &beta, eps: self.config.layer_norm_eps };
        self.backend.prepare_norm(&init).map_err(ModelError::Device)
    }
}
