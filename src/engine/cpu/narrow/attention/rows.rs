//! Rows of scores, sums and outputs in vectors, as every kernel of AVX-512 has them.

use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// Stands where no key is: it has no weight.
pub(in crate::engine::cpu::narrow) const NO_KEY: f32 = -1e30;

/// Rows that are reduced together, each to a quarter of a vector: one alone would be waited for.
pub(in crate::engine::cpu::narrow) const QUAD: usize = 4;

/// The rows' numbers folded to one each, in a quarter of the vector each.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
pub(in crate::engine::cpu::narrow) unsafe fn reduce(
    rows: [__m512; QUAD],
    with: impl Fn(__m512, __m512) -> __m512,
) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let halves =
            |a, b| with(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let (a, b) = (halves(rows[0], rows[1]), halves(rows[2], rows[3]));
        let x = with(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let x = with(x, _mm512_permute_ps::<0x4e>(x));
        with(x, _mm512_permute_ps::<0xb1>(x))
    }
}

/// Writes so many `columns` of a row, at most 32.
///
/// # Safety
/// As for [`reduce`]; `out` has so many floats.
#[inline(always)]
pub(in crate::engine::cpu::narrow) unsafe fn store(x: [__m512; 2], out: *mut f32, columns: usize) {
    for (i, x) in x.into_iter().enumerate() {
        let part = columns.saturating_sub(i * LANES);
        // SAFETY: the caller's promise.
        unsafe {
            let out = out.wrapping_add(i * LANES);
            if part >= LANES {
                S::store(out, x);
            } else if part > 0 {
                S::store_part(out, part, x);
            }
        }
    }
}
