//! Keys and queries as bytes, so that a score is a product of integers.
//!
//! A column of keys is coded by its own range, from zero at the middle, and its scale goes over to the queries, which
//! are coded row by row. What all keys of a column have in common adds the same to all scores of a query, and softmax
//! takes that away again (Zhang et al., SageAttention, 2024, subtract the mean for this reason).

use super::vectors::ROWS;
use super::weights::{ByRow, QUADS, reduce};
use super::work::Work;
use super::{AttentionArgs, BLOCK};
use crate::engine::Window;
use crate::engine::cpu::avx512::{self, Avx512};
use crate::engine::cpu::narrow::{STEP_BYTES, TILE_BYTES, TILE_ROWS};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// Bytes of a packed tile: as many dwords of a key as [`BLOCK`] columns have, by 16 keys.
pub(super) const CODE_TILE_BYTES: usize = TILE_BYTES / 2;
/// Sums of codes are whole numbers that f32 has: `255 * 127 * 256 < 2^23`.
const MAX_DIM: usize = 256;
/// Fewer gain less than it takes to code the keys.
const MIN_QUERIES: usize = 64;

/// Largest and smallest codes' distance from the middle one.
const SPAN: f32 = 127.0;
const MIDDLE: f32 = 128.0;
/// The least scale of a query, so that [`super::rows::NO_KEY`] is below any score after it, too. Queries of zeros have it.
const LEAST: f32 = 1e-20;

/// The even columns of 32, and the odd ones.
type Columns = [__m512; 2];

/// How keys of a head are coded.
struct Range {
    factor: Columns,
    offset: Columns,
}

/// Whether scores are made of bytes. Codes depend on all keys of a sequence, so each query must see all of them.
pub(super) fn pays(args: &AttentionArgs) -> bool {
    let sees_all = args.window == Window::ALL && args.trunk_len == 0;
    let is_large = args.num_queries >= MIN_QUERIES && args.head_dim <= MAX_DIM;
    args.int8 && sees_all && args.softcap.is_none() && is_large
}

/// Codes one head's keys, and writes the scales of their columns.
///
/// # Safety
/// As for [`super::vectors::attention`]; it [`pays`]. So for all here.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
pub(super) unsafe fn keys(args: &AttentionArgs, head: usize, work: &Work) {
    let steps = work.dim() / BLOCK;
    // SAFETY: keys begin after all heads' queries in each row; masked loads read inside a head.
    unsafe {
        for step in 0..steps {
            let column = (args.num_heads + head) * args.head_dim + step * BLOCK;
            let mask = columns_of(args, step);
            let range = range(args, column, mask, work.scales().add(step * BLOCK));
            for first in (0..work.len()).step_by(BLOCK) {
                // The first 16 keys in lower halves, the others in upper ones.
                let mut rows = [_mm512_setzero_si512(); TILE_ROWS];
                for (i, row) in rows.iter_mut().enumerate() {
                    let mut halves = [_mm256_setzero_si256(); 2];
                    for (half, key) in halves.iter_mut().zip([first + i, first + i + TILE_ROWS]) {
                        if key < args.len {
                            let x = load(args.row(key).add(column), mask);
                            *half = codes(code_key(x, &range));
                        }
                    }
                    *row = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(halves[0]), halves[1]);
                }
                let tiles = work.keys().add(first / TILE_ROWS * steps * CODE_TILE_BYTES);
                for (i, dwords) in avx512::transpose(rows).into_iter().enumerate() {
                    let (half, line) = (i / (TILE_ROWS / 2), i % (TILE_ROWS / 2));
                    let tile = tiles.add((half * steps + step) * CODE_TILE_BYTES);
                    _mm512_storeu_si512(tile.add(line * STEP_BYTES).cast(), dwords);
                }
            }
        }
    }
}

/// Codes a group of queries from `query` on, `[ROWS][dim]` bytes, and returns their scales as [`reduce`] leaves them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx512bf16")]
pub(super) unsafe fn queries(
    args: &AttentionArgs,
    query: *const u16,
    work: &Work,
) -> [__m512; QUADS] {
    let dim = work.dim();
    // SAFETY: rows of a block; masked loads read inside a head.
    unsafe {
        let scaled = |row: usize, step: usize| {
            let numbers = query.add(row * args.qkv_stride + step * BLOCK);
            let x = load(numbers, columns_of(args, step));
            let scales = work.scales().add(step * BLOCK);
            [S::mul(x[0], S::load(scales)), S::mul(x[1], S::load(scales.add(LANES)))]
        };
        let mut most = [S::splat(0.0); ROWS];
        for (row, most) in most.iter_mut().enumerate() {
            for step in 0..dim / BLOCK {
                for x in scaled(row, step) {
                    *most = larger(*most, S::abs(x));
                }
            }
        }
        let mut scales = reduce(most, |a, b| larger(a, b));
        let mut factors = scales;
        for (scale, factor) in scales.iter_mut().zip(&mut factors) {
            // In this order, so that a NaN stays one.
            *scale = _mm512_max_ps(S::splat(LEAST), S::mul(*scale, S::splat(1.0 / SPAN)));
            *factor = S::div(S::splat(1.0), *scale);
        }
        let factors = ByRow::new(factors);
        for row in 0..ROWS {
            let factor = S::splat(factors.of(row));
            for step in 0..dim / BLOCK {
                let [even, odd] = scaled(row, step);
                let even = _mm512_cvtps_epi32(S::mul(even, factor));
                let odd = _mm512_cvtps_epi32(S::mul(odd, factor));
                let to = work.codes().add(row * dim + step * BLOCK);
                _mm256_storeu_si256(to.cast(), codes([even, odd]));
            }
        }
        scales
    }
}

/// Of numbers without a sign, compared as integers, of which one that is no number is the largest.
#[inline(always)]
unsafe fn larger(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller's CPU has AVX-512.
    unsafe {
        let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
        _mm512_castsi512_ps(_mm512_max_epu32(a, b))
    }
}

/// Those of a step that the head has.
#[inline(always)]
fn columns_of(args: &AttentionArgs, step: usize) -> __mmask32 {
    (1u64 << BLOCK.min(args.head_dim - step * BLOCK)).wrapping_sub(1) as __mmask32
}

/// The range of all keys in 32 columns; the scale of each is written, `[even, odd]`.
#[inline(always)]
unsafe fn range(args: &AttentionArgs, column: usize, mask: __mmask32, scales: *mut f32) -> Range {
    // SAFETY: the caller's promise.
    unsafe {
        let first = load(args.row(0).add(column), mask);
        let (mut low, mut high) = (first, first);
        for key in 1..args.len {
            let x = load(args.row(key).add(column), mask);
            for i in 0..2 {
                (low[i], high[i]) = (S::min(low[i], x[i]), S::max(high[i], x[i]));
            }
        }
        let mut range = Range { factor: low, offset: low };
        let mut scale = low;
        for i in 0..2 {
            let (low, high) = (S::mul(low[i], S::splat(0.5)), S::mul(high[i], S::splat(0.5)));
            let half = S::sub(high, low);
            // Of a column that is the same in all keys every code is the middle one.
            let varies = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(half, S::splat(LEAST));
            range.factor[i] = _mm512_maskz_div_ps(varies, S::splat(SPAN), half);
            let middle = S::mul(S::add(low, high), range.factor[i]);
            range.offset[i] = S::sub(S::splat(MIDDLE), middle);
            scale[i] = S::mul(half, S::splat(1.0 / SPAN));
        }
        store(scale, scales);
        range
    }
}

#[inline(always)]
unsafe fn code_key(x: Columns, Range { factor, offset }: &Range) -> [__m512i; 2] {
    // SAFETY: the caller's CPU has AVX-512.
    unsafe {
        let even = _mm512_cvtps_epi32(S::fma(x[0], factor[0], offset[0]));
        [even, _mm512_cvtps_epi32(S::fma(x[1], factor[1], offset[1]))]
    }
}

/// Bytes in the order of columns.
#[inline(always)]
unsafe fn codes([even, odd]: [__m512i; 2]) -> __m256i {
    // `a & c | b`
    const JOIN: i32 = 0xec;
    // SAFETY: the caller's CPU has AVX-512.
    unsafe {
        let odd = _mm512_slli_epi32::<8>(odd);
        _mm512_cvtepi32_epi16(_mm512_ternarylogic_epi32::<JOIN>(even, odd, _mm512_set1_epi32(0xff)))
    }
}

/// Widens 32 bf16 of which `mask` may be read, zeros for the others.
#[inline(always)]
unsafe fn load(numbers: *const u16, mask: __mmask32) -> Columns {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = _mm512_maskz_loadu_epi16(mask, numbers.cast());
        let even = _mm512_slli_epi32::<16>(pairs);
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(!0xffff));
        [_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd)]
    }
}

#[inline(always)]
unsafe fn store(columns: Columns, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        S::store(to, columns[0]);
        S::store(to.add(LANES), columns[1]);
    }
}
