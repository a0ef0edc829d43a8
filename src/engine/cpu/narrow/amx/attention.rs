//! Softmax attention of one sequence, head by head, on tiles of bf16.
//!
//! Per head the keys are transposed and the values paired into packed tiles; then each block of 32 queries
//! makes its scores, their softmax and the weighted values while they are in the first-level caches.

use super::{Operands, STEP_BYTES, TILE_BYTES, TILE_ROWS, Tiles, exchange, multiply, store_sums};
use crate::engine::Window;
use crate::engine::cpu::avx512;
use crate::engine::cpu::kernels::visible;
use crate::engine::cpu::math;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;
use std::ops::Range;

/// Queries of a block, and keys and columns of two tiles.
const BLOCK: usize = 32;
/// Stands where no key is: its weight is lost in any sum.
const NO_KEY: f32 = -1e30;
const LANES: usize = S::LANES;

type S = avx512::Avx512<true>;

/// All heads of one sequence.
#[derive(Debug)]
pub(in crate::engine::cpu) struct AttentionArgs {
    /// `[len, (num_heads + 2 * num_kv_heads) * head_dim]` bf16: queries, keys, values. Whole blocks of 32 rows, and 32 numbers
    /// after each row's last, may be read; they are finite.
    pub(in crate::engine::cpu) qkv: *const u16,
    pub(in crate::engine::cpu) qkv_stride: usize,
    /// Rows of the same kind that come before them, for keys and values alone.
    pub(in crate::engine::cpu) trunk: *const u16,
    pub(in crate::engine::cpu) trunk_len: usize,
    /// Of all keys, the trunk's included.
    pub(in crate::engine::cpu) len: usize,
    /// Queries are the first `num_queries` rows.
    pub(in crate::engine::cpu) num_queries: usize,
    pub(in crate::engine::cpu) num_heads: usize,
    pub(in crate::engine::cpu) num_kv_heads: usize,
    pub(in crate::engine::cpu) head_dim: usize,
    pub(in crate::engine::cpu) window: Window,
    pub(in crate::engine::cpu) softcap: Option<f32>,
    /// `[num_queries, num_heads * head_dim]`
    pub(in crate::engine::cpu) out: *mut f32,
    pub(in crate::engine::cpu) out_stride: usize,
    /// [`work_bytes`] of them, aligned to a cache line.
    pub(in crate::engine::cpu) work: *mut u8,
}

impl AttentionArgs {
    /// The keys that the query at `row` sees.
    fn visible(&self, row: usize) -> Range<usize> {
        visible(self.window, self.trunk_len + row, self.len)
    }

    /// The row of key `t`, whatever `t` is: of one that is not there, no column may be read.
    #[inline(always)]
    fn row(&self, t: usize) -> *const u16 {
        match t.checked_sub(self.trunk_len) {
            None => self.trunk.wrapping_add(t * self.qkv_stride),
            Some(own) => self.qkv.wrapping_add(own * self.qkv_stride),
        }
    }
}

/// Bytes of the workspace's parts for sequences of `len` tokens, each a multiple of a cache line.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// `[len / 16][dim / 32]` tiles of 16 dwords of a key by 16 keys.
    keys: usize,
    /// `[len / 32][dim / 16]` tiles of 16 pairs of keys by 16 columns.
    values: usize,
    /// `[32][scores_stride]` f32
    scores: usize,
    /// `[32][weights_stride]` bf16
    weights: usize,
    /// `[32][32]` f32
    tile: usize,
    len: usize,
    dim: usize,
}

impl Sizes {
    fn new(len: usize, head_dim: usize) -> Self {
        let (len, dim) = (len.next_multiple_of(BLOCK), head_dim.next_multiple_of(BLOCK));
        let mut sizes = Self {
            keys: 2 * len * dim,
            values: 2 * len * dim,
            scores: 0,
            weights: 0,
            tile: 0,
            len,
            dim,
        };
        sizes.scores = 4 * BLOCK * sizes.scores_stride();
        sizes.weights = 2 * BLOCK * sizes.weights_stride();
        sizes.tile = 4 * BLOCK * BLOCK;
        sizes
    }

    /// A line more than the length keeps rows out of one another's cache set.
    fn scores_stride(&self) -> usize {
        self.len + STEP_BYTES / 4
    }

    fn weights_stride(&self) -> usize {
        self.len + STEP_BYTES / 2
    }
}

/// Bytes that sequences of up to `len` tokens need.
pub(in crate::engine::cpu) fn work_bytes(len: usize, head_dim: usize) -> usize {
    let sizes = Sizes::new(len, head_dim);
    sizes.keys + sizes.values + sizes.scores + sizes.weights + sizes.tile
}

/// # Safety
/// AMX and AVX-512 with BF16 are available; `args` describes valid memory and nothing overlaps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(in crate::engine::cpu) unsafe fn attention(args: &AttentionArgs) {
    let sizes = Sizes::new(args.len, args.head_dim);
    // SAFETY: the parts lie one after another in the workspace; `head` is in range.
    unsafe {
        let keys = args.work;
        let values = keys.add(sizes.keys);
        let scores = values.add(sizes.values);
        let weights = scores.add(sizes.scores);
        let tile = weights.add(sizes.weights);
        let work = Work {
            keys,
            values,
            scores: scores.cast(),
            weights: weights.cast(),
            tile: tile.cast(),
            sizes,
        };
        let tiles = Tiles::configure();
        let group = args.num_heads / args.num_kv_heads;
        for head in 0..args.num_heads {
            if head.is_multiple_of(group) {
                pack_keys(args, head / group, &work);
                pack_values(args, head / group, &work);
            }
            for first in (0..args.num_queries).step_by(BLOCK) {
                block_of_queries(args, head, first, &work);
            }
        }
        drop(tiles);
    }
}

struct Work {
    keys: *mut u8,
    values: *mut u8,
    scores: *mut f32,
    weights: *mut u16,
    tile: *mut f32,
    sizes: Sizes,
}

/// # Safety
/// As for [`attention`]; `first` is below `num_queries`.
#[inline(always)]
unsafe fn block_of_queries(args: &AttentionArgs, head: usize, first: usize, work: &Work) {
    let dim = work.sizes.dim;
    let (scores_stride, weights_stride) = (work.sizes.scores_stride(), work.sizes.weights_stride());
    let rows = BLOCK.min(args.num_queries - first);
    // Whole tiles of the keys that some query of the block sees.
    let begin = args.visible(first).start / BLOCK * BLOCK;
    let end = args.visible(first + rows - 1).end.next_multiple_of(BLOCK);
    // SAFETY: offsets stay inside the workspace for this `len` and `dim`, and inside a block of queries.
    unsafe {
        let query = args.qkv.add(first * args.qkv_stride + head * args.head_dim).cast::<u8>();
        let row_bytes = 2 * args.qkv_stride;
        let steps = dim / BLOCK;
        for key in (begin..end).step_by(BLOCK) {
            // Each tile's scores are stored as the next one begins; the first stores what none will read.
            let before = work.scores.add(key.saturating_sub(BLOCK).max(begin)).cast();
            for step in 0..steps {
                let rows = query.add(step * STEP_BYTES);
                let keys = work.keys.add((key / TILE_ROWS * steps + step) * TILE_BYTES);
                let operands = Operands {
                    rows: [rows, rows.add(TILE_ROWS * row_bytes)],
                    row_bytes,
                    columns: [keys, keys.add(steps * TILE_BYTES)],
                    column_bytes: STEP_BYTES,
                };
                if step == 0 {
                    exchange::<false>(&operands, before, 4 * scores_stride);
                } else {
                    multiply::<false>(&operands);
                }
            }
        }
        store_sums(work.scores.add(end - BLOCK).cast(), 4 * scores_stride);
        let mut scale = [0f32; BLOCK];
        for (i, scale) in scale.iter_mut().enumerate().take(rows) {
            let scores = work.scores.add(i * scores_stride + begin);
            let weights = work.weights.add(i * weights_stride + begin);
            let seen = args.visible(first + i);
            if let Some(cap) = args.softcap {
                math::softcap::<S>(scores, end - begin, cap);
            }
            *scale =
                1.0 / softmax(scores, seen.start - begin..seen.end - begin, end - begin, weights);
        }
        for column in (0..dim).step_by(BLOCK) {
            for key in (begin..end).step_by(BLOCK) {
                let weights = work.weights.add(key).cast::<u8>();
                let values = work
                    .values
                    .add((key / BLOCK * (dim / TILE_ROWS) + column / TILE_ROWS) * TILE_BYTES);
                let operands = Operands {
                    rows: [weights, weights.add(TILE_ROWS * 2 * weights_stride)],
                    row_bytes: 2 * weights_stride,
                    columns: [values, values.add(TILE_BYTES)],
                    column_bytes: STEP_BYTES,
                };
                if key == begin {
                    exchange::<false>(&operands, work.tile.cast(), 4 * BLOCK);
                } else {
                    multiply::<false>(&operands);
                }
            }
            store_sums(work.tile.cast(), 4 * BLOCK);
            let columns = BLOCK.min(args.head_dim - column);
            for (i, scale) in scale.iter().enumerate().take(rows) {
                let at = (first + i) * args.out_stride + head * args.head_dim + column;
                store_scaled(work.tile.add(i * BLOCK), *scale, args.out.add(at), columns);
            }
        }
    }
}

/// # Safety
/// `tile` has 32 floats and `out` has `columns` of them, at most 32.
#[inline(always)]
unsafe fn store_scaled(tile: *const f32, scale: f32, out: *mut f32, columns: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = S::splat(scale);
        for i in (0..columns).step_by(LANES) {
            let x = S::mul(S::load(tile.add(i)), scale);
            if columns - i < LANES {
                S::store_part(out.add(i), columns - i, x);
            } else {
                S::store(out.add(i), x);
            }
        }
    }
}

/// `2^x` on [-1/2, 1/2] within 1.1e-4 of it (Chebyshev fit of degree 3), a twentieth of a step of bf16.
const EXP2: [f32; 4] = [0.999_924_6, 0.693_136_7, 0.242_639_5, 0.055_838_3];
/// Below this `2^x` counts as `2^EXP2_MIN`: no denormals.
const EXP2_MIN: f32 = -125.0;

#[inline(always)]
unsafe fn exp2(x: __m512) -> __m512 {
    // SAFETY: the caller's CPU has AVX-512.
    unsafe {
        let x = S::max(x, S::splat(EXP2_MIN));
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut y = S::splat(EXP2[3]);
        for c in EXP2[..3].iter().rev() {
            y = S::fma(y, r, S::splat(*c));
        }
        S::scale2(y, n)
    }
}

/// Writes `2^(score - max)` of the scores of `visible` keys as bf16 weights, nothing for the others up to
/// `padded`, and returns their sum.
///
/// # Safety
/// `scores` and `weights` are valid for `padded` numbers, a multiple of 32; `visible` is not empty and ends
/// by `padded`.
#[inline(always)]
unsafe fn softmax(
    scores: *mut f32,
    visible: Range<usize>,
    padded: usize,
    weights: *mut u16,
) -> f32 {
    // SAFETY: below `padded`.
    unsafe {
        for i in 0..visible.start {
            *scores.add(i) = NO_KEY;
        }
        let len = visible.end;
        // Of a causal block the first queries may see none of the last tiles.
        for i in len..padded.saturating_sub(BLOCK).max(len) {
            *scores.add(i) = NO_KEY;
        }
        if len < padded {
            let kept = len.saturating_sub(padded - BLOCK);
            let (last, beyond) = (scores.add(padded - BLOCK), !0u32 << kept);
            let no_key = S::splat(NO_KEY);
            _mm512_mask_storeu_ps(last, beyond as __mmask16, no_key);
            _mm512_mask_storeu_ps(last.add(LANES), (beyond >> LANES) as __mmask16, no_key);
        }
        let mut max = [S::splat(NO_KEY); 2];
        for i in (0..padded).step_by(BLOCK) {
            max[0] = S::max(max[0], S::load(scores.add(i)));
            max[1] = S::max(max[1], S::load(scores.add(i + LANES)));
        }
        let max = S::splat(S::reduce_max(S::max(max[0], max[1])));
        let mut sum = [S::splat(0.0); 2];
        for i in (0..padded).step_by(BLOCK) {
            let low = exp2(S::sub(S::load(scores.add(i)), max));
            let high = exp2(S::sub(S::load(scores.add(i + LANES)), max));
            sum = [S::add(sum[0], low), S::add(sum[1], high)];
            let pair = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(
                weights.add(i).cast(),
                std::mem::transmute::<__m512bh, __m512i>(pair),
            );
        }
        // Nothing at all, so that no key outside of what a query sees can change a bit.
        for i in (0..visible.start).chain(visible.end..padded) {
            *weights.add(i) = 0;
        }
        S::reduce_add(S::add(sum[0], sum[1]))
    }
}

/// Transposes one head's keys: tiles of 16 dwords of a key by 16 keys, zeros after the last key and after
/// `head_dim`.
///
/// # Safety
/// As for [`attention`].
#[inline(always)]
unsafe fn pack_keys(args: &AttentionArgs, head: usize, work: &Work) {
    let Sizes { len, dim, .. } = work.sizes;
    let steps = dim / BLOCK;
    // SAFETY: keys begin after all heads' queries in each row; masked loads read inside a head.
    unsafe {
        let column = (args.num_heads + head) * args.head_dim;
        for first in (0..len).step_by(TILE_ROWS) {
            for step in 0..steps {
                let columns = BLOCK.min(args.head_dim - step * BLOCK);
                let mask = (1u64 << columns).wrapping_sub(1) as __mmask32;
                let mut rows = [_mm512_setzero_si512(); TILE_ROWS];
                for (i, row) in rows.iter_mut().enumerate() {
                    if first + i < args.len {
                        let key = args.row(first + i).add(column + step * BLOCK);
                        *row = _mm512_maskz_loadu_epi16(mask, key.cast());
                    }
                }
                let tile = work.keys.add((first / TILE_ROWS * steps + step) * TILE_BYTES);
                for (i, column) in avx512::transpose(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(tile.add(i * STEP_BYTES).cast(), column);
                }
            }
        }
    }
}

/// Pairs one head's values: tiles of 16 pairs of keys by 16 columns, zeros after the last key and after
/// `head_dim`.
///
/// # Safety
/// As for [`attention`].
#[inline(always)]
unsafe fn pack_values(args: &AttentionArgs, head: usize, work: &Work) {
    let Sizes { len, dim, .. } = work.sizes;
    // SAFETY: values begin after all heads' queries and keys; masked loads read inside a head.
    unsafe {
        let values = (args.num_heads + args.num_kv_heads + head) * args.head_dim;
        for pair in 0..len / 2 {
            let tiles = work.values.add(pair / TILE_ROWS * (dim / TILE_ROWS) * TILE_BYTES);
            for column in (0..dim).step_by(TILE_ROWS) {
                let columns = TILE_ROWS.min(args.head_dim.saturating_sub(column));
                let mask = ((1u32 << columns) - 1) as __mmask16;
                let load = |key: usize| {
                    let mask = if key < args.len { mask } else { 0 };
                    let value = args.row(key).wrapping_add(values + column);
                    _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, value.cast()))
                };
                let (even, odd) = (load(2 * pair), load(2 * pair + 1));
                let dwords = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
                let tile = tiles.add(column / TILE_ROWS * TILE_BYTES);
                _mm512_storeu_si512(tile.add(pair % TILE_ROWS * STEP_BYTES).cast(), dwords);
            }
        }
    }
}
