//! The CPU backend: f32 kernels for the instruction set that the machine has.
//!
//! Safe code reaches the kernels only through [`Cpu`], which checks the lengths of all that it hands down.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod gemm;
mod isa;
mod kernels;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod portable;
mod rows;
mod simd;
mod weight;

pub use isa::Isa;
pub use rows::Rows;
pub use weight::{Embeddings, Linear, Norm};

use super::packed::Packed;
use super::{Backend, EmbeddingsInit, Epilogue, LinearInit, NormInit, Pooling, Queries};
use crate::error::DeviceError;
use buffer::Buffer;
use kernels::{AttentionArgs, AttentionSizes, Kernels, LinearArgs, NormArgs, Workspace};

/// The kernels of one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    kernels: &'static Kernels,
}

/// Attention's workspace, sized for the longest sequence.
#[derive(Debug)]
pub struct Scratch {
    max_length: usize,
    head_dim: usize,
    data: Buffer,
}

impl Cpu {
    /// The fastest instruction set of this machine.
    pub fn new() -> Self {
        Self::with_isa(Isa::detect()).unwrap_or(Self { kernels: &portable::KERNELS })
    }

    /// A given instruction set; `None` if this machine has not got it.
    pub fn with_isa(isa: Isa) -> Option<Self> {
        isa.kernels().map(|kernels| Self { kernels })
    }

    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// `hidden = norm(hidden + update)` for `rows` rows, `strides` apart.
    fn add_norm(
        &self,
        hidden: (&mut [f32], usize),
        update: (&[f32], usize),
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
        unsafe { (self.kernels.add_norm)(&args) };
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
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
        Ok(Linear::pack(init, self.kernels.panel))
    }

    fn prepare_norm(&self, init: &NormInit<'_>) -> Result<Norm, DeviceError> {
        Ok(Norm::new(init))
    }

    fn prepare_embeddings(&self, init: EmbeddingsInit) -> Result<Embeddings, DeviceError> {
        Ok(Embeddings::new(init))
    }

    fn rows(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        Ok(Rows::new(max_rows, width))
    }

    fn logits(&self, max_rows: usize, width: usize) -> Result<Rows, DeviceError> {
        self.rows(max_rows, width)
    }

    fn scratch(&self, max_length: usize, head_dim: usize) -> Result<Scratch, DeviceError> {
        let sizes = AttentionSizes::new(self.kernels, max_length, head_dim);
        let floats = sizes.keys + sizes.values + sizes.scores + sizes.tile + self.kernels.panel;
        Ok(Scratch { max_length, head_dim, data: Buffer::zeroed(floats) })
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
            self.add_norm((row, width), (position, width), 1, norm);
        }
    }

    fn linear(&self, x: &Rows, w: &Linear, epilogue: Epilogue, out: &mut Rows) {
        assert_eq!(x.width, w.k, "columns to multiply");
        assert_eq!(out.width, w.n, "columns to write");
        assert!(out.stride >= w.num_panels * self.kernels.panel, "room for whole panels");
        assert_eq!(w.panel, self.kernels.panel, "a weight packed for these kernels");
        out.set_rows(x.num_rows);
        let args = LinearArgs {
            x: x.data().as_ptr(),
            x_stride: x.stride,
            rows: x.num_rows,
            k: w.k,
            panels: w.panels.as_ptr(),
            num_panels: w.num_panels,
            bias: w.bias.as_ptr(),
            epilogue,
            out_stride: out.stride,
            out: out.data_mut().as_mut_ptr(),
        };
        // SAFETY: `with_isa` asked the CPU; the sizes were compared above, `Linear::pack` made
        // `num_panels` whole panels and their bias, and `out` is borrowed alone.
        unsafe { (self.kernels.linear)(&args) };
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
        let head_dim = scratch.head_dim;
        assert_eq!(qkv.width, 3 * num_heads * head_dim, "query, key and value side by side");
        assert_eq!(out.width, num_heads * head_dim, "columns of all heads");
        out.set_rows(match queries {
            Queries::All => qkv.num_rows,
            Queries::First => batch.num_sequences(),
        });
        for (i, bounds) in batch.cu_seqlens.windows(2).enumerate() {
            let (first, end) = (bounds[0] as usize, bounds[1] as usize);
            assert!(first < end && end <= qkv.num_rows, "rows of a sequence");
            let len = end - first;
            assert!(len <= scratch.max_length, "a sequence longer than the workspace");
            let (num_queries, out_row) = match queries {
                Queries::All => (len, first),
                Queries::First => (1, i),
            };
            let out_stride = out.stride;
            let args = AttentionArgs {
                // SAFETY: `first` is a row of `qkv`.
                qkv: unsafe { qkv.data().as_ptr().add(first * qkv.stride) },
                qkv_stride: qkv.stride,
                len,
                num_queries,
                num_heads,
                head_dim,
                // SAFETY: `out_row` is a row of `out`, sized above.
                out: unsafe { out.data_mut().as_mut_ptr().add(out_row * out_stride) },
                out_stride,
                work: scratch.split(self.kernels, len),
            };
            // SAFETY: `with_isa` asked the CPU; rows and widths were compared above, `split` gave parts
            // of the sizes that `len` needs, and `out` and the scratch are borrowed alone.
            unsafe { (self.kernels.attention)(&args) };
        }
    }

    fn residual_norm(&self, hidden: &mut Rows, update: &Rows, norm: &Norm) {
        assert_eq!(hidden.num_rows, update.num_rows, "rows to add");
        assert!(hidden.width == norm.width() && update.width == norm.width(), "widths to norm");
        let (rows, stride) = (hidden.num_rows, hidden.stride);
        self.add_norm((hidden.data_mut(), stride), (update.data(), update.stride), rows, norm);
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
            out.copy_from_slice(rows.row(i));
        }
        Ok(())
    }
}

// === impl Scratch ===

impl Scratch {
    /// The workspace of a sequence of `len <= max_length` tokens.
    fn split(&mut self, kernels: &Kernels, len: usize) -> Workspace {
        let sizes = AttentionSizes::new(kernels, len, self.head_dim);
        let (zeros, rest) = self.data.split_at_mut(kernels.panel);
        let (keys, rest) = rest.split_at_mut(sizes.keys);
        let (values, rest) = rest.split_at_mut(sizes.values);
        let (scores, rest) = rest.split_at_mut(sizes.scores);
        let (tile, _) = rest.split_at_mut(sizes.tile);
        Workspace {
            keys: keys.as_mut_ptr(),
            values: values.as_mut_ptr(),
            scores: scores.as_mut_ptr(),
            tile: tile.as_mut_ptr(),
            zeros: zeros.as_ptr(),
        }
    }
}
