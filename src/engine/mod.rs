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

use std::fmt::Debug;

use crate::error::DeviceError;

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

/// Which tokens of a sequence ask in an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Every token: the output has the rows of the input.
    All,
    /// The first token alone, all that a classifier reads of the last layer: one output row a sequence.
    First,
}

/// How a sequence's rows become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The row of the first token.
    Cls,
    /// The mean over all tokens.
    Mean,
}

/// `out = x * weight^T + bias`; the weight is `[n, k]` as checkpoints store it.
#[derive(Debug, Clone, Copy)]
pub struct LinearInit<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub n: usize,
    pub k: usize,
}

/// A layer norm over rows as wide as `gamma`.
#[derive(Debug, Clone, Copy)]
pub struct NormInit<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f32,
}

/// The three tables whose rows are added for a token, each `[rows, hidden_size]`.
#[derive(Debug)]
pub struct EmbeddingsInit {
    pub words: Vec<f32>,
    pub types: Vec<f32>,
    pub positions: Vec<f32>,
    pub hidden_size: usize,
}

/// The factor a model folds into its query projection: attention takes its softmax in base two, which
/// saves a multiplication for each pair of tokens.
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
    fn rows(&self, max_rows: usize, width: usize) -> Result<Self::Rows, DeviceError>;
    /// Rows in f32, for what [`Backend::classify`] gives.
    fn logits(&self, max_rows: usize, width: usize) -> Result<Self::Rows, DeviceError>;
    fn scratch(&self, max_length: usize, head_dim: usize) -> Result<Self::Scratch, DeviceError>;

    /// `out[t] = norm(word + type + position)` for each token of the batch.
    fn embed_norm(
        &self,
        batch: &Self::Batch,
        embeddings: &Self::Embeddings,
        norm: &Self::Norm,
        out: &mut Self::Rows,
    );

    fn linear(&self, x: &Self::Rows, w: &Self::Linear, epilogue: Epilogue, out: &mut Self::Rows);

    /// The last, narrow linear layer: `out` are [`Backend::logits`], never rounded below f32.
    fn classify(&self, x: &Self::Rows, w: &Self::Linear, out: &mut Self::Rows);

    /// Softmax attention within each sequence. Rows of `qkv` are `[query, key, value]`, the query already
    /// multiplied by [`query_scale`].
    fn attention(
        &self,
        qkv: &Self::Rows,
        batch: &Self::Batch,
        queries: Queries,
        num_heads: usize,
        scratch: &mut Self::Scratch,
        out: &mut Self::Rows,
    );

    /// `hidden = norm(hidden + update)`.
    fn residual_norm(&self, hidden: &mut Self::Rows, update: &Self::Rows, norm: &Self::Norm);

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
