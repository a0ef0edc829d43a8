//! Softmax attention of one sequence, head by head, on the micro-kernel of the matrix product.
//!
//! Per head the keys are transposed into panels and the values copied into panels; then each tile of
//! queries makes its scores, their softmax and the weighted values while they are in the L1 cache.

use super::gemm::{Factors, tile_height, tile_of};
use super::kernels::{AttentionArgs, scores_stride};
use super::math;
use super::relative;
use super::simd::{MAX_LANES, Simd};
use std::ops::Range;

/// Stands where no key is: its weight is `2^-125` of the largest, lost in any sum.
const NO_KEY: f32 = -1e30;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory, the workspace has the sizes of
/// `AttentionSizes`, and nothing overlaps.
#[inline(always)]
pub(super) unsafe fn attention<S: Simd, const MR: usize, const NV: usize>(args: &AttentionArgs) {
    let group = args.num_heads / args.num_kv_heads;
    for head in 0..args.num_heads {
        // SAFETY: the caller's promise; `head` is in range.
        unsafe {
            if head.is_multiple_of(group) {
                pack_keys::<S>(args, head / group, NV * S::LANES);
                pack_values(args, head / group, NV * S::LANES);
            }
            if let Some(relative) = &args.relative {
                relative::score_keys::<S, MR, NV>(args, relative, head);
            }
            let (height, mut row) = (tile_height(args.num_queries, MR), 0);
            while row < args.num_queries {
                let rows = height.min(args.num_queries - row);
                tile_of_queries::<S, MR, NV>(args, head, row, rows);
                row += rows;
            }
        }
    }
}

/// # Safety
/// As for [`attention`]; `row + rows <= num_queries` and `rows <= MR`.
#[inline(always)]
unsafe fn tile_of_queries<S: Simd, const MR: usize, const NV: usize>(
    args: &AttentionArgs,
    head: usize,
    row: usize,
    rows: usize,
) {
    let (panel, len, dim) = (NV * S::LANES, args.len, args.head_dim);
    let (stride, width) = (scores_stride(len, panel), dim.next_multiple_of(panel));
    let work = &args.work;
    // Keys that some query of the tile sees, from a whole panel on: an edge that depends on the sequence alone.
    let (first, end) = (args.visible(row).start / panel * panel, args.visible(row + rows - 1).end);
    // SAFETY: offsets stay inside the sizes of `AttentionSizes` for this `len` and `dim`.
    unsafe {
        let query = args.qkv.add(row * args.qkv_stride + head * dim);
        for i in first / panel..end.div_ceil(panel) {
            let (keys, scores) = (work.keys.add(i * dim * panel), work.scores.add(i * panel));
            let factors = Factors::packed(dim, (query, args.qkv_stride), (keys, panel));
            tile_of::<S, MR, NV>(rows, factors, work.zeros, scores, stride);
        }
        if let Some(relative) = &args.relative {
            let scores = (work.scores, stride);
            relative::add::<S, MR, NV>(args, relative, head, (row, rows), scores);
        }
        let mut scale = [0f32; MR];
        for (i, scale) in scale.iter_mut().enumerate().take(rows) {
            let visible = args.visible(row + i);
            let visible = visible.start - first..visible.end - first;
            let scores = work.scores.add(i * stride + first);
            if let Some(cap) = args.softcap {
                math::softcap::<S>(scores, end - first, cap);
            }
            *scale = 1.0 / softmax::<S, NV>(scores, visible, end - first);
        }
        for i in 0..width / panel {
            let values = work.values.add((i * len + first) * panel);
            let (scores, tile) = (work.scores.add(first), work.tile.add(i * panel));
            let factors = Factors::packed(end - first, (scores, stride), (values, panel));
            tile_of::<S, MR, NV>(rows, factors, work.zeros, tile, width);
        }
        for (i, scale) in scale.iter().enumerate().take(rows) {
            let out = args.out.add((row + i) * args.out_stride + head * dim);
            store_scaled::<S>(work.tile.add(i * width), *scale, out, dim);
        }
    }
}

/// `out[..dim] = tile[..dim] * scale`
///
/// # Safety
/// `out` is valid for `dim` floats, `tile` for as many in whole vectors.
#[inline(always)]
unsafe fn store_scaled<S: Simd>(tile: *const f32, scale: f32, out: *mut f32, dim: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = S::splat(scale);
        for d in (0..dim).step_by(S::LANES) {
            let x = S::mul(S::load(tile.add(d)), scale);
            if dim - d < S::LANES {
                S::store_part(out.add(d), dim - d, x);
            } else {
                S::store(out.add(d), x);
            }
        }
    }
}

/// Replaces the scores of `visible` keys by `2^(score - max)`, those of others of the `len` by nothing,
/// and returns their sum.
///
/// # Safety
/// `scores` is valid for `len` floats rounded up to whole panels; `visible` is not empty and ends by `len`.
#[inline(always)]
unsafe fn softmax<S: Simd, const NV: usize>(
    scores: *mut f32,
    visible: Range<usize>,
    len: usize,
) -> f32 {
    let padded = len.next_multiple_of(NV * S::LANES);
    // SAFETY: below `padded`.
    unsafe {
        for i in (0..visible.start).chain(visible.end..padded) {
            *scores.add(i) = NO_KEY;
        }
        // A chain for each vector of a panel: one alone would wait for its latency.
        let mut max = [S::splat(NO_KEY); NV];
        for i in (0..padded).step_by(NV * S::LANES) {
            for (j, max) in max.iter_mut().enumerate() {
                *max = S::max(*max, S::load(scores.add(i + j * S::LANES)));
            }
        }
        let max = S::splat(S::reduce_max(fold(max, |a, b| S::max(a, b))));
        let mut sum = [S::splat(0.0); NV];
        for i in (0..padded).step_by(NV * S::LANES) {
            for (j, sum) in sum.iter_mut().enumerate() {
                let score = scores.add(i + j * S::LANES);
                let weight = math::exp2::<S>(S::sub(S::load(score), max));
                S::store(score, weight);
                *sum = S::add(*sum, weight);
            }
        }
        // Nothing at all, so that no key outside of what a query sees can change a bit.
        for i in (0..visible.start).chain(visible.end..len) {
            *scores.add(i) = 0.0;
        }
        S::reduce_add(fold(sum, |a, b| S::add(a, b)))
    }
}

#[inline(always)]
fn fold<V: Copy, const NV: usize>(vectors: [V; NV], with: impl Fn(V, V) -> V) -> V {
    vectors[1..].iter().fold(vectors[0], |folded, vector| with(folded, *vector))
}

/// Transposes one head's keys into panels of `[head_dim][panel]`, zeros after the last key.
///
/// # Safety
/// As for [`attention`].
#[inline(always)]
unsafe fn pack_keys<S: Simd>(args: &AttentionArgs, head: usize, panel: usize) {
    let (len, dim) = (args.len, args.head_dim);
    let column = (args.num_heads + head) * dim;
    // SAFETY: keys begin after all heads' queries in each row; `keys` holds whole panels, and `zeros` a vector.
    unsafe {
        for first in (0..len.next_multiple_of(panel)).step_by(S::LANES) {
            let out = args.work.keys.add(first / panel * panel * dim + first % panel);
            for d in (0..dim).step_by(S::LANES) {
                let mut keys = [args.work.zeros; MAX_LANES];
                for (t, key) in
                    keys.iter_mut().enumerate().take(S::LANES.min(len.saturating_sub(first)))
                {
                    *key = args.row(first + t).add(column + d);
                }
                let out = out.add(d * panel);
                if dim - d < S::LANES {
                    transpose_part::<S>(&keys, dim - d, out, panel);
                } else {
                    S::transpose(&keys, out, panel);
                }
            }
        }
    }
}

/// [`Simd::transpose`] of rows of `columns` floats.
///
/// # Safety
/// The rows are valid for `columns` floats, `out` for so many rows of `LANES` floats, `out_stride` apart.
#[inline(always)]
unsafe fn transpose_part<S: Simd>(
    rows: &[*const f32; MAX_LANES],
    columns: usize,
    out: *mut f32,
    out_stride: usize,
) {
    for (i, row) in rows[..S::LANES].iter().enumerate() {
        for d in 0..columns {
            // SAFETY: the caller's promise.
            unsafe { *out.add(d * out_stride + i) = *row.add(d) };
        }
    }
}

/// Copies one head's values into panels of `[len][panel]`, zeros after the last of its columns.
///
/// # Safety
/// As for [`attention`].
#[inline(always)]
unsafe fn pack_values(args: &AttentionArgs, head: usize, panel: usize) {
    let (len, dim) = (args.len, args.head_dim);
    // SAFETY: values begin after all heads' queries and keys in each row; `values` holds whole panels.
    unsafe {
        let column = (args.num_heads + args.num_kv_heads + head) * dim;
        for first in (0..dim).step_by(panel) {
            let columns = panel.min(dim - first);
            for t in 0..len {
                let value = args.row(t).add(column + first);
                let out = args.work.values.add(first * len + t * panel);
                std::ptr::copy_nonoverlapping(value, out, columns);
                out.add(columns).write_bytes(0, panel - columns);
            }
        }
    }
}
