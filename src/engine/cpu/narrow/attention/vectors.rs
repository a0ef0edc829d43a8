//! Attention whose products are `vdpbf16ps`: a tile of rows by 32 keys or columns, all sums in registers.
//!
//! A few queries at a time go through all stages, so that scores and weights stay in the first-level cache beside the
//! keys and values.

use super::softmax::{Part, ROWS, State};
use super::stages::{pack, settle, store, weigh};
use super::{AttentionArgs, BLOCK, Block, Sizes, Work};
use crate::engine::cpu::narrow::{STEP_BYTES, TILE_BYTES, TILE_ROWS};
use std::arch::x86_64::*;

/// Rows of a tile: 16 sums wait for no product's latency, and a block is whole tiles.
const HEIGHT: usize = 8;

const _: () = assert!(BLOCK.is_multiple_of(HEIGHT) && HEIGHT.is_multiple_of(ROWS));

type Sums = [[__m512; 2]; HEIGHT];

/// # Safety
/// AVX-512 with BF16 and DQ is available; `args` describes valid memory and nothing overlaps.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(in crate::engine::cpu) unsafe fn attention(args: &AttentionArgs) {
    let mut state = State::default();
    let mut current = Some(Block::new(args, 0, 0, 0));
    // SAFETY: the caller's promise; blocks are made of heads, queries and keys that are there.
    unsafe {
        let work = Work::new(args.work, Sizes::new(args.len, args.head_dim));
        let scores = Part { start: work.scores(0), stride: work.sizes.scores_stride() };
        let weights = Part { start: work.weights(0), stride: work.sizes.weights_stride() };
        while let Some(block) = current {
            pack(args, block, &work);
            for row in (0..block.rows).step_by(HEIGHT) {
                score(args, block, row, scores, &work);
                for group in (0..HEIGHT).step_by(ROWS) {
                    let of_group = (scores.from(group), weights.from(group));
                    weigh(args, block, row + group, of_group, &mut state);
                }
                mix(args, block, row, weights, (&work, &state));
            }
            current = block.next(args);
        }
    }
}

/// Scores of [`HEIGHT`] queries of a block from `row` on; those beyond the last are of whatever rows come next.
///
/// # Safety
/// As for [`attention`]; the head's keys are packed.
#[inline(always)]
unsafe fn score(args: &AttentionArgs, block: Block, row: usize, scores: Part<f32>, work: &Work) {
    let (steps, row_bytes) = (work.sizes.dim / BLOCK, 2 * args.qkv_stride);
    // SAFETY: offsets stay inside the workspace, and inside a block of queries.
    unsafe {
        let query = args.qkv.add((block.first + row) * args.qkv_stride);
        let query = query.add(block.head * args.head_dim).cast::<u8>();
        for key in (block.begin..block.end).step_by(BLOCK) {
            let keys = work.keys().add(key / TILE_ROWS * steps * TILE_BYTES).cast_const();
            let mut sums = [[_mm512_setzero_ps(); 2]; HEIGHT];
            for step in 0..steps {
                let keys = keys.add(step * TILE_BYTES);
                let columns = [keys, keys.add(steps * TILE_BYTES)];
                multiply(query.add(step * STEP_BYTES), row_bytes, columns, &mut sums);
            }
            for (i, sums) in sums.into_iter().enumerate() {
                store(sums, scores.row(i).add(key - block.begin), BLOCK);
            }
        }
    }
}

/// Values by the weights of [`HEIGHT`] queries of a block from `row` on.
///
/// # Safety
/// As for [`attention`]; the head's values are packed.
#[inline(always)]
unsafe fn mix(
    args: &AttentionArgs,
    block: Block,
    row: usize,
    weights: Part<u16>,
    (work, state): (&Work, &State),
) {
    let dim = work.sizes.dim;
    // SAFETY: offsets stay inside the workspace; rows of the block.
    unsafe {
        for column in (0..dim).step_by(BLOCK) {
            let mut sums = [[_mm512_setzero_ps(); 2]; HEIGHT];
            for key in (block.begin..block.end).step_by(BLOCK) {
                let tile = key / BLOCK * (dim / TILE_ROWS) + column / TILE_ROWS;
                let values = work.values(block).add(tile * TILE_BYTES).cast_const();
                let weights_of = weights.start.add(key - block.begin).cast::<u8>();
                let columns = [values, values.add(TILE_BYTES)];
                multiply(weights_of, 2 * weights.stride, columns, &mut sums);
            }
            for (i, sums) in sums.into_iter().enumerate().take(block.rows - row) {
                settle(args, (block, row + i), column, sums, (work, state));
            }
        }
    }
}

/// Adds the products of [`HEIGHT`] rows, 64 bytes of each, with two packed tiles of columns.
///
/// # Safety
/// AVX-512 with BF16 is available; the rows and tiles are valid.
#[inline(always)]
unsafe fn multiply(rows: *const u8, row_bytes: usize, columns: [*const u8; 2], sums: &mut Sums) {
    for dword in 0..TILE_ROWS {
        // SAFETY: a line of each tile, a dword of each row.
        unsafe {
            let line = dword * STEP_BYTES;
            let low: __m512bh =
                std::mem::transmute(_mm512_loadu_si512(columns[0].add(line).cast()));
            let high: __m512bh =
                std::mem::transmute(_mm512_loadu_si512(columns[1].add(line).cast()));
            for (i, sums) in sums.iter_mut().enumerate() {
                let pair = rows.add(i * row_bytes + dword * 4).cast::<i32>().read_unaligned();
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                sums[0] = _mm512_dpbf16_ps(sums[0], pair, low);
                sums[1] = _mm512_dpbf16_ps(sums[1], pair, high);
            }
        }
    }
}
