//! The engine: packed token rows in, one row of floats per sequence out.
//!
//! [`Backend`] is the list of fused operations a transformer encoder needs. A model family is written once over
//! it and monomorphised; a device is one folder that implements it.

pub mod cpu;
pub mod cuda;
pub mod groups;
pub mod packed;
pub mod pool;
pub mod selfcheck;
pub mod table;

use std::fmt::Debug;

use crate::error::DeviceError;
use crate::matrix_format::Format;
use table::Table;

/// What the large products of a model are computed in. Sums, norms and softmax are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    /// Of a GPU: activations too are f16 between operations.
    F16,
    /// bf16 by bf16, summed in f32.
    Bf16,
    /// Bytes by bytes, summed exactly: weights coded by output, activations by token.
    Int8,
}

impl Dtype {
    /// As the settings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16, Self::Int8]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }
}

/// What a linear layer does with each element after the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    Bias,
    /// `x * (1 + erf(x / sqrt(2))) / 2`, within 1e-6.
    BiasGelu,
    /// The tanh form of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    BiasGeluTanh,
    BiasRelu,
    BiasTanh,
}

/// What a gated feed-forward layer does with the half of its columns that gates the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// As [`Epilogue::BiasGelu`].
    Gelu,
    /// As [`Epilogue::BiasGeluTanh`].
    GeluTanh,
    /// `x / (1 + e^-x)`
    Silu,
    Relu,
}

/// Which tokens of a sequence ask in an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Every token: the output has the rows of the input.
    All,
    /// The first token alone, all that a classifier reads of the last layer: one output row a sequence.
    First,
}

/// Which keys a query sees, counted in tokens from its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// So many before it.
    pub left: usize,
    /// So many after it.
    pub right: usize,
}

impl Window {
    /// No bound: positions stay far below, and sums with them do not overflow.
    const UNBOUNDED: usize = 1 << 30;
    /// Every key of the sequence.
    pub const ALL: Self = Self { left: Self::UNBOUNDED, right: Self::UNBOUNDED };
    /// The keys up to the query's own.
    pub const CAUSAL: Self = Self { left: Self::UNBOUNDED, right: 0 };

    /// The keys at most `distance` away.
    pub fn around(distance: usize) -> Self {
        Self { left: distance, right: distance }
    }
}

/// What an attention computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionKind {
    pub queries: Queries,
    pub num_heads: usize,
    /// Heads of keys and values; each serves `num_heads / num_kv_heads` heads of queries.
    pub num_kv_heads: usize,
    pub window: Window,
    /// A score `s` becomes `cap * tanh(s / cap)`; in base two, as scores are.
    pub softcap: Option<f32>,
}

impl AttentionKind {
    /// Every key for every query, and keys for every head.
    pub fn full(queries: Queries, num_heads: usize) -> Self {
        let (num_kv_heads, window) = (num_heads, Window::ALL);
        Self { queries, num_heads, num_kv_heads, window, softcap: None }
    }

    /// Heads in a row of queries, keys and values.
    pub fn num_row_heads(&self) -> usize {
        self.num_heads + 2 * self.num_kv_heads
    }
}

/// How a sequence's rows become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The row of the first token.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The row of the last token.
    Last,
}

/// A device that compares the vectors of a query with those of documents.
pub trait MaxSim: Debug + Send + Sync {
    /// For each document, its vectors of `dim` as `format` writes them down, the sum, over the vectors of `query`
    /// (`[num_vectors, dim]`), of the largest product with one of the document's; zero for a document of none. What a
    /// document gets does not depend on the others. The bytes may begin at any address.
    ///
    /// # Errors
    /// See [`MaxSimError`].
    fn max_sim(
        &self,
        query: &[f32],
        dim: usize,
        format: Format,
        documents: &[&[u8]],
    ) -> Result<Vec<f32>, MaxSimError>;
}

/// Why documents were not compared.
#[derive(Debug, thiserror::Error)]
pub enum MaxSimError {
    /// Bytes that no encoding gave: cut short, or standing for a number that is infinite or none. So are numbers so
    /// large that a product is infinite.
    #[error("a document matrix is not what was kept")]
    NotKept,
    #[error("{0}")]
    Device(#[from] DeviceError),
}

/// `out = x * weight^T + bias`; the weight is `[n, k]` as checkpoints store it.
#[derive(Debug, Clone, Copy)]
pub struct LinearInit<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub n: usize,
    pub k: usize,
}

/// The projections of an attention in which the first token of each sequence alone asks, `[heads * head_dim, hidden]`
/// each.
#[derive(Debug, Clone, Copy)]
pub struct FirstInit<'a> {
    /// Multiplied by [`query_scale`].
    pub query: LinearInit<'a>,
    /// Its bias gives all keys of a query the same, which no softmax sees.
    pub key: LinearInit<'a>,
    pub value: LinearInit<'a>,
    pub num_heads: usize,
}

/// What a norm takes from a row before it scales it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The mean: a layer norm.
    Layer,
    /// Nothing: the root of the mean square alone counts.
    Rms,
}

/// A norm over rows as wide as `gamma`; `beta` is as wide, or empty for none.
#[derive(Debug, Clone, Copy)]
pub struct NormInit<'a> {
    pub kind: NormKind,
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f32,
}

/// Rotary positions: angle `position * inverse_frequencies[i]` for the pair `(i, i + head_dim / 2)` of a head.
#[derive(Debug, Clone, Copy)]
pub struct RopeInit<'a> {
    /// `[head_dim / 2]`; head_dim is a multiple of [`ROPE_HEAD_DIM`].
    pub inverse_frequencies: &'a [f64],
    pub max_positions: usize,
}

/// Halves of heads are whole vectors of every instruction set.
pub const ROPE_HEAD_DIM: usize = 32;
/// A warp of eight columns a thread.
pub const MAX_HEAD_DIM: usize = 256;

impl RopeInit<'_> {
    /// Cosines and sines, each `[max_positions, head_dim / 2]`. Made in f64: f32 angles near 8,000 lie 5e-4 apart.
    pub(crate) fn tables(&self) -> (Vec<f32>, Vec<f32>) {
        let angles = (0..self.max_positions).flat_map(|position| {
            self.inverse_frequencies.iter().map(move |frequency| position as f64 * frequency)
        });
        angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
    }
}

/// Vectors for distances between tokens (DeBERTa): the score of a query and a key is `q k + q keys[d] + k queries[d]`,
/// with `d` the bucket of the query's position less the key's.
#[derive(Debug, Clone, Copy)]
pub struct RelativeInit<'a> {
    /// `[num_heads, num_buckets, head_dim]`
    pub keys: &'a [f32],
    /// The same, multiplied by what the model folds into its query projection.
    pub queries: &'a [f32],
    pub num_heads: usize,
    pub head_dim: usize,
    /// The bucket of each distance from `1 - max_length` to `max_length - 1`, ascending.
    pub buckets: &'a [u32],
}

impl RelativeInit<'_> {
    /// # Panics
    /// If the lengths do not agree, or a distance has a bucket that there is no vector for.
    fn num_buckets(&self) -> usize {
        let Self { keys, queries, num_heads, head_dim, buckets } = *self;
        let num_buckets = keys.len() / (num_heads * head_dim);
        assert!(num_buckets > 0 && keys.len() == num_heads * num_buckets * head_dim, "whole heads");
        assert_eq!(queries.len(), keys.len(), "a query for each key");
        assert!(buckets.len() % 2 == 1, "as many distances to the left as to the right");
        assert!(buckets.iter().all(|bucket| (*bucket as usize) < num_buckets), "known buckets");
        assert!(buckets.is_sorted(), "buckets in the order of distances");
        num_buckets
    }
}

/// What causal attention is given room for: sequences may share what they begin with.
#[derive(Debug, Clone, Copy)]
pub struct CausalInit {
    /// Of any of the model's layers; its window may be another.
    pub kind: AttentionKind,
    pub head_dim: usize,
    /// Of a batch.
    pub max_tokens: usize,
    /// Of a sequence.
    pub max_length: usize,
}

/// The tables whose rows are added for a token, each `[rows, hidden_size]`; `types` and `positions` may be
/// empty, and then add nothing. Words are many, and stay as they are stored.
#[derive(Debug)]
pub struct EmbeddingsInit {
    pub words: Table,
    pub types: Vec<f32>,
    pub positions: Vec<f32>,
    pub hidden_size: usize,
}

/// The factor a model folds into its query projection: attention takes its softmax in base two, which
/// saves a multiplication for each pair of tokens. Most models divide scores by the root of `head_dim`.
pub fn query_scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

/// Fused operations on packed token rows, on one device.
///
/// Every element of every result is one sum in an order that depends on the sizes of the model and on its
/// own sequence alone, so a pair's bits do not depend on its batch mates.
///
/// A device may work behind the caller's back: an operation that fails shows it in [`Backend::read`].
pub trait Backend: Debug + Send + Sync + 'static {
    /// A weight matrix with its bias, prepared once at load.
    type Linear: Debug + Send + Sync;
    type Norm: Debug + Send + Sync;
    type Embeddings: Debug + Send + Sync;
    type Rope: Debug + Send + Sync;
    /// Vectors for distances between tokens.
    type Relative: Debug + Send + Sync;
    /// The projections of a [`FirstInit`].
    type First: Debug + Send + Sync;
    /// Activation rows: capacity fixed at load, row count set by the operation that fills them.
    type Rows: Debug + Send;
    /// Workspace of attention.
    type Scratch: Debug + Send;
    /// The token arrays of a batch, where the device reads them.
    type Batch: Debug;

    /// # Errors
    /// No memory on the device; so for all that takes memory at load.
    fn prepare_linear(&self, init: &LinearInit<'_>) -> Result<Self::Linear, DeviceError>;
    /// A weight that decides a score by itself, or that meets few rows: a backend that computes in narrow
    /// numbers may keep it wide. What feeds it must be f32: the result of attention on the first queries,
    /// of pooling, of a norm, or of another such weight.
    fn prepare_precise(&self, init: &LinearInit<'_>) -> Result<Self::Linear, DeviceError> {
        self.prepare_linear(init)
    }
    fn prepare_norm(&self, init: &NormInit<'_>) -> Result<Self::Norm, DeviceError>;
    fn prepare_embeddings(&self, init: EmbeddingsInit) -> Result<Self::Embeddings, DeviceError>;
    fn prepare_rope(&self, init: &RopeInit<'_>) -> Result<Self::Rope, DeviceError>;
    /// # Errors
    /// No memory on the device, or no kernel for it.
    fn prepare_relative(&self, init: &RelativeInit<'_>) -> Result<Self::Relative, DeviceError>;
    /// `None` from a backend that has only [`Backend::attention`], which gives the same for [`Queries::First`].
    fn prepare_first(&self, init: &FirstInit<'_>) -> Result<Option<Self::First>, DeviceError>;
    fn rows(&self, max_rows: usize, width: usize) -> Result<Self::Rows, DeviceError>;
    /// Rows in f32, for what [`Backend::classify`] gives.
    fn logits(&self, max_rows: usize, width: usize) -> Result<Self::Rows, DeviceError>;
    fn scratch(&self, max_length: usize, head_dim: usize) -> Result<Self::Scratch, DeviceError>;
    /// A workspace for [`Backend::attention`] in which no token sees those after it.
    ///
    /// # Errors
    /// As for all here.
    fn causal_scratch(&self, init: &CausalInit) -> Result<Self::Scratch, DeviceError> {
        self.scratch(init.max_length, init.head_dim)
    }
    /// A workspace for [`Backend::relative_attention`].
    ///
    /// # Errors
    /// As for all here.
    fn relative_scratch(
        &self,
        max_length: usize,
        relative: &Self::Relative,
    ) -> Result<Self::Scratch, DeviceError>;
    /// A workspace for [`Backend::first_attention`].
    fn first_scratch(
        &self,
        max_length: usize,
        first: &Self::First,
    ) -> Result<Self::Scratch, DeviceError>;

    /// `out[t] = norm(word + type + position)` for each token of the batch.
    fn embed_norm(
        &self,
        batch: &Self::Batch,
        embeddings: &Self::Embeddings,
        norm: &Self::Norm,
        out: &mut Self::Rows,
    );

    /// `out[t] = word` for each token of the batch: the residual stream of a model that norms later.
    fn embed(&self, batch: &Self::Batch, embeddings: &Self::Embeddings, out: &mut Self::Rows);

    fn linear(&self, x: &Self::Rows, w: &Self::Linear, epilogue: Epilogue, out: &mut Self::Rows);

    /// A linear layer whose result is the residual stream; the weight is a precise one.
    fn project(&self, x: &Self::Rows, w: &Self::Linear, out: &mut Self::Rows);

    /// `out = gate(x[..width]) * x[width..]` in rows of x, which are twice as wide as those of `out`.
    fn gated_activation(&self, x: &Self::Rows, gate: Gate, out: &mut Self::Rows);

    /// Norms each head of queries, and each of keys, in each row of `qkv` by itself; the norms are RMS norms as wide
    /// as a head, a multiple of [`ROPE_HEAD_DIM`] up to [`MAX_HEAD_DIM`].
    fn head_norm(
        &self,
        qkv: &mut Self::Rows,
        queries: &Self::Norm,
        keys: &Self::Norm,
        kind: &AttentionKind,
    );

    /// Rotates the heads of queries and keys in each row of `qkv` by the position of its token.
    fn rotate(
        &self,
        qkv: &mut Self::Rows,
        batch: &Self::Batch,
        rope: &Self::Rope,
        kind: &AttentionKind,
    );

    /// The last, narrow linear layer: `out` are [`Backend::logits`], never rounded below f32.
    fn classify(&self, x: &Self::Rows, w: &Self::Linear, out: &mut Self::Rows);

    /// Softmax attention within each sequence. Rows of `qkv` are `[query heads, key heads, value heads]`, the
    /// queries already multiplied by [`query_scale`].
    fn attention(
        &self,
        qkv: &Self::Rows,
        batch: &Self::Batch,
        kind: &AttentionKind,
        scratch: &mut Self::Scratch,
        out: &mut Self::Rows,
    );

    /// [`Backend::attention`] with scores that count distances too.
    fn relative_attention(
        &self,
        qkv: &Self::Rows,
        batch: &Self::Batch,
        kind: &AttentionKind,
        relative: &Self::Relative,
        scratch: &mut Self::Scratch,
        out: &mut Self::Rows,
    );

    /// Projections and attention of the first token of each sequence to all of it: one output row a sequence.
    fn first_attention(
        &self,
        hidden: &Self::Rows,
        batch: &Self::Batch,
        first: &Self::First,
        scratch: &mut Self::Scratch,
        out: &mut Self::Rows,
    );

    /// `out = norm(x)`.
    fn norm(&self, x: &Self::Rows, norm: &Self::Norm, out: &mut Self::Rows);

    /// `hidden = norm(hidden + update)`.
    fn residual_norm(&self, hidden: &mut Self::Rows, update: &Self::Rows, norm: &Self::Norm);

    /// `hidden += update`, if there is one, and `out = norm(hidden)`: for models that norm what enters a layer.
    fn pre_norm(
        &self,
        hidden: &mut Self::Rows,
        update: Option<&Self::Rows>,
        norm: &Self::Norm,
        out: &mut Self::Rows,
    );

    /// One row a sequence.
    fn pool(
        &self,
        hidden: &Self::Rows,
        batch: &Self::Batch,
        pooling: Pooling,
        out: &mut Self::Rows,
    );

    /// Scales each row to length one; a row of zeros stays.
    fn normalize(&self, rows: &mut Self::Rows);

    /// Copies the first rows to the host, as many as fill `out`: `[num_rows, width]` without padding.
    ///
    /// # Errors
    /// This or an operation before it failed.
    fn read(&self, rows: &Self::Rows, out: &mut [f32]) -> Result<(), DeviceError>;
}
