//! The table of f32 kernels that each instruction set fills, and what they are called with.
//!
//! The arguments are raw: [`super::Cpu`] checks every length before it makes them.

use super::relative::RelativeArgs;
use crate::engine::{Epilogue, Gate, NormKind, Window};
use crate::matrix_format::Format;
use std::ops::Range;

/// The f32 kernels of one instruction set.
#[derive(Debug)]
pub(super) struct Kernels {
    /// Columns of a weight panel.
    pub(super) panel: usize,
    /// Rows of a tile.
    pub(super) tile_rows: usize,
    pub(super) linear: unsafe fn(&LinearArgs),
    /// The same from weights for products of pairs, where that is faster.
    pub(super) paired: Option<unsafe fn(&LinearArgs)>,
    pub(super) attention: unsafe fn(&AttentionArgs),
    pub(super) first: unsafe fn(&FirstArgs),
    pub(super) add_norm: unsafe fn(&NormArgs),
    pub(super) gate: unsafe fn(&GateArgs),
    pub(super) rotate: unsafe fn(&RotateArgs),
    pub(super) head_norm: unsafe fn(&HeadNormArgs),
    pub(super) max_sim: unsafe fn(&MaxSimArgs<'_>) -> bool,
}

/// `out[rows, panels * panel] = epilogue(x[rows, k] * weight + bias)`
#[derive(Debug)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86-64 has pairs"))]
pub(super) struct LinearArgs {
    pub(super) x: *const f32,
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    pub(super) k: usize,
    /// `[num_panels][k][panel]`
    pub(super) panels: *const f32,
    pub(super) num_panels: usize,
    /// `[num_panels * panel]`
    pub(super) bias: *const f32,
    /// For products of pairs `[num_panels * panel]` each, see `Paired`; else null.
    pub(super) scales: *const f32,
    pub(super) starts: *const f32,
    pub(super) epilogue: Epilogue,
    /// Whole panels are written: `out_stride >= num_panels * panel`.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// All heads of one sequence.
#[derive(Debug)]
pub(super) struct AttentionArgs {
    /// `[len, (num_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values.
    pub(super) qkv: *const f32,
    pub(super) qkv_stride: usize,
    /// Rows of the same kind that come before them, for keys and values alone.
    pub(super) trunk: *const f32,
    pub(super) trunk_len: usize,
    /// Of all keys, the trunk's included.
    pub(super) len: usize,
    /// Queries are the first `num_queries` rows.
    pub(super) num_queries: usize,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) window: Window,
    pub(super) softcap: Option<f32>,
    pub(super) relative: Option<RelativeArgs>,
    /// `[num_queries, num_heads * head_dim]`
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) work: Workspace,
}

impl AttentionArgs {
    /// The keys that the query at `row` sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        visible(self.window, self.trunk_len + row, self.len)
    }

    /// The row of key `t`.
    ///
    /// # Safety
    /// `args` describes valid memory, and `t` is below `len`.
    #[inline(always)]
    pub(super) unsafe fn row(&self, t: usize) -> *const f32 {
        // SAFETY: the trunk has `trunk_len` rows, and `qkv` the rest.
        unsafe {
            match t.checked_sub(self.trunk_len) {
                None => self.trunk.add(t * self.qkv_stride),
                Some(own) => self.qkv.add(own * self.qkv_stride),
            }
        }
    }
}

/// The keys that the query at `row` sees of `len`: one at least, the last where it asks from beyond its window.
pub(super) fn visible(window: Window, row: usize, len: usize) -> Range<usize> {
    row.saturating_sub(window.left).min(len - 1)..len.min(row + window.right + 1)
}

/// One query a head over the hidden rows of one sequence.
#[derive(Debug)]
pub(super) struct FirstArgs {
    /// `[len, columns]`, rows `stride` apart.
    pub(super) rows: *const f32,
    pub(super) stride: usize,
    pub(super) len: usize,
    /// Whole panels; what lies beyond the model's width is finite, and zero in the queries.
    pub(super) columns: usize,
    pub(super) num_heads: usize,
    /// `[num_heads, columns]`, rows `query_stride` apart.
    pub(super) queries: *const f32,
    pub(super) query_stride: usize,
    /// Room for `[columns, LANES]`.
    pub(super) panels: *mut f32,
    /// Room for `[len, num_heads]`, heads in whole vectors of the widest kind.
    pub(super) scores: *mut f32,
    /// A panel of zeros.
    pub(super) zeros: *const f32,
    /// `[num_heads, columns]`
    pub(super) out: *mut f32,
}

/// Parts of the attention scratch; see [`AttentionSizes`].
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) keys: *mut f32,
    pub(super) values: *mut f32,
    pub(super) scores: *mut f32,
    pub(super) tile: *mut f32,
    /// `[panel]` zeros, the bias of products that have none.
    pub(super) zeros: *const f32,
}

/// Floats that the attention of a sequence of `len` tokens needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttentionSizes {
    /// `[len / panel][head_dim][panel]`: keys transposed into panels, zeros after the last.
    pub(super) keys: usize,
    /// `[head_dim / panel][len][panel]`
    pub(super) values: usize,
    /// `[tile_rows, scores_stride]`
    pub(super) scores: usize,
    /// `[tile_rows, head_dim]` in whole panels.
    pub(super) tile: usize,
}

impl AttentionSizes {
    pub(super) fn new(kernels: &Kernels, len: usize, head_dim: usize) -> Self {
        let Kernels { panel, tile_rows, .. } = *kernels;
        let width = head_dim.next_multiple_of(panel);
        Self {
            keys: len.next_multiple_of(panel) * head_dim,
            values: width * len,
            scores: tile_rows * scores_stride(len, panel),
            tile: tile_rows * width,
        }
    }
}

/// A row of scores. The 16 more floats keep the rows of a tile out of one another's L1 set.
#[inline(always)]
pub(super) fn scores_stride(len: usize, panel: usize) -> usize {
    len.next_multiple_of(panel) + 16
}

/// `hidden += update` and `out = norm(hidden)`, row by row; `out` may be `hidden`, and a null update is none.
#[derive(Debug)]
pub(super) struct NormArgs<U = f32> {
    pub(super) kind: NormKind,
    pub(super) hidden: *mut f32,
    pub(super) hidden_stride: usize,
    pub(super) update: *const U,
    pub(super) update_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) gamma: *const f32,
    pub(super) beta: *const f32,
    pub(super) eps: f32,
}

/// `out = gate(x[..width]) * x[width..2 * width]`, row by row.
#[derive(Debug)]
pub(super) struct GateArgs<U = f32> {
    pub(super) gate: Gate,
    pub(super) x: *const U,
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// Rotates the first `num_heads` heads of each row in place.
#[derive(Debug)]
pub(super) struct RotateArgs<U = f32> {
    pub(super) rows: *mut U,
    pub(super) stride: usize,
    pub(super) num_rows: usize,
    pub(super) num_heads: usize,
    /// Half of a head, whole vectors.
    pub(super) half: usize,
    /// `[num_rows]`, each below the tables' rows.
    pub(super) positions: *const u32,
    /// `[max_positions, half]` each.
    pub(super) cosines: *const f32,
    pub(super) sines: *const f32,
}

/// RMS norms of `num_heads` heads of each row in place.
#[derive(Debug)]
pub(super) struct HeadNormArgs<U = f32> {
    /// The first of the heads in the first row.
    pub(super) heads: *mut U,
    pub(super) stride: usize,
    pub(super) num_rows: usize,
    pub(super) num_heads: usize,
    /// Whole vectors.
    pub(super) head_dim: usize,
    /// `[head_dim]`
    pub(super) gamma: *const f32,
    pub(super) eps: f32,
}

/// `best[document][i]` becomes the largest product of vector `i` of the panels with one of the document's; of a
/// document without vectors it stays as it is.
///
/// The kernel returns whether all products were finite: so they are only if all of the documents' numbers are.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxSimArgs<'a, N = f32> {
    pub(super) format: Format,
    pub(super) dim: usize,
    /// As many bytes each as the format has for the vectors below.
    pub(super) documents: &'a [&'a [u8]],
    /// Where each document ends, in vectors of all: never before the one in front of it.
    pub(super) ends: &'a [usize],
    /// Of f32 `[num_panels][dim][panel]`; of bf16 `[num_panels][dim / 2][panel]` pairs, `dim` in whole steps. One at
    /// least.
    pub(super) panels: &'a [N],
    pub(super) num_panels: usize,
    /// `[num_documents][num_panels * panel]`
    pub(super) best: *mut f32,
}

/// Entry functions that enable an instruction set around the generic kernels, and their table.
macro_rules! kernel_table {
    ($simd:ty, $features:literal, rows: $rows:literal, vectors: $vectors:literal) => {
        mod entry {
            use super::*;
            use crate::engine::cpu::kernels::{
                AttentionArgs, FirstArgs, GateArgs, HeadNormArgs, LinearArgs, MaxSimArgs, NormArgs,
                RotateArgs,
            };
            use crate::engine::cpu::max_sim::kernel;
            use crate::engine::cpu::{attention, first, gemm, norm, numbers, rowwise};

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn linear(args: &LinearArgs) {
                // SAFETY: as above.
                unsafe { gemm::linear::<$simd, $rows, $vectors>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn attention(args: &AttentionArgs) {
                // SAFETY: as above.
                unsafe { attention::attention::<$simd, $rows, $vectors>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn first(args: &FirstArgs) {
                // SAFETY: as above.
                unsafe { first::first::<$simd, $rows, $vectors>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn add_norm(args: &NormArgs) {
                // SAFETY: as above.
                unsafe { norm::add_norm::<$simd, numbers::F32>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn gate(args: &GateArgs) {
                // SAFETY: as above.
                unsafe { rowwise::gate::<$simd, numbers::F32>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn rotate(args: &RotateArgs) {
                // SAFETY: as above.
                unsafe { rowwise::rotate::<$simd, numbers::F32>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn head_norm(args: &HeadNormArgs) {
                // SAFETY: as above.
                unsafe { rowwise::head_norm::<$simd, numbers::F32>(args) }
            }

            // SAFETY: the caller vouches for the instruction set and for the arguments.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn max_sim(args: &MaxSimArgs<'_>) -> bool {
                // SAFETY: as above.
                unsafe { kernel::max_sim::<kernel::F32<$simd>, $rows, $vectors>(args) }
            }
        }

        pub(super) static KERNELS: super::kernels::Kernels = TABLE;

        const TABLE: super::kernels::Kernels = super::kernels::Kernels {
            panel: $vectors * <$simd as Simd>::LANES,
            tile_rows: $rows,
            linear: entry::linear,
            paired: None,
            attention: entry::attention,
            first: entry::first,
            add_norm: entry::add_norm,
            gate: entry::gate,
            rotate: entry::rotate,
            head_norm: entry::head_norm,
            max_sim: entry::max_sim,
        };
    };
}
pub(super) use kernel_table;
