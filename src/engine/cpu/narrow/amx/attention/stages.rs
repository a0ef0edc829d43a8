//! What is done between the products.

use super::state::State;
use super::work::{Block, Work};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::narrow::attention::rows::store;
use crate::engine::cpu::narrow::attention::{AttentionArgs, BLOCK, pack};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::__m512;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// Packs the keys and the values of a head before its first block of queries.
///
/// # Safety
/// As for [`super::attention`]; so for all here.
#[inline(always)]
pub(super) unsafe fn pack(args: &AttentionArgs, block: Block, work: &Work) {
    let is_first = block.first == 0 && block.has_first_keys();
    if is_first && block.head.is_multiple_of(args.group()) {
        let head = block.head / args.group();
        // SAFETY: the caller's promise.
        unsafe {
            pack::keys::<0>(args, head, work.keys());
            pack::values(args, head, work.values(block));
        }
    }
}

/// Adds a row's values by the weights of these keys, 32 columns from `column` on, to those of the keys before, and writes
/// them out after the last.
#[inline(always)]
pub(super) unsafe fn settle(
    args: &AttentionArgs,
    (block, row): (Block, usize),
    column: usize,
    mut sums: [__m512; 2],
    (work, state): (&Work, &State),
) {
    let at = (block.first + row) * args.out_stride + block.head * args.head_dim + column;
    // SAFETY: a row of the context, and of the output.
    unsafe {
        let context = work.context.add(row * work.sizes.dim + column);
        if !block.has_first_keys() {
            let factor = S::splat(state.factor(block.slot, row));
            let before = load(context);
            for (sum, before) in sums.iter_mut().zip(before) {
                *sum = S::fma(before, factor, *sum);
            }
        }
        if block.has_last_keys() {
            let scale = S::splat(state.scale(block.slot, row));
            let scaled = [S::mul(sums[0], scale), S::mul(sums[1], scale)];
            store(scaled, args.out.add(at), BLOCK.min(args.head_dim - column));
        } else {
            store(sums, context, BLOCK);
        }
    }
}

/// `row` has 32 floats.
#[inline(always)]
pub(super) unsafe fn load(row: *const f32) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe { [S::load(row), S::load(row.add(LANES))] }
}
