//! Decoders as rerankers: a prompt is read to its end, and the last token answers.
//!
//! Qwen3, Qwen2, Llama and Gemma compute alike: RMS norm before each part, causal attention whose heads share keys,
//! rotary positions, gated feed-forward. The answer is rows of the language model's head (yes and no), or a score layer.

use std::marker::PhantomData;

use super::config::{Config, Fields, MAX_LAYERS, MAX_SIZE, MAX_VOCAB};
use super::families::Architecture;
use super::head::Head;
use super::parameters::{Bias, Meets, Parameters, Part, Shape};
use super::prompt;
use super::scorer::{Family, Limits};
use crate::engine::table::Table;
use crate::engine::{
    AttentionKind, Backend, CausalInit, EmbeddingsInit, Epilogue, Gate, LinearInit, MAX_HEAD_DIM,
    Pooling, Queries, ROPE_HEAD_DIM, Window, query_scale,
};
use crate::error::{DeviceError, ModelError};

const FILE: &str = "config.json";
/// What these models are published for as rerankers; activations are allocated for it.
const MAX_LENGTH: usize = 8192;
/// No cache holds these models' weights, so the more rows they are read for the better; and documents of one request
/// that are computed together share its prompt and query.
const GROUP_TOKENS: usize = 2048;

/// The model's parameters, prepared for a backend.
#[derive(Debug)]
pub struct Decoder<B: Backend> {
    sizes: Sizes,
    embeddings: B::Embeddings,
    rope: B::Rope,
    layers: Vec<Layer<B>>,
    final_norm: B::Norm,
    /// One row an answer, or a label.
    out: B::Linear,
    num_labels: usize,
    /// Of a language model's logits.
    logit_softcap: Option<f32>,
}

#[derive(Debug)]
struct Layer<B: Backend> {
    attention_norm: B::Norm,
    /// Queries, keys and values as one matrix.
    qkv: B::Linear,
    /// Of each head of queries, and of keys.
    head_norms: Option<(B::Norm, B::Norm)>,
    attention_output: B::Linear,
    /// Of what attention, and the feed-forward part, add to the residual stream.
    update_norms: Option<(B::Norm, B::Norm)>,
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
    /// Of the residual stream and of the context, one row a sequence.
    last_hidden: B::Rows,
    last_context: B::Rows,
    logits: B::Rows,
    scratch: B::Scratch,
}

#[derive(Debug, Clone)]
struct Sizes {
    hidden_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_length: usize,
    eps: f32,
    gate: Gate,
    theta: f64,
    /// Scores of attention are divided by its root.
    query_scalar: usize,
    /// Scores of attention stay within it.
    softcap: Option<f32>,
    /// Logits of the language model stay within it.
    logit_softcap: Option<f32>,
    /// What each layer sees.
    windows: Vec<Window>,
    biases: Biases,
    /// Whether the language model's head is its table of words.
    is_tied: bool,
}

/// Which of a family's linear layers have a bias.
#[derive(Debug, Clone, Copy)]
pub(super) struct Biases {
    pub(super) qkv: Bias,
    pub(super) attention_output: Bias,
    pub(super) mlp: Bias,
}

/// What sets one of these families apart.
pub(super) trait Kind {
    const STYLE: Style;

    /// # Errors
    /// A field that is not true or false.
    fn biases(fields: &Fields) -> Result<Biases, ModelError>;
}

/// What no field of the configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Whether heads of queries and keys are normed.
    pub(super) head_norms: bool,
    /// Whether what a part adds to the residual stream is normed, and every other layer has a window.
    pub(super) is_gemma2: bool,
    /// Whether norms multiply by one more than their weight, and the residual stream begins with words times the root
    /// of its width.
    pub(super) is_gemma: bool,
}

impl Style {
    pub(super) const PLAIN: Self = Self { head_norms: false, is_gemma2: false, is_gemma: false };

    /// What norms add to their weight.
    fn norm_offset(self) -> f32 {
        if self.is_gemma { 1.0 } else { 0.0 }
    }
}

/// Makes an architecture of a [`Kind`].
#[derive(Debug)]
pub(super) struct Decoding<K>(PhantomData<K>);

impl<K: Kind> Architecture for Decoding<K> {
    type Model<B: Backend> = Decoder<B>;

    fn check(config: &Config) -> Result<(), ModelError> {
        Sizes::read::<K>(&config.fields).map(|_| ())
    }

    fn load<B: Backend>(
        parameters: &Parameters<'_, B>,
        config: &Config,
        head: &Head,
    ) -> Result<Decoder<B>, ModelError> {
        let sizes = Sizes::read::<K>(&config.fields)?;
        let answers = config.architecture.ends_with("ForCausalLM");
        Loader { parameters, sizes: &sizes, style: K::STYLE }.decoder(head.labels(), answers)
    }
}

impl Sizes {
    fn read<K: Kind>(fields: &Fields) -> Result<Self, ModelError> {
        let hidden_size = fields.size("hidden_size", MAX_SIZE)?;
        let num_heads = fields.size("num_attention_heads", MAX_SIZE)?;
        let num_kv_heads =
            fields.optional_size("num_key_value_heads", MAX_SIZE)?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            let message = format!("{num_kv_heads} do not divide {num_heads} heads");
            return Err(ModelError::invalid(FILE, "num_key_value_heads", message));
        }
        let head_dim = match fields.optional_size("head_dim", MAX_SIZE)? {
            Some(head_dim) => head_dim,
            None => hidden_size / fields.heads("num_attention_heads", hidden_size)?,
        };
        if !head_dim.is_multiple_of(ROPE_HEAD_DIM) || head_dim > MAX_HEAD_DIM {
            let message =
                format!("{head_dim}, not a multiple of {ROPE_HEAD_DIM} up to {MAX_HEAD_DIM}");
            return Err(ModelError::unsupported(FILE, "head_dim", message));
        }
        for field in ["rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"] {
            fields.check_is(field, "default")?;
        }
        if fields.flag("use_sliding_window", false)? {
            let message = "windows are not supported in this family";
            return Err(ModelError::unsupported(FILE, "use_sliding_window", message));
        }
        let theta = |field| fields.number(field, 1.0..=1e12);
        let num_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
        let mut sizes = Self {
            hidden_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size: fields.size("intermediate_size", MAX_SIZE)?,
            vocab_size: fields.size("vocab_size", MAX_VOCAB)?,
            max_length: fields.size("max_position_embeddings", MAX_VOCAB)?.min(MAX_LENGTH),
            eps: fields.eps("rms_norm_eps", 1e-6)?,
            gate: gate(fields, K::STYLE)?,
            query_scalar: head_dim,
            softcap: None,
            logit_softcap: None,
            windows: vec![Window::CAUSAL; num_layers],
            theta: theta("rope_parameters.rope_theta")?.or(theta("rope_theta")?).unwrap_or(1e4),
            biases: K::biases(fields)?,
            is_tied: fields.flag("tie_word_embeddings", K::STYLE.is_gemma)?,
        };
        if K::STYLE.is_gemma2 {
            // A null is no cap, and a field that is missing the format's own default.
            let cap = |field, default| {
                let default = (!fields.has(field)).then_some(default);
                let cap = fields.number(field, 1.0..=1e6)?.map(|cap| cap as f32);
                Ok::<_, ModelError>(cap.or(default))
            };
            sizes.query_scalar =
                fields.optional_size("query_pre_attn_scalar", MAX_SIZE)?.unwrap_or(256);
            sizes.softcap = cap("attn_logit_softcapping", 50.0)?;
            sizes.logit_softcap = cap("final_logit_softcapping", 30.0)?;
            sizes.windows = windows(fields, num_layers)?;
        }
        Ok(sizes)
    }

    fn kind(&self, layer: usize) -> AttentionKind {
        AttentionKind {
            queries: Queries::All,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            window: self.windows[layer],
            softcap: self.softcap.map(|cap| cap * std::f32::consts::LOG2_E),
        }
    }
}

fn gate(fields: &Fields, style: Style) -> Result<Gate, ModelError> {
    if style.is_gemma2 {
        return fields.gate("hidden_activation", "gelu_pytorch_tanh");
    }
    let gate = fields.gate("hidden_act", if style.is_gemma { "gelu" } else { "silu" })?;
    // The first checkpoints of Gemma say gelu, and mean the tanh form.
    Ok(if style.is_gemma && gate == Gate::Gelu { Gate::GeluTanh } else { gate })
}

/// Every other layer, from the first on, sees no farther than `sliding_window`.
fn windows(fields: &Fields, num_layers: usize) -> Result<Vec<Window>, ModelError> {
    let size = fields.optional_size("sliding_window", MAX_VOCAB)?.unwrap_or(4096);
    let sliding = Window { left: size - 1, right: 0 };
    let kinds = fields.layer_kinds(num_layers)?;
    let is_global = |i: usize| kinds.as_ref().map_or(!i.is_multiple_of(2), |kinds| kinds[i]);
    Ok((0..num_layers).map(|i| if is_global(i) { Window::CAUSAL } else { sliding }).collect())
}

// === impl Decoder ===

impl<B: Backend> Family<B> for Decoder<B> {
    type Lane = Lane<B>;

    fn width(&self) -> usize {
        self.num_labels
    }

    fn limits(&self) -> Limits {
        let Sizes { intermediate_size, num_heads, head_dim, max_length, vocab_size, .. } =
            self.sizes;
        // A layer takes 6 H I flops a token beside its projections, and 4 heads for each token before it.
        let token_cost = (2 * num_heads * head_dim + intermediate_size * 3 / 2) as u64;
        Limits {
            max_length,
            vocab_size,
            type_vocab_size: 2,
            token_cost,
            group_tokens: GROUP_TOKENS,
            is_causal: true,
        }
    }

    fn lane(&self, backend: &B, max_tokens: usize) -> Result<Lane<B>, DeviceError> {
        let Sizes { hidden_size: hidden, intermediate_size, head_dim, max_length, .. } = self.sizes;
        let heads = self.sizes.num_heads * head_dim;
        let rows = |width| backend.rows(max_tokens, width);
        let kind = self.sizes.kind(0);
        let init = CausalInit { kind, head_dim, max_tokens, max_length };
        Ok(Lane {
            hidden: rows(hidden)?,
            normed: rows(hidden)?,
            qkv: rows(kind.num_row_heads() * head_dim)?,
            context: rows(heads)?,
            update: rows(hidden)?,
            both: rows(2 * intermediate_size)?,
            intermediate: rows(intermediate_size)?,
            last_hidden: rows(hidden)?,
            last_context: rows(heads)?,
            logits: backend.logits(max_tokens, self.num_labels)?,
            scratch: backend.causal_scratch(&init)?,
        })
    }

    fn forward<'a>(&self, b: &B, lane: &'a mut Lane<B>, batch: &B::Batch) -> &'a B::Rows {
        b.embed(batch, &self.embeddings, &mut lane.hidden);
        for (i, layer) in self.layers.iter().enumerate() {
            let kind = self.sizes.kind(i);
            let update = (i > 0).then_some(&lane.update);
            b.pre_norm(&mut lane.hidden, update, &layer.attention_norm, &mut lane.normed);
            b.linear(&lane.normed, &layer.qkv, Epilogue::Bias, &mut lane.qkv);
            if let Some((queries, keys)) = &layer.head_norms {
                b.head_norm(&mut lane.qkv, queries, keys, &kind);
            }
            b.rotate(&mut lane.qkv, batch, &self.rope, &kind);
            b.attention(&lane.qkv, batch, &kind, &mut lane.scratch, &mut lane.context);
            if i + 1 == self.layers.len() {
                // What follows touches each row by itself, and the last of a sequence alone is asked for.
                b.pool(&lane.context, batch, Pooling::Last, &mut lane.last_context);
                std::mem::swap(&mut lane.context, &mut lane.last_context);
                b.pool(&lane.hidden, batch, Pooling::Last, &mut lane.last_hidden);
                std::mem::swap(&mut lane.hidden, &mut lane.last_hidden);
            }
            b.linear(&lane.context, &layer.attention_output, Epilogue::Bias, &mut lane.update);
            if let Some((norm, _)) = &layer.update_norms {
                b.norm(&lane.update, norm, &mut lane.normed);
                std::mem::swap(&mut lane.update, &mut lane.normed);
            }
            b.pre_norm(&mut lane.hidden, Some(&lane.update), &layer.mlp_norm, &mut lane.normed);
            b.linear(&lane.normed, &layer.intermediate, Epilogue::Bias, &mut lane.both);
            b.gated_activation(&lane.both, self.sizes.gate, &mut lane.intermediate);
            b.linear(&lane.intermediate, &layer.output, Epilogue::Bias, &mut lane.update);
            if let Some((_, norm)) = &layer.update_norms {
                b.norm(&lane.update, norm, &mut lane.normed);
                std::mem::swap(&mut lane.update, &mut lane.normed);
            }
        }
        b.pre_norm(&mut lane.hidden, Some(&lane.update), &self.final_norm, &mut lane.normed);
        b.classify(&lane.normed, &self.out, &mut lane.logits);
        &lane.logits
    }

    fn finish(&self, results: &mut [f32]) {
        if let Some(cap) = self.logit_softcap {
            results.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }
}

// === impl Loader ===

struct Loader<'a, B: Backend> {
    parameters: &'a Parameters<'a, B>,
    sizes: &'a Sizes,
    style: Style,
}

impl<B: Backend> Loader<'_, B> {
    fn decoder(&self, labels: &[String], answers: bool) -> Result<Decoder<B>, ModelError> {
        let Sizes { hidden_size, theta, head_dim, max_length, .. } = *self.sizes;
        let words = self.words("model.embed_tokens.weight")?;
        let out = if answers {
            self.answers(labels, &words)?
        } else {
            let shape = Shape::new(labels.len(), hidden_size, Bias::None);
            self.parameters.linear("score", shape, Meets::Sequences)?
        };
        let factor = if self.style.is_gemma { (hidden_size as f32).sqrt() } else { 1.0 };
        let words = words.scaled(factor);
        let (types, positions) = (Vec::new(), Vec::new());
        let init = EmbeddingsInit { words, types, positions, hidden_size };
        let embeddings = self.parameters.backend.prepare_embeddings(init);
        let num_layers = self.sizes.num_layers;
        let layers = (0..num_layers).map(|i| {
            self.layer(i, if i + 1 == num_layers { Meets::Sequences } else { Meets::Tokens })
        });
        Ok(Decoder {
            embeddings: embeddings.map_err(ModelError::Device)?,
            rope: self.parameters.rope(theta, head_dim, max_length)?,
            layers: layers.collect::<Result<_, _>>()?,
            final_norm: self.norm("model.norm", hidden_size, 1.0)?,
            logit_softcap: self.sizes.logit_softcap.filter(|_| answers),
            out,
            num_labels: labels.len(),
            sizes: self.sizes.clone(),
        })
    }

    fn words(&self, name: &str) -> Result<Table, ModelError> {
        self.parameters.weights.table(name, [self.sizes.vocab_size, self.sizes.hidden_size])
    }

    /// The rows of the language model's head that answer, and no other.
    fn answers(&self, tokens: &[String], words: &Table) -> Result<B::Linear, ModelError> {
        let Sizes { hidden_size, vocab_size, is_tied, .. } = *self.sizes;
        let head;
        let rows = if is_tied {
            words
        } else {
            head = self.words("lm_head.weight")?;
            &head
        };
        let mut weight = vec![0.0; tokens.len() * hidden_size];
        for (token, row) in tokens.iter().zip(weight.chunks_exact_mut(hidden_size)) {
            let id = prompt::token_id(self.parameters.files, token)?;
            if id >= vocab_size {
                let message = format!("{vocab_size}, but the answer '{token}' is token {id}");
                return Err(ModelError::invalid(FILE, "vocab_size", message));
            }
            rows.read(id, row);
        }
        let (n, bias) = (tokens.len(), vec![0.0; tokens.len()]);
        let init = LinearInit { weight: &weight, bias: &bias, n, k: hidden_size };
        self.parameters.prepare(&init, Meets::Sequences)
    }

    fn layer(&self, i: usize, meets: Meets) -> Result<Layer<B>, ModelError> {
        let Sizes { hidden_size: hidden, intermediate_size, head_dim, biases, .. } = *self.sizes;
        let (heads, kv_heads) =
            (self.sizes.num_heads * head_dim, self.sizes.num_kv_heads * head_dim);
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let part = |part: &str, n, factor| Part { name: name(part), n, factor };
        // A norm would take a factor out again, so there it is a part of the norm.
        let scale = query_scale(self.sizes.query_scalar);
        let factor = if self.style.head_norms { 1.0 } else { scale };
        let qkv = [
            part("self_attn.q_proj", heads, factor),
            part("self_attn.k_proj", kv_heads, 1.0),
            part("self_attn.v_proj", kv_heads, 1.0),
        ];
        let gate_and_up = [
            part("mlp.gate_proj", intermediate_size, 1.0),
            part("mlp.up_proj", intermediate_size, 1.0),
        ];
        let stacked = |parts: &[Part], bias, meets| {
            let matrix = self.parameters.stacked(parts, hidden, bias)?;
            self.parameters.prepare(&matrix.init(), meets)
        };
        let head_norms = || {
            let queries = self.norm(&name("self_attn.q_norm"), head_dim, scale)?;
            Ok::<_, ModelError>((queries, self.norm(&name("self_attn.k_norm"), head_dim, 1.0)?))
        };
        let linear = |part: &str, n, k, bias| {
            self.parameters.linear(&name(part), Shape::new(n, k, bias), meets)
        };
        let norm = |part: &str| self.norm(&name(part), hidden, 1.0);
        // The same name means the norm before the feed-forward part, and the one after attention.
        let (after, before) = ("post_attention_layernorm", "pre_feedforward_layernorm");
        let mlp_norm = if self.style.is_gemma2 { before } else { after };
        let update_norms =
            || Ok::<_, ModelError>((norm(after)?, norm("post_feedforward_layernorm")?));
        Ok(Layer {
            attention_norm: norm("input_layernorm")?,
            qkv: stacked(&qkv, biases.qkv, Meets::Tokens)?,
            head_norms: self.style.head_norms.then(head_norms).transpose()?,
            attention_output: linear("self_attn.o_proj", hidden, heads, biases.attention_output)?,
            update_norms: self.style.is_gemma2.then(update_norms).transpose()?,
            mlp_norm: norm(mlp_norm)?,
            intermediate: stacked(&gate_and_up, biases.mlp, meets)?,
            output: linear("mlp.down_proj", hidden, intermediate_size, biases.mlp)?,
        })
    }

    fn norm(&self, name: &str, width: usize, factor: f32) -> Result<B::Norm, ModelError> {
        let scale = (self.style.norm_offset(), factor);
        self.parameters.rms_norm(name, width, self.sizes.eps, scale)
    }
}
