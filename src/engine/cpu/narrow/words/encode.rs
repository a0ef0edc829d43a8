//! The codes of rows.

use super::{STEP, scale_of};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::narrow::lanes::Lanes;
use crate::engine::cpu::narrow::{Code, EncodeArgs, Source};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;

/// Rows whose codes are chosen before the first is written: that of one alone would wait for its size.
const ROWS: usize = 4;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn encode(args: &EncodeArgs, to: *mut i16, codes: *mut Code) {
    // SAFETY: the caller's promise.
    unsafe {
        match args.from {
            Source::F32(from) => encode_rows::<false>(args, from.cast(), to, codes),
            Source::Bf16(from) => encode_rows::<true>(args, from.cast(), to, codes),
        }
    }
}

/// Rows of f32, or `BF16`.
///
/// # Safety
/// As for [`encode`]; the rows and their codes are as long as `width` rounded up to a step of k, zeros after `width`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn encode_rows<const BF16: bool>(
    args: &EncodeArgs,
    from: *const u8,
    to: *mut i16,
    codes: *mut Code,
) {
    let row_bytes = args.from_stride * if BF16 { 2 } else { 4 };
    let mut scales = [0.0; ROWS];
    for first in (0..args.rows).step_by(ROWS) {
        let rows = first..args.rows.min(first + ROWS);
        // SAFETY: rows below `args.rows`.
        unsafe {
            for row in rows.clone() {
                let (largest, squares) = size::<BF16>(from.add(row * row_bytes), args.width);
                scales[row - first] = scale_of(largest, squares, args.width);
            }
            for row in rows {
                let scale = scales[row - first];
                let inverse = S::splat(if scale == 0.0 { 0.0 } else { 1.0 / scale });
                let (from, to) = (from.add(row * row_bytes), to.add(row * args.to_stride));
                let pairs = write_codes::<BF16>(from, args.width, inverse, to);
                *codes.add(row) = Code { scale, zero: 0.0, pairs };
            }
        }
    }
}

/// The largest absolute number of a row, and the sum of its squares.
///
/// As integers, positive floats are ordered as they are, and NaN lie beyond the infinities.
///
/// # Safety
/// As for [`encode_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn size<const BF16: bool>(row: *const u8, width: usize) -> (f32, f32) {
    let bytes = width * if BF16 { 2 } else { 4 };
    // Two side by side, or each would wait for its last result.
    let (mut most, mut squares) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_ps(); 2]);
    for i in (0..bytes).step_by(128) {
        for (j, (most, squares)) in most.iter_mut().zip(&mut squares).enumerate() {
            // SAFETY: the caller's promise; rows are padded to an even number of vectors.
            unsafe {
                let x = _mm512_loadu_si512(row.add(i + 64 * j).cast());
                if BF16 {
                    let x = _mm512_and_si512(x, _mm512_set1_epi16(0x7fff));
                    *most = _mm512_max_epu16(*most, x);
                    let x: __m512bh = std::mem::transmute(x);
                    *squares = _mm512_dpbf16_ps(*squares, x, x);
                } else {
                    let x = _mm512_and_si512(x, _mm512_set1_epi32(0x7fff_ffff));
                    *most = _mm512_max_epu32(*most, x);
                    let x = _mm512_castsi512_ps(x);
                    *squares = _mm512_fmadd_ps(x, x, *squares);
                }
            }
        }
    }
    // SAFETY: the CPU has the instruction set.
    unsafe {
        let most = if BF16 {
            S::largest::<true>(_mm512_max_epu16(most[0], most[1]))
        } else {
            S::largest::<false>(_mm512_max_epu32(most[0], most[1]))
        };
        (f32::from_bits(most), _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])))
    }
}

/// Writes a row's codes, and returns the sum of the products of its pairs.
///
/// # Safety
/// As for [`encode_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
unsafe fn write_codes<const BF16: bool>(
    row: *const u8,
    width: usize,
    inverse: __m512,
    out: *mut i16,
) -> i32 {
    /// The first dword of each step, in three vectors, which are sixteen steps.
    const FIRSTS: [u16; STEP] = [0x9249, 0x4924, 0x2492];
    let vectors = width.div_ceil(2 * S::LANES);
    // SAFETY: the caller's promise.
    unsafe {
        let (mut pairs, mut before) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for first in (0..vectors).step_by(STEP) {
            for j in 0..STEP.min(vectors - first) {
                let i = 2 * (first + j) * S::LANES;
                let codes = if BF16 {
                    let [even, odd] = S::load_bf16_pairs(row.cast::<u16>().add(i).cast())
                        .map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
                    _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_slli_epi32::<16>(odd))
                } else {
                    let row = row.cast::<f32>().add(i);
                    let [a, b] = [S::load(row), S::load(row.add(S::LANES))]
                        .map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
                    // Each quarter has four words of each vector.
                    let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
                    _mm512_permutexvar_epi64(order, _mm512_packs_epi32(a, b))
                };
                _mm512_storeu_si512(out.add(i).cast(), codes);
                // Those of the vector before, whose last dword may be paired with the first one here.
                let seconds = _mm512_alignr_epi32::<1>(codes, before);
                let firsts = FIRSTS[(j + STEP - 1) % STEP];
                pairs = _mm512_mask_dpwssd_epi32(pairs, firsts, before, seconds);
                before = codes;
            }
        }
        // Two dwords after the last whole step are no pair; one has nothing beside it.
        let in_steps = if vectors * S::LANES % STEP == 2 { 0x3fff } else { 0xffff };
        let firsts = FIRSTS[(vectors + STEP - 1) % STEP] & in_steps;
        let seconds = _mm512_alignr_epi32::<1>(_mm512_setzero_si512(), before);
        _mm512_reduce_add_epi32(_mm512_mask_dpwssd_epi32(pairs, firsts, before, seconds))
    }
}
