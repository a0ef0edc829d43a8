//! The CPU backend: kernels for the instruction set that the machine has, in f32, bf16 or int8.
//!
//! Safe code reaches the kernels only through [`Cpu`], which checks the lengths of all that it hands down.
//!
//! In a narrow precision an operation leaves its rows in the form that the next one reads: attention, norms
//! and activations feed products, so they write bf16 or codes; a product without an activation feeds
//! attention, and writes bf16, or a norm, and writes f32. The residual stream stays f32.

mod attend;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod chunk;
mod first;
#[cfg(target_arch = "x86_64")]
mod gelu;
mod gemm;
mod isa;
mod kernels;
mod linear;
mod math;
mod max_sim;
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod numbers;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only AMD's cores gain by it"))]
mod paired;
mod portable;
mod relative;
mod rows;
mod rowwise;
mod simd;
mod weight;

pub use attend::Scratch;
pub use first::First;
pub use isa::Isa;
pub use relative::Relative;
pub use rows::Rows;
pub use weight::{Embeddings, Linear, Norm, Rope};

use super::packed::Packed;
use super::{
    AttentionKind, Backend, Dtype, EmbeddingsInit, Epilogue, FirstInit, Gate, LinearInit, NormInit,
    Pooling, ROPE_HEAD_DIM, RelativeInit, RopeInit,
};
use crate::error::DeviceError;
use kernels::{GateArgs, HeadNormArgs, Kernels, NormArgs};
use narrow::Numbers;

/// The kernels of one instruction set, and the precision that weights are prepared for.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    isa: Isa,
    dtype: Dtype,
    kernels: &'static Kernels,
    narrow: &'static narrow::Kernels,
}

impl Cpu {
    /// The fastest instruction set of this machine.
    pub fn new(dtype: Dtype) -> Self {
        Self::with_isa(Isa::detect(), dtype).unwrap_or(Self {
            isa: Isa::Portable,
            dtype,
            kernels: &portable::KERNELS,
            narrow: &narrow::portable::KERNELS,
        })
    }

    /// A given instruction set; `None` if this machine has not got it.
    pub fn with_isa(isa: Isa, dtype: Dtype) -> Option<Self> {
        isa.kernels().map(|(kernels, narrow)| Self { isa, dtype, kernels, narrow })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// What narrow products multiply.
    fn numbers(&self) -> Numbers {
        match self.dtype {
            Dtype::Int8 => Numbers::Bytes,
            Dtype::Bf16 if self.narrow.words.is_some() => Numbers::Words,
            Dtype::Bf16 => Numbers::Bf16,
            Dtype::F16 | Dtype::F32 => panic!("no narrow kernel computes in {:?}", self.dtype),
        }
    }

    /// `hidden += update` and `out = norm(hidden)` by the kernel for the update's form; without `out` the result
    /// stays in `hidden`.
    fn add_norm(
        &self,
        hidden: &mut Rows,
        update: Option<&Rows>,
        norm: &Norm,
        out: Option<&mut Rows>,
    ) {
        let (rows, width, stride) = (hidden.num_rows, norm.width(), hidden.stride);
        assert_eq!(hidden.width, width, "columns to norm");
        assert!(hidden.forms().wide, "a residual stream in f32");
        if let Some(update) = update {
            assert!(update.num_rows == rows && update.width == width, "rows to add");
        }
        let hidden = hidden.wide_mut().as_mut_ptr();
        let (out, out_stride) = match out {
            None => (hidden, stride),
            Some(out) => {
                assert_eq!(out.width, width, "columns to write");
                out.set_rows(rows);
                let stride = out.stride;
                (out.wide_mut().as_mut_ptr(), stride)
            }
        };
        let sizes = Sizes { rows, width, stride, out_stride };
        // SAFETY: `with_isa` asked the CPU; rows and widths were compared above, rows lie inside their buffers
        // by construction, and `Norm` keeps `width` floats of gamma and beta.
        unsafe {
            match update {
                Some(update) if !update.forms().wide => {
                    let update = (update.half().as_ptr(), update.stride);
                    (self.narrow.add_norm)(&sizes.args(hidden, update, norm, out));
                }
                _ => {
                    let update = update.map_or((std::ptr::null(), 0), |update| {
                        (update.wide().as_ptr(), update.stride)
                    });
                    (self.kernels.add_norm)(&sizes.args(hidden, update, norm, out));
                }
            }
        }
    }
}

/// Sizes of rows to norm.
struct Sizes {
    rows: usize,
    width: usize,
    stride: usize,
    out_stride: usize,
}

impl Sizes {
    fn args<U>(
        &self,
        hidden: *mut f32,
        (update, update_stride): (*const U, usize),
        norm: &Norm,
        out: *mut f32,
    ) -> NormArgs<U> {
        NormArgs {
            kind: norm.kind,
            hidden,
            hidden_stride: self.stride,
            update,
            update_stride,
            out,
            out_stride: self.out_stride,
            rows: self.rows,
            width: self.width,
            gamma: norm.gamma.as_ptr(),
            beta: norm.beta.as_ptr(),
            eps: norm.eps,
        }
    }
}

// === impl Backend ===

impl Backend for Cpu {
    type Linear = Linear;
    type Norm = Norm;
    type Embeddings = Embeddings;
    type Rope = Rope;
    type Relative = Relative;
    type First = First;
    type Rows = Rows;
    type Scratch = Scratch;
    type Batch = Packed;

    fn prepare_linear(&self, init: &LinearInit<'_>) -> Result<Linear, DeviceError> {
        match self.dtype {
            Dtype::F32 if self.kernels.paired.is_some() => Ok(Linear::pair(init)),
            Dtype::F32 => self.prepare_precise(init),
            _ => Ok(Linear::narrow(init, self.numbers(), self.narrow.panel)),
        }
    }

    fn prepare_precise(&self, init: &LinearInit<'_>) -> Result<Linear, DeviceError> {
        Ok(Linear::pack(init, self.kernels.panel))
    }

    fn prepare_norm(&self, init: &NormInit<'_>) -> Result<Norm, DeviceError> {
        Ok(Norm::new(init))
    }

    fn prepare_embeddings(&self, init: EmbeddingsInit) -> Result<Embeddings, DeviceError> {
        Ok(Embeddings::new(init))
    }

    fn prepare_rope(&self, init: &RopeInit<'_>) -> Result<Rope, DeviceError> {
        Ok(Rope::new(init))
    }

    fn prepare_relative(&self, init: &RelativeInit<'_>) -> Result<Relative, DeviceError> {
        Ok(Relative::new(init, self.kernels.panel))
    }

    fn prepare_first(&self, init: &FirstInit<'_>) -> Result<Option<First>, DeviceError> {
        Ok(Some(First::new(init, self.kernels.panel)))
    }

    fn rows(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        let numbers = (self.dtype != Dtype::F32).then(|| self.numbers());
        Ok(Rows::new(max_rows, width, numbers))
    }

    fn logits(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        Ok(Rows::new(max_rows, width, None))
    }

    fn scratch(&self, max_length: usize, head_dim: usize) -> Result<Scratch, DeviceError> {
        Ok(Scratch::new(self, max_length, head_dim))
    }

    fn relative_scratch(
        &self,
        max_length: usize,
        relative: &Relative,
    ) -> Result<Scratch, DeviceError> {
        Ok(Scratch::relative(self, max_length, relative))
    }

    fn first_scratch(&self, max_length: usize, first: &First) -> Result<Scratch, DeviceError> {
        Ok(Scratch::first(max_length, first))
    }

    fn embed_norm(&self, group: &Packed, table: &Embeddings, norm: &Norm, out: &mut Rows) {
        out.set_rows(group.num_tokens());
        for t in 0..group.num_tokens() {
            let kind = table.token_type(group.token_type_ids[t]);
            let position = table.position(group.position_ids[t]);
            let row = out.row_mut(t);
            table.word(group.input_ids[t], row);
            for ((x, kind), position) in row.iter_mut().zip(kind).zip(position) {
                *x = *x + kind + position;
            }
        }
        self.add_norm(out, None, norm, None);
        self.encode(out);
    }

    fn embed(&self, group: &Packed, table: &Embeddings, out: &mut Rows) {
        out.set_rows(group.num_tokens());
        for (t, id) in group.input_ids.iter().enumerate() {
            table.word(*id, out.row_mut(t));
        }
    }

    fn linear(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        self.multiply(x, w, epilogue, out);
    }

    fn classify(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        self.linear(x, w, Epilogue::Bias, out);
    }

    fn project(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        self.multiply(x, w, Epilogue::Bias, out);
        self.encode(out);
    }

    fn gated_activation(&self, x: &Rows, gate: Gate, out: &mut Rows) {
        assert_eq!(x.width, 2 * out.width, "columns to gate");
        out.set_rows(x.num_rows);
        let (rows, width, x_stride, out_stride) = (x.num_rows, out.width, x.stride, out.stride);
        let out_start = out.wide_mut().as_mut_ptr();
        // SAFETY: `with_isa` asked the CPU; widths were compared above, and rows lie inside their buffers.
        unsafe {
            if x.forms().wide {
                let x = x.wide().as_ptr();
                let args = GateArgs { gate, x, x_stride, rows, width, out: out_start, out_stride };
                (self.kernels.gate)(&args);
            } else {
                let x = x.half().as_ptr();
                let args = GateArgs { gate, x, x_stride, rows, width, out: out_start, out_stride };
                (self.narrow.gate)(&args);
            }
        }
        self.encode(out);
    }

    fn head_norm(&self, qkv: &mut Rows, queries: &Norm, keys: &Norm, kind: &AttentionKind) {
        let head_dim = queries.width();
        assert_eq!(keys.width(), head_dim, "heads of one size");
        assert!(head_dim.is_multiple_of(ROPE_HEAD_DIM), "whole vectors to norm");
        assert_eq!(qkv.width, kind.num_row_heads() * head_dim, "columns of all heads");
        let (num_rows, stride) = (qkv.num_rows, qkv.stride);
        let heads = [(0, kind.num_heads, queries), (kind.num_heads, kind.num_kv_heads, keys)];
        for (first, num_heads, norm) in heads {
            let (gamma, eps) = (norm.gamma.as_ptr(), norm.eps);
            // SAFETY: `with_isa` asked the CPU; widths were compared above, rows lie inside their buffers, and
            // all heads inside a row.
            unsafe {
                if qkv.forms().wide {
                    let heads = qkv.wide_mut().as_mut_ptr().add(first * head_dim);
                    let args =
                        HeadNormArgs { heads, stride, num_rows, num_heads, head_dim, gamma, eps };
                    (self.kernels.head_norm)(&args);
                } else {
                    let heads = qkv.half_mut().as_mut_ptr().add(first * head_dim);
                    let args =
                        HeadNormArgs { heads, stride, num_rows, num_heads, head_dim, gamma, eps };
                    (self.narrow.head_norm)(&args);
                }
            }
        }
    }

    fn rotate(&self, qkv: &mut Rows, batch: &Packed, rope: &Rope, kind: &AttentionKind) {
        let num_heads = kind.num_heads + kind.num_kv_heads;
        assert_eq!(qkv.width, kind.num_row_heads() * 2 * rope.half, "columns of all heads");
        assert_eq!(qkv.num_rows, batch.num_tokens(), "rows of the batch");
        let positions = &batch.position_ids;
        let known = positions.iter().all(|position| (*position as usize) < rope.max_positions);
        assert!(known, "positions of the tables");
        let (sizes, positions) = ((qkv.num_rows, qkv.stride), positions.as_ptr());
        // SAFETY: `with_isa` asked the CPU; widths, rows and positions were compared above.
        unsafe {
            if qkv.forms().wide {
                let rows = qkv.wide_mut().as_mut_ptr();
                (self.kernels.rotate)(&rope.args(rows, sizes, num_heads, positions));
            } else {
                let rows = qkv.half_mut().as_mut_ptr();
                (self.narrow.rotate)(&rope.args(rows, sizes, num_heads, positions));
            }
        }
    }

    fn attention(
        &self,
        qkv: &Rows,
        batch: &Packed,
        kind: &AttentionKind,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        self.attend(qkv, batch, (kind, None), scratch, out);
    }

    fn relative_attention(
        &self,
        qkv: &Rows,
        batch: &Packed,
        kind: &AttentionKind,
        relative: &Relative,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        self.attend(qkv, batch, (kind, Some(relative)), scratch, out);
    }

    fn first_attention(
        &self,
        hidden: &Rows,
        batch: &Packed,
        first: &First,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        self.attend_with_first(hidden, batch, first, scratch, out);
    }

    fn norm(&self, x: &Rows, norm: &Norm, out: &mut Rows) {
        // The kernel takes rows of either form as what is added to others: here to zeros.
        out.set_rows(x.num_rows);
        (0..x.num_rows).for_each(|i| out.row_mut(i).fill(0.0));
        self.residual_norm(out, x, norm);
    }

    fn residual_norm(&self, hidden: &mut Rows, update: &Rows, norm: &Norm) {
        self.add_norm(hidden, Some(update), norm, None);
        self.encode(hidden);
    }

    fn pre_norm(&self, hidden: &mut Rows, update: Option<&Rows>, norm: &Norm, out: &mut Rows) {
        self.add_norm(hidden, update, norm, Some(out));
        self.encode(out);
    }

    fn pool(&self, hidden: &Rows, batch: &Packed, pooling: Pooling, out: &mut Rows) {
        assert_eq!(hidden.width, out.width, "columns to pool");
        out.set_rows(batch.num_sequences());
        for (i, bounds) in batch.cu_seqlens.windows(2).enumerate() {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            let pooled = out.row_mut(i);
            let from = if pooling == Pooling::Last { end - 1 } else { first };
            pooled.copy_from_slice(hidden.row(from));
            if pooling == Pooling::Mean {
                for t in first + 1..end {
                    pooled.iter_mut().zip(hidden.row(t)).for_each(|(sum, x)| *sum += x);
                }
                let scale = 1.0 / (end - first) as f32;
                pooled.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    fn normalize(&self, rows: &mut Rows) {
        for i in 0..rows.num_rows {
            let row = rows.row_mut(i);
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 0.0 {
                row.iter_mut().for_each(|x| *x /= length);
            }
        }
    }

    fn read(&self, rows: &Rows, out: &mut [f32]) -> Result<(), DeviceError> {
        assert!(out.len() <= rows.num_rows * rows.width, "floats to read");
        for (i, out) in out.chunks_exact_mut(rows.width).enumerate() {
            if rows.forms().wide {
                out.copy_from_slice(rows.row(i));
            } else {
                let row = rows.half()[i * rows.stride..].iter();
                out.iter_mut().zip(row).for_each(|(x, bf16)| *x = narrow::widen(*bf16));
            }
        }
        Ok(())
    }
}
