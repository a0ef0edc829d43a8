//! ModernBERT: rotary positions, layers that see all keys and layers that see near ones, gated feed-forward, and a
//! norm before each part instead of after it.

use super::Grain;
use super::config::{Config, Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use super::end::{End, EndLane, Layers, Stage};
use super::families::Architecture;
use super::head::Head;
use super::parameters::{Bias, Meets, Parameters, Shape};
use super::scorer::{Family, Limits};
use crate::engine::groups::GROUP_TOKENS;
use crate::engine::{
    AttentionKind, Backend, EmbeddingsInit, Epilogue, Gate, Pooling, Queries, ROPE_HEAD_DIM,
    Window, query_scale,
};
use crate::error::{DeviceError, ModelError};

const FILE: &str = "config.json";

/// The model's parameters, prepared for a backend.
#[derive(Debug)]
pub struct ModernBert<B: Backend> {
    sizes: Sizes,
    embeddings: B::Embeddings,
    embeddings_norm: B::Norm,
    rope_global: B::Rope,
    rope_local: B::Rope,
    layers: Vec<Layer<B>>,
    final_norm: B::Norm,
    end: End<B>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    is_global: bool,
    /// The first layer has the embedding's.
    attention_norm: Option<B::Norm>,
    /// Query, key and value as one matrix.
    qkv: B::Linear,
    attention_output: B::Linear,
    mlp_norm: B::Norm,
    /// What is activated, then what it gates.
    intermediate: B::Linear,
    output: B::Linear,
}

/// Activations of one thread, reused by every layer.
#[derive(Debug)]
pub struct Lane<B: Backend> {
    /// The residual stream.
    hidden: B::Rows,
    normed: B::Rows,
    qkv: B::Rows,
    context: B::Rows,
    update: B::Rows,
    /// What is activated beside what it gates.
    both: B::Rows,
    intermediate: B::Rows,
    /// One row a sequence.
    pooled: B::Rows,
    end: EndLane<B>,
    scratch: B::Scratch,
}

#[derive(Debug, Clone)]
struct Sizes {
    hidden_size: usize,
    num_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_length: usize,
    eps: f32,
    gate: Gate,
    /// Whether a layer sees all keys, for each layer.
    is_global: Vec<bool>,
    /// How far keys lie that the other layers see.
    local_distance: usize,
    theta_global: f64,
    theta_local: f64,
    norm_bias: Bias,
    attention_bias: Bias,
    mlp_bias: Bias,
    classifier_bias: Bias,
    classifier_act: Epilogue,
    classifier_pooling: Pooling,
}

impl Sizes {
    fn read(fields: &Fields) -> Result<Self, ModelError> {
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        let num_heads = fields.heads("num_attention_heads", hidden_size)?;
        let head_dim = hidden_size / num_heads;
        if !head_dim.is_multiple_of(ROPE_HEAD_DIM) {
            let message =
                format!("heads of {head_dim}; rotary ones are multiples of {ROPE_HEAD_DIM}");
            return Err(ModelError::unsupported(FILE, "num_attention_heads", message));
        }
        let theta_global = theta(fields, "full_attention", "global_rope_theta", 160_000.0)?;
        let bias = |field: &str| fields.flag(field, false).map(Bias::if_stored);
        Ok(Self {
            hidden_size,
            num_heads,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_SIZE)?,
            eps: fields.eps("norm_eps", 1e-5)?,
            gate: fields.gate("hidden_activation", "gelu")?,
            is_global: global_layers(fields)?,
            local_distance: fields.optional_size("local_attention", MAX_SIZE)?.unwrap_or(128) / 2,
            theta_global,
            theta_local: theta(fields, "sliding_attention", "local_rope_theta", theta_global)?,
            norm_bias: bias("norm_bias")?,
            attention_bias: bias("attention_bias")?,
            mlp_bias: bias("mlp_bias")?,
            classifier_bias: bias("classifier_bias")?,
            classifier_act: fields.epilogue("classifier_activation", "gelu")?,
            classifier_pooling: match fields.text("classifier_pooling")?.unwrap_or("cls") {
                "cls" => Pooling::Cls,
                "mean" => Pooling::Mean,
                other => {
                    let message = format!("'{other}' is not supported; cls and mean are");
                    return Err(ModelError::unsupported(FILE, "classifier_pooling", message));
                }
            },
        })
    }

    fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

/// The base of the frequencies: releases of transformers from 5 on write it by kind of layer, earlier ones in a
/// field of its own.
fn theta(fields: &Fields, kind: &str, field: &str, default: f64) -> Result<f64, ModelError> {
    fields.check_is(&format!("rope_parameters.{kind}.rope_type"), "default")?;
    let range = 1.0..=1e12;
    let new = fields.number(&format!("rope_parameters.{kind}.rope_theta"), range.clone())?;
    Ok(new.or(fields.number(field, range)?).unwrap_or(default))
}

fn global_layers(fields: &Fields) -> Result<Vec<bool>, ModelError> {
    let num_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
    if let Some(kinds) = fields.layer_kinds(num_layers)? {
        return Ok(kinds);
    }
    let every = fields.optional_size("global_attn_every_n_layers", MAX_LAYERS)?.unwrap_or(3);
    Ok((0..num_layers).map(|i| i.is_multiple_of(every)).collect())
}

#[derive(Debug)]
pub(super) enum Modern {}

impl Architecture for Modern {
    type Model<B: Backend> = ModernBert<B>;

    fn check(config: &Config) -> Result<(), ModelError> {
        Sizes::read(&config.fields).map(|_| ())
    }

    fn load<B: Backend>(
        parameters: &Parameters<'_, B>,
        config: &Config,
        head: &Head,
    ) -> Result<ModernBert<B>, ModelError> {
        let sizes = Sizes::read(&config.fields)?;
        let prefixed = parameters.weights.contains("model.embeddings.tok_embeddings.weight");
        let prefix = if prefixed { "model." } else { "" };
        Loader { parameters, prefix, sizes: &sizes }.model(config, head)
    }
}

// === impl ModernBert ===

impl<B: Backend> Family<B> for ModernBert<B> {
    type Lane = Lane<B>;

    fn width(&self) -> usize {
        self.end.width()
    }

    fn grain(&self) -> Grain {
        self.end.grain()
    }

    fn limits(&self) -> Limits {
        let Sizes { hidden_size, intermediate_size, max_length, vocab_size, .. } = self.sizes;
        // A layer takes 8 H^2 + 6 H I flops a token, and 4 H for each token it attends to, of which most
        // layers have few.
        let token_cost = (2 * hidden_size + intermediate_size * 3 / 2) as u64;
        Limits {
            max_length,
            vocab_size,
            type_vocab_size: 2,
            token_cost,
            group_tokens: GROUP_TOKENS,
            is_causal: false,
        }
    }

    fn lane(&self, backend: &B, max_tokens: usize) -> Result<Lane<B>, DeviceError> {
        let Sizes { hidden_size: hidden, intermediate_size, max_length, .. } = self.sizes;
        let rows = |width| backend.rows(max_tokens, width);
        Ok(Lane {
            hidden: rows(hidden)?,
            normed: rows(hidden)?,
            qkv: rows(3 * hidden)?,
            context: rows(hidden)?,
            update: rows(hidden)?,
            both: rows(2 * intermediate_size)?,
            intermediate: rows(intermediate_size)?,
            pooled: rows(hidden)?,
            end: self.end.lane(backend, max_tokens)?,
            scratch: backend.scratch(max_length, self.sizes.head_dim())?,
        })
    }

    fn forward<'a>(&self, b: &B, lane: &'a mut Lane<B>, batch: &B::Batch) -> &'a B::Rows {
        let heads = self.sizes.num_heads;
        b.embed_norm(batch, &self.embeddings, &self.embeddings_norm, &mut lane.hidden);
        for (i, layer) in self.layers.iter().enumerate() {
            // What follows the last attention touches each row by itself, so rows that the pooling drops
            // are dropped before it.
            let only_cls = i + 1 == self.layers.len() && self.end.pooling == Some(Pooling::Cls);
            let queries = if only_cls { Queries::First } else { Queries::All };
            let (rope, window) = match layer.is_global {
                true => (&self.rope_global, Window::ALL),
                false => (&self.rope_local, Window::around(self.sizes.local_distance)),
            };
            let kind = AttentionKind { window, ..AttentionKind::full(queries, heads) };

            if let Some(norm) = &layer.attention_norm {
                b.pre_norm(&mut lane.hidden, Some(&lane.update), norm, &mut lane.normed);
                b.linear(&lane.normed, &layer.qkv, Epilogue::Bias, &mut lane.qkv);
            } else {
                b.linear(&lane.hidden, &layer.qkv, Epilogue::Bias, &mut lane.qkv);
            }
            b.rotate(&mut lane.qkv, batch, rope, &kind);
            b.attention(&lane.qkv, batch, &kind, &mut lane.scratch, &mut lane.context);
            if only_cls {
                b.pool(&lane.hidden, batch, Pooling::Cls, &mut lane.pooled);
                std::mem::swap(&mut lane.hidden, &mut lane.pooled);
            }
            b.linear(&lane.context, &layer.attention_output, Epilogue::Bias, &mut lane.update);
            b.pre_norm(&mut lane.hidden, Some(&lane.update), &layer.mlp_norm, &mut lane.normed);
            b.linear(&lane.normed, &layer.intermediate, Epilogue::Bias, &mut lane.both);
            b.gated_activation(&lane.both, self.sizes.gate, &mut lane.intermediate);
            b.linear(&lane.intermediate, &layer.output, Epilogue::Bias, &mut lane.update);
        }
        b.pre_norm(&mut lane.hidden, Some(&lane.update), &self.final_norm, &mut lane.normed);
        if let Some(pooling @ (Pooling::Mean | Pooling::Last)) = self.end.pooling {
            b.pool(&lane.normed, batch, pooling, &mut lane.pooled);
            std::mem::swap(&mut lane.normed, &mut lane.pooled);
        }
        self.end.forward(b, &mut lane.normed, &mut lane.end)
    }
}

// === impl Loader ===

struct Loader<'a, B: Backend> {
    parameters: &'a Parameters<'a, B>,
    prefix: &'static str,
    sizes: &'a Sizes,
}

impl<B: Backend> Loader<'_, B> {
    fn model(&self, config: &Config, head: &Head) -> Result<ModernBert<B>, ModelError> {
        let Sizes { max_length, theta_global, theta_local, .. } = *self.sizes;
        let head_dim = self.sizes.head_dim();
        let hidden = self.sizes.hidden_size;
        let end = End::load(self.parameters, (config, head), hidden, |num_labels| {
            self.classifier(num_labels)
        })?;
        let num_layers = self.sizes.is_global.len();
        let layers = (0..num_layers).map(|i| {
            let few_rows = end.pooling == Some(Pooling::Cls) && i + 1 == num_layers;
            self.layer(i, if few_rows { Meets::Sequences } else { Meets::Tokens })
        });
        Ok(ModernBert {
            embeddings: self.embeddings()?,
            embeddings_norm: self.norm(&self.inner("embeddings.norm"))?,
            rope_global: self.parameters.rope(theta_global, head_dim, max_length)?,
            rope_local: self.parameters.rope(theta_local, head_dim, max_length)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: self.norm(&self.inner("final_norm"))?,
            end,
            sizes: self.sizes.clone(),
        })
    }

    fn inner(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn embeddings(&self) -> Result<B::Embeddings, ModelError> {
        let Sizes { hidden_size, vocab_size, .. } = *self.sizes;
        let name = self.inner("embeddings.tok_embeddings.weight");
        let words = self.parameters.weights.table(&name, [vocab_size, hidden_size])?;
        let (types, positions) = (Vec::new(), Vec::new());
        let init = EmbeddingsInit { words, types, positions, hidden_size };
        self.parameters.backend.prepare_embeddings(init).map_err(ModelError::Device)
    }

    fn layer(&self, i: usize, meets: Meets) -> Result<Layer<B>, ModelError> {
        let Sizes { hidden_size: hidden, intermediate_size, attention_bias, mlp_bias, .. } =
            *self.sizes;
        let name = |part: &str| self.inner(&format!("layers.{i}.{part}"));
        let linear = |part: &str, n, k, bias| {
            self.parameters.linear(&name(part), Shape::new(n, k, bias), meets)
        };
        let norm = |part: &str| self.norm(&name(part));
        let qkv = Shape::new(3 * hidden, hidden, attention_bias);
        let factor = query_scale(self.sizes.head_dim());
        let qkv = self.parameters.scaled(&name("attn.Wqkv"), qkv, hidden, factor)?;
        Ok(Layer {
            is_global: self.sizes.is_global[i],
            attention_norm: (i > 0).then(|| norm("attn_norm")).transpose()?,
            qkv: self.parameters.prepare(&qkv.init(), Meets::Tokens)?,
            attention_output: linear("attn.Wo", hidden, hidden, attention_bias)?,
            mlp_norm: norm("mlp_norm")?,
            intermediate: linear("mlp.Wi", 2 * intermediate_size, hidden, mlp_bias)?,
            output: linear("mlp.Wo", hidden, intermediate_size, mlp_bias)?,
        })
    }

    fn classifier(&self, num_labels: usize) -> Result<Layers<B>, ModelError> {
        let Sizes { hidden_size: hidden, classifier_bias, classifier_act, .. } = *self.sizes;
        let linear = |name: &str, n, bias| {
            self.parameters.linear(name, Shape::new(n, hidden, bias), Meets::Sequences)
        };
        let weight = linear("head.dense", hidden, classifier_bias)?;
        let dense = Stage::Dense { weight, act: classifier_act, width: hidden };
        let norm = Stage::Norm { norm: self.norm("head.norm")?, width: hidden };
        let out = linear("classifier", num_labels, Bias::Stored)?;
        let pooling = self.sizes.classifier_pooling;
        Ok(Layers { pooling, stages: vec![dense, norm], out })
    }

    fn norm(&self, name: &str) -> Result<B::Norm, ModelError> {
        let Sizes { hidden_size, eps, norm_bias, .. } = *self.sizes;
        self.parameters.layer_norm(name, hidden_size, eps, norm_bias)
    }
}
