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
mod gemm;
mod isa;
mod kernels;
mod linear;
mod math;
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod numbers;
mod portable;
mod rows;
mod simd;
mod weight;

pub use attend::Scratch;
pub use isa::Isa;
pub use rows::Rows;
pub use weight::{Embeddings, Linear, Norm};

use super::packed::Packed;
use super::{Backend, Dtype, EmbeddingsInit, Epilogue, LinearInit, NormInit, Pooling, Queries};
use crate::error::DeviceError;
use kernels::{Kernels, NormArgs};

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

    /// `hidden = norm(hidden + update)` for `rows` rows, `strides` apart, by one of the two kernels.
    fn add_norm<U>(
        kernel: unsafe fn(&NormArgs<U>),
        hidden: (&mut [f32], usize),
        update: (&[U], usize),
        rows: usize,
        norm: &Norm,
    ) {
        let ((hidden, hidden_stride), (update, update_stride)) = (hidden, update);
        let width = norm.width();
        for (len, stride) in [(hidden.len(), hidden_stride), (update.len(), update_stride)] {
            assert!(rows == 0 || (rows - 1) * stride + width <= len, "{rows} rows to norm");
        }
        let args = NormArgs {
            hidden: hidden.as_mut_ptr(),
            hidden_stride,
            update: update.as_ptr(),
            update_stride,
            rows,
            width,
            gamma: norm.gamma.as_ptr(),
            beta: norm.beta.as_ptr(),
            eps: norm.eps,
        };
        // SAFETY: `with_isa` asked the CPU; the slices were found long enough above, and `Norm` keeps
        // `width` floats of gamma and beta.
        unsafe { kernel(&args) };
    }
}

// === impl Backend ===

impl Backend for Cpu {
    type Linear = Linear;
    type Norm = Norm;
    type Embeddings = Embeddings;
    type Rows = Rows;
    type Scratch = Scratch;
    type Batch = Packed;

    fn prepare_linear(&self, init: &LinearInit<'_>) -> Result<Linear, DeviceError> {
        match self.dtype {
            Dtype::F32 => self.prepare_precise(init),
            dtype => Ok(Linear::pack(init, dtype, self.narrow.panel)),
        }
    }

    fn prepare_precise(&self, init: &LinearInit<'_>) -> Result<Linear, DeviceError> {
        Ok(Linear::pack(init, Dtype::F32, self.kernels.panel))
    }

    fn prepare_norm(&self, init: &NormInit<'_>) -> Result<Norm, DeviceError> {
        Ok(Norm::new(init))
    }

    fn prepare_embeddings(&self, init: EmbeddingsInit) -> Result<Embeddings, DeviceError> {
        Ok(Embeddings::new(init))
    }

    fn rows(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        Ok(Rows::new(max_rows, width, self.dtype))
    }

    fn logits(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        Ok(Rows::new(max_rows, width, Dtype::F32))
    }

    fn scratch(&self, max_length: usize, head_dim: usize) -> Result<Scratch, DeviceError> {
        Ok(Scratch::new(self, max_length, head_dim))
    }

    fn embed_norm(&self, group: &Packed, table: &Embeddings, norm: &Norm, out: &mut Rows) {
        out.set_rows(group.num_tokens());
        for t in 0..group.num_tokens() {
            let word = table.word(group.input_ids[t]);
            let kind = table.token_type(group.token_type_ids[t]);
            let position = table.position(group.position_ids[t]);
            let row = out.row_mut(t);
            for ((x, word), kind) in row.iter_mut().zip(word).zip(kind) {
                *x = word + kind;
            }
            let width = row.len();
            let kernel = self.kernels.add_norm;
            Self::add_norm(kernel, (row, width), (position, width), 1, norm);
        }
        self.encode(out);
    }

    fn linear(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        self.multiply(x, w, epilogue, out);
    }

    fn classify(&self, x: &Rows, w: &Linear, out: &mut Rows) {
        self.linear(x, w, Epilogue::Bias, out);
    }

    fn attention(
        &self,
        qkv: &Rows,
        batch: &Packed,
        queries: Queries,
        num_heads: usize,
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        self.attend(qkv, &batch.cu_seqlens, queries, num_heads, scratch, out);
    }

    fn residual_norm(&self, hidden: &mut Rows, update: &Rows, norm: &Norm) {
        assert_eq!(hidden.num_rows, update.num_rows, "rows to add");
        assert!(hidden.width == norm.width() && update.width == norm.width(), "widths to norm");
        let (rows, stride) = (hidden.num_rows, hidden.stride);
        assert!(hidden.forms().wide, "a residual stream in f32");
        let wide = (hidden.wide_mut(), stride);
        if update.forms().wide {
            let update = (update.wide(), update.stride);
            Self::add_norm(self.kernels.add_norm, wide, update, rows, norm);
        } else {
            let update = (update.half(), update.stride);
            Self::add_norm(self.narrow.add_norm, wide, update, rows, norm);
        }
        self.encode(hidden);
    }

    fn pool(&self, hidden: &Rows, batch: &Packed, pooling: Pooling, out: &mut Rows) {
        assert_eq!(hidden.width, out.width, "columns to pool");
        out.set_rows(batch.num_sequences());
        for (i, bounds) in batch.cu_seqlens.windows(2).enumerate() {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            let pooled = out.row_mut(i);
            pooled.copy_from_slice(hidden.row(first));
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
