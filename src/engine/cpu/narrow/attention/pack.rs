//! Keys and values of a head as packed tiles.

use super::{AttentionArgs, BLOCK};
use crate::engine::cpu::avx512;
use crate::engine::cpu::narrow::{STEP_BYTES, TILE_BYTES, TILE_ROWS};
use std::arch::x86_64::*;
use std::ops::Range;

/// Brings what a head will read of `tokens` towards the core: rows are too far apart for the CPU to guess.
///
/// # Safety
/// AVX-512 is available; any address will do.
#[inline(always)]
pub(in crate::engine::cpu::narrow) unsafe fn fetch(
    args: &AttentionArgs,
    head: usize,
    tokens: Range<usize>,
) {
    let group = args.num_heads / args.num_kv_heads;
    let mut heads = [head, 0, 0];
    if head.is_multiple_of(group) {
        let key = args.num_heads + head / group;
        heads = [head, key, key + args.num_kv_heads];
    }
    for t in tokens {
        for head in heads {
            let numbers = args.qkv.wrapping_add(t * args.qkv_stride + head * args.head_dim);
            for at in (0..args.head_dim).step_by(STEP_BYTES / 2) {
                // SAFETY: a hint alone.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(numbers.wrapping_add(at).cast()) };
            }
        }
    }
}

/// Transposes one head's keys, times two to the power of `POWER`: tiles of 16 dwords of a key by 16 keys, zeros after the
/// last key and after `head_dim`.
///
/// # Safety
/// As for [`super::vectors::attention`]; `out` has room for them.
#[inline(always)]
pub(in crate::engine::cpu::narrow) unsafe fn keys<const POWER: u32>(
    args: &AttentionArgs,
    head: usize,
    out: *mut u8,
) {
    let (len, dim) = (args.len.next_multiple_of(BLOCK), args.head_dim.next_multiple_of(BLOCK));
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
                        *row = times_power::<POWER>(_mm512_maskz_loadu_epi16(mask, key.cast()));
                    }
                }
                let tile = out.add((first / TILE_ROWS * steps + step) * TILE_BYTES);
                for (i, column) in avx512::transpose(rows).into_iter().enumerate() {
                    _mm512_storeu_si512(tile.add(i * STEP_BYTES).cast(), column);
                }
            }
        }
    }
}

/// bf16 times two to the power of `POWER`: none is so large that it would not be a number.
///
/// # Safety
/// AVX-512 is available.
#[inline(always)]
unsafe fn times_power<const POWER: u32>(bf16: __m512i) -> __m512i {
    const MANTISSA_BITS: u32 = 7;
    if POWER == 0 {
        return bf16;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let has_bits = _mm512_test_epi16_mask(bf16, _mm512_set1_epi16(i16::MAX));
        let power = _mm512_set1_epi16((POWER << MANTISSA_BITS) as i16);
        _mm512_mask_add_epi16(bf16, has_bits, bf16, power)
    }
}

/// Pairs one head's values: tiles of 16 pairs of keys by 16 columns, zeros after the last key and after
/// `head_dim`.
///
/// # Safety
/// As for [`super::vectors::attention`]; `out` has room for them.
#[inline(always)]
pub(in crate::engine::cpu::narrow) unsafe fn values(
    args: &AttentionArgs,
    head: usize,
    out: *mut u8,
) {
    let (len, dim) = (args.len.next_multiple_of(BLOCK), args.head_dim.next_multiple_of(BLOCK));
    // SAFETY: values begin after all heads' queries and keys; masked loads read inside a head.
    unsafe {
        let values = (args.num_heads + args.num_kv_heads + head) * args.head_dim;
        for pair in 0..len / 2 {
            let tiles = out.add(pair / TILE_ROWS * (dim / TILE_ROWS) * TILE_BYTES);
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
