//! The GPU engine: the hand-written kernels of `kernels/`, launched on one NVIDIA device.
//!
//! f16 in, f32 inside. Operations are enqueued on one stream and captured into graphs, one a [`Bucket`]; what
//! fails shows when the results are read. See kernels/README.md for what has run where.

mod batch;
mod buffers;
mod cublaslt;
mod error;
mod graphs;
mod kernels;
mod launch;
mod max_sim;
pub mod probe;
mod relative;
mod sharing;
mod slot;
mod timing;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, HostSlice, ValidAsZeroBits,
};
use half::f16;

use super::packed::Packed;
use super::{
    AttentionKind, Backend, CausalInit, EmbeddingsInit, Epilogue, FirstInit, Gate, LinearInit,
    MAX_HEAD_DIM, NormInit, NormKind, Pooling, Queries, RelativeInit, RopeInit,
};
use crate::error::DeviceError;
use cublaslt::CublasLt;
use error::fault;
use kernels::{Attention, Kernels, Scores};
use launch::Gather;
use sharing::Gathered;

pub use batch::{Batch, Bucket};
pub use buffers::{Embeddings, Linear, Norm, Rope, Rows};
pub use graphs::Graphs;
pub use max_sim::Comparer;
pub use relative::Relative;
pub use sharing::Sharing;
pub use slot::{Slot, Work};
pub use timing::Timing;

use buffers::Elements;

/// Queries that a block of attention takes.
const ATTENTION_QUERIES: usize = 64;
/// 512 threads of eight columns.
const MAX_NORM_WIDTH: usize = 4096;

/// One GPU.
#[derive(Debug)]
pub struct Cuda {
    context: Arc<CudaContext>,
    /// Computes, in order.
    stream: Arc<CudaStream>,
    /// Copies a batch in while another computes.
    copies: Arc<CudaStream>,
    kernels: Kernels,
    num_multiprocessors: usize,
    /// Only where scores may depend on their batch.
    cublaslt: Option<CublasLt>,
    /// The first operation that could not be enqueued.
    refused: Mutex<Option<DeviceError>>,
}

impl Cuda {
    /// Takes the device into use and compiles the kernels for it. Without `batch_invariant`, products may go to
    /// cuBLASLt if it is installed.
    ///
    /// # Errors
    /// The driver refuses: no memory, or a PTX newer than itself.
    pub fn new(device: &probe::Device, batch_invariant: bool) -> Result<Self, DeviceError> {
        let at = |what: &str| fault(format!("GPU {}: {what}", device.ordinal));
        let context = CudaContext::new(device.ordinal).map_err(at("opening"))?;
        // SAFETY: this file and its children order the two streams by events of their own. The bindings'
        // tracking would put an event on every argument of every launch, which a capture refuses.
        unsafe { context.disable_event_tracking() };
        let multiprocessors = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let stream = context.new_stream().map_err(at("making a stream"))?;
        let cublaslt = if batch_invariant {
            None
        } else {
            CublasLt::open(|bytes| stream.alloc_zeros(bytes).ok())
        };
        Ok(Self {
            stream,
            cublaslt,
            copies: context.new_stream().map_err(at("making a stream"))?,
            kernels: Kernels::load(&context)?,
            num_multiprocessors: context.attribute(multiprocessors).map_err(at("asking"))? as usize,
            refused: Mutex::new(None),
            context,
        })
    }

    /// A batch on the device by itself, outside of the slots.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn batch(&self, batch: &Packed, sharing: Option<&Sharing>) -> Result<Batch, DeviceError> {
        let bucket = Bucket::of_batch(batch, sharing);
        let mut words = vec![0; bucket.num_words()];
        batch::lay_out(batch, sharing, &mut words);
        Ok(Batch { words: self.upload("a batch", &words)?, bucket })
    }

    /// Waits for all that was enqueued.
    ///
    /// # Errors
    /// Some of it failed.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.take_refusal()?;
        self.stream.synchronize().map_err(fault("computing"))?;
        self.copies.synchronize().map_err(fault("copying"))
    }

    /// Remembers an operation that the driver would not enqueue.
    fn enqueued<T>(&self, what: &str, result: Result<T, DriverError>) {
        if let Err(fault) = result.map_err(fault(what)) {
            self.refuse(fault);
        }
    }

    fn refuse(&self, fault: DeviceError) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    fn take_refusal(&self) -> Result<(), DeviceError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.take().map_or(Ok(()), Err)
    }

    /// Memory of `len` zeros. Activations begin as numbers: rows of a bucket that no batch filled are read.
    fn zeros<T>(&self, what: &str, len: usize) -> Result<CudaSlice<T>, DeviceError>
    where
        T: DeviceRepr + ValidAsZeroBits,
    {
        let bytes = len * size_of::<T>();
        let what = format!("allocating {bytes} bytes for {what}");
        self.stream.alloc_zeros(len.max(1)).map_err(fault(&what))
    }

    /// Sets every element of the rows.
    fn fill(&self, rows: &mut Rows, value: impl Fn(usize) -> f32) -> Result<(), DeviceError> {
        let values: Vec<_> =
            (0..rows.num_rows * rows.width).map(|i| f16::from_f32(value(i))).collect();
        self.stream.memcpy_htod(&values, rows.halves_mut()).map_err(fault("filling rows"))
    }

    fn attention_of(&self, scores: Scores, head_dim: usize) -> Result<Scratch, DeviceError> {
        let attention = Attention::load(&self.context, scores, head_dim)?;
        Ok(Scratch { attention, gathered: None })
    }

    fn upload<T, S>(&self, what: &str, values: &S) -> Result<CudaSlice<T>, DeviceError>
    where
        T: DeviceRepr,
        S: HostSlice<T> + ?Sized,
    {
        let bytes = values.len() * size_of::<T>();
        let what = format!("copying {bytes} bytes of {what} to the device");
        self.stream.clone_htod(values).map_err(fault(&what))
    }
}

// === impl Backend ===

impl Backend for Cuda {
    type Linear = Linear;
    type Norm = Norm;
    type Embeddings = Embeddings;
    type Rope = Rope;
    type Relative = Relative;
    type First = Infallible;
    type Rows = Rows;
    type Scratch = Scratch;
    type Batch = Batch;

    fn prepare_linear(&self, init: &LinearInit<'_>) -> Result<Linear, DeviceError> {
        let (rows, stride) = buffers::padded_rows(init);
        let bias_f16 = self.cublaslt.as_ref().map(|_| buffers::to_halves(init.bias));
        let linear = Linear {
            weight: self.upload("a weight", &rows)?,
            bias: self.upload("a bias", init.bias)?,
            bias_f16: bias_f16.map(|bias| self.upload("a bias", &bias)).transpose()?,
            n: init.n,
            k: init.k,
            stride,
        };
        if let Some(library) = &self.cublaslt {
            library.add_layer(&linear);
        }
        Ok(linear)
    }

    fn prepare_norm(&self, init: &NormInit<'_>) -> Result<Norm, DeviceError> {
        buffers::check_norm(init)?;
        let beta = (!init.beta.is_empty()).then(|| self.upload("a norm", init.beta));
        Ok(Norm {
            kind: init.kind,
            gamma: self.upload("a norm", init.gamma)?,
            beta: beta.transpose()?,
            eps: init.eps,
            width: init.gamma.len(),
        })
    }

    fn prepare_embeddings(&self, init: EmbeddingsInit) -> Result<Embeddings, DeviceError> {
        let table = |values: &[f32]| self.upload("embeddings", &buffers::to_halves(values));
        let optional = |values: &[f32]| (!values.is_empty()).then(|| table(values)).transpose();
        Ok(Embeddings {
            words: table(&init.words.to_vec())?,
            types: optional(&init.types)?,
            positions: optional(&init.positions)?,
            hidden_size: init.hidden_size,
        })
    }

    fn prepare_rope(&self, init: &RopeInit<'_>) -> Result<Rope, DeviceError> {
        buffers::check_rope(init);
        let (cosines, sines) = init.tables();
        Ok(Rope {
            cosines: self.upload("rotary positions", &cosines)?,
            sines: self.upload("rotary positions", &sines)?,
            half: init.inverse_frequencies.len(),
        })
    }

    fn prepare_relative(&self, init: &RelativeInit<'_>) -> Result<Relative, DeviceError> {
        self.relative(init)
    }

    fn relative_scratch(
        &self,
        max_length: usize,
        relative: &Relative,
    ) -> Result<Scratch, DeviceError> {
        assert!(max_length <= relative.max_length, "distances within the table");
        self.attention_of(Scores::Relative, relative.head_dim)
    }

    fn prepare_first(&self, _init: &FirstInit<'_>) -> Result<Option<Infallible>, DeviceError> {
        Ok(None)
    }

    fn first_scratch(&self, _: usize, first: &Infallible) -> Result<Scratch, DeviceError> {
        match *first {}
    }

    fn rows(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        buffers::check_width("a row", width, usize::MAX)?;
        let data = Elements::F16(self.zeros::<f16>("activations", max_rows * width)?);
        Ok(Rows { data, width, num_rows: 0, max_rows })
    }

    fn logits(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        let data = Elements::F32(self.zeros::<f32>("logits", max_rows * width)?);
        Ok(Rows { data, width, num_rows: 0, max_rows })
    }

    fn scratch(&self, _max_length: usize, head_dim: usize) -> Result<Scratch, DeviceError> {
        self.attention_of(Scores::Products, head_dim)
    }

    fn causal_scratch(&self, init: &CausalInit) -> Result<Scratch, DeviceError> {
        let CausalInit { kind, head_dim, max_tokens, .. } = *init;
        let qkv = self.rows(max_tokens, kind.num_row_heads() * head_dim)?;
        let context = self.rows(max_tokens, kind.num_heads * head_dim)?;
        let gathered = Some(Gathered::new(qkv, context));
        Ok(Scratch { gathered, ..self.attention_of(Scores::of(&kind), head_dim)? })
    }

    fn embed_norm(&self, batch: &Batch, table: &Embeddings, norm: &Norm, out: &mut Rows) {
        assert!(norm.width == table.hidden_size && out.width == norm.width, "widths to norm");
        out.set_rows(batch.bucket.num_rows);
        self.launch_embed_norm(batch, table, norm, out);
    }

    fn embed(&self, batch: &Batch, table: &Embeddings, out: &mut Rows) {
        out.set_rows(batch.bucket.num_rows);
        self.launch_gather(Gather::words(table, &batch.input_ids()), out);
    }

    fn linear(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        assert_eq!((x.width, out.width), (w.k, w.n), "columns to multiply and to write");
        out.set_rows(x.num_rows);
        if let (Some(library), Epilogue::Bias) = (&self.cublaslt, epilogue) {
            match library.multiply(self, x, w, out) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => self.refuse(DeviceError::new(format!("cuBLASLt: {error}"))),
            }
        }
        self.launch_gemm(x, w, epilogue, out);
    }

    fn project(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        self.linear(x, w, Epilogue::Bias, out);
    }

    fn gated_activation(&self, x: &Rows, gate: Gate, out: &mut Rows) {
        assert_eq!(x.width, 2 * out.width, "columns to gate");
        out.set_rows(x.num_rows);
        self.launch_gated_activation(x, gate, out);
    }

    fn head_norm(&self, qkv: &mut Rows, queries: &Norm, keys: &Norm, kind: &AttentionKind) {
        assert_eq!(qkv.width, kind.num_row_heads() * queries.width, "columns of all heads");
        assert!(queries.width == keys.width && keys.width <= MAX_HEAD_DIM, "heads of one size");
        assert_eq!(queries.eps.to_bits(), keys.eps.to_bits(), "one eps for queries and keys");
        self.launch_head_norm(qkv, (queries, keys), kind);
    }

    fn rotate(&self, qkv: &mut Rows, batch: &Batch, rope: &Rope, kind: &AttentionKind) {
        assert_eq!(qkv.width, kind.num_row_heads() * 2 * rope.half, "columns of all heads");
        assert_eq!(qkv.num_rows, batch.bucket.num_rows, "rows of the batch");
        self.launch_rope(qkv, batch, rope, kind);
    }

    fn classify(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        assert_eq!((x.width, out.width), (w.k, w.n), "columns to multiply and to write");
        out.set_rows(x.num_rows);
        self.launch_classify(x, w, out);
    }

    fn attention(
        &self,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        scratch.check(Scores::of(kind), qkv, batch, kind, out);
        self.attend(qkv, batch, kind, scratch, out);
    }

    fn relative_attention(
        &self,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        relative: &Relative,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        scratch.check(Scores::Relative, qkv, batch, kind, out);
        relative.check(scratch.attention.head_dim, kind);
        assert!(!batch.bucket.shares(), "every token sees every other");
        self.launch_relative_attention(&scratch.attention, relative, qkv, batch, kind, out);
    }

    fn first_attention(
        &self,
        _hidden: &Rows,
        _batch: &Batch,
        first: &Infallible,
        _scratch: &mut Scratch,
        _out: &mut Rows,
    ) {
        match *first {}
    }

    fn norm(&self, x: &Rows, norm: &Norm, out: &mut Rows) {
        assert!(x.width == norm.width && out.width == norm.width, "widths to norm");
        out.set_rows(x.num_rows);
        self.launch_pre_norm(x, None, norm, out);
    }

    fn residual_norm(&self, hidden: &mut Rows, update: &Rows, norm: &Norm) {
        assert_eq!(hidden.num_rows, update.num_rows, "rows to add");
        assert!(hidden.width == norm.width && update.width == norm.width, "widths to norm");
        assert_eq!(norm.kind, NormKind::Layer, "a layer norm");
        self.launch_residual_norm(hidden, update, norm);
    }

    fn pre_norm(&self, hidden: &mut Rows, update: Option<&Rows>, norm: &Norm, out: &mut Rows) {
        if let Some(update) = update {
            assert_eq!(hidden.num_rows, update.num_rows, "rows to add");
            assert_eq!(update.width, norm.width, "widths to norm");
        }
        assert!(hidden.width == norm.width && out.width == norm.width, "widths to norm");
        out.set_rows(hidden.num_rows);
        self.launch_pre_norm(hidden, update, norm, out);
    }

    fn pool(&self, hidden: &Rows, batch: &Batch, pooling: Pooling, out: &mut Rows) {
        assert_eq!(hidden.width, out.width, "columns to pool");
        assert_eq!(hidden.num_rows, batch.bucket.num_rows, "rows of the batch");
        let of_last = matches!(pooling, Pooling::Last);
        assert!(of_last || !batch.bucket.shares(), "rows of a sequence one after another");
        out.set_rows(batch.bucket.num_sequences);
        self.launch_pool(hidden, batch, pooling, out);
    }

    fn normalize(&self, rows: &mut Rows) {
        self.launch_normalize(rows);
    }

    fn read(&self, rows: &Rows, out: &mut [f32]) -> Result<(), DeviceError> {
        assert!(out.len() <= rows.num_rows * rows.width, "floats to read");
        self.take_refusal()?;
        match &rows.data {
            Elements::F32(data) => {
                let copied = self.stream.memcpy_dtoh(&data.slice(..out.len()), out);
                copied.map_err(fault("reading logits"))?;
                self.synchronize()
            }
            Elements::F16(data) => {
                let mut halves = vec![f16::ZERO; out.len()];
                let copied = self.stream.memcpy_dtoh(&data.slice(..out.len()), &mut halves);
                copied.map_err(fault("reading rows"))?;
                self.synchronize()?;
                out.iter_mut().zip(&halves).for_each(|(to, from)| *to = from.to_f32());
                Ok(())
            }
        }
    }
}

/// The attention kernel of a head size, and memory where sequences may share rows.
#[derive(Debug)]
pub struct Scratch {
    attention: Attention,
    gathered: Option<Gathered>,
}

impl Scratch {
    /// Compares sizes, and gives `out` its rows.
    fn check(
        &self,
        scores: Scores,
        qkv: &Rows,
        batch: &Batch,
        kind: &AttentionKind,
        out: &mut Rows,
    ) {
        let head_dim = self.attention.head_dim;
        assert_eq!(self.attention.scores, scores, "the kernel of this attention");
        assert_eq!(qkv.width, kind.num_row_heads() * head_dim, "query, key and value side by side");
        assert_eq!(out.width, kind.num_heads * head_dim, "columns of all heads");
        assert!(kind.num_heads.is_multiple_of(kind.num_kv_heads), "whole groups of heads");
        assert_eq!(qkv.num_rows, batch.bucket.num_rows, "rows of the batch");
        out.set_rows(match kind.queries {
            Queries::All => qkv.num_rows,
            Queries::First => batch.bucket.num_sequences,
        });
    }
}

/// How often a wait looks whether the device is done: a fraction of the shortest batch.
const POLL: Duration = Duration::from_micros(20);
