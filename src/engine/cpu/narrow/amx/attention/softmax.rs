//! The softmax of a few rows of scores side by side, from f32 to bf16 weights.

use super::state::{Part, ROWS, Rows, State};
use super::work::Block;
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::narrow::attention::rows::{NO_KEY, reduce};
use crate::engine::cpu::narrow::attention::{AttentionArgs, BLOCK};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;
use std::ops::Range;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// `2^x` on [0, 1] within 7.5e-5 of it (minimax fit of degree 3), a twentieth of a step of bf16.
const EXP2: [f32; 4] = [0.999_925_2, 0.695_833_5, 0.226_067_2, 0.078_024_5];

/// `vreduceps` leaves what lies above the whole number below x, and `vscalefps` takes that number from x itself.
#[inline(always)]
unsafe fn exp2(x: __m512) -> __m512 {
    const DOWN: i32 = 0x01;
    // SAFETY: the caller's CPU has AVX-512 with DQ.
    unsafe {
        let r = _mm512_reduce_ps::<DOWN>(x);
        let mut y = S::splat(EXP2[3]);
        for c in EXP2[..3].iter().rev() {
            y = S::fma(y, r, S::splat(*c));
        }
        _mm512_scalef_ps(y, x)
    }
}

/// The softmax of [`ROWS`] rows of a block from `row` on, whose scores and weights are given. Rows beyond the last are
/// computed and dropped.
#[inline(always)]
pub(super) unsafe fn weigh(
    args: &AttentionArgs,
    block: Block,
    row: usize,
    (scores, weights): (Part<f32>, Part<u16>),
    state: &mut State,
) {
    let Block { first, rows, begin, end, .. } = block;
    let visible = std::array::from_fn(|r| {
        let seen = args.visible(first + (row + r).min(rows - 1));
        seen.start.clamp(begin, end) - begin..seen.end.clamp(begin, end) - begin
    });
    // SAFETY: rows of the block.
    unsafe {
        if let Some(cap) = args.softcap {
            for r in 0..ROWS {
                math::softcap::<S>(scores.row(r), end - begin, cap);
            }
        }
        let rows = state.rows(row, block.has_first_keys());
        let (rows, factors) = softmax(scores, &visible, end - begin, weights, rows);
        state.set(row, block.slot, rows, factors);
    }
}

/// Writes `2^(score - max)` of the scores of each row's `visible` keys as bf16 weights, nothing for the others up to
/// `padded`; `max` is that of these keys and of those `before`. Returns the rows with these keys, and what turns weights
/// of the keys before into weights of the new maximum.
///
/// # Safety
/// Rows of `scores` and `weights` are valid for `padded` numbers, a multiple of 32, by which all of `visible` end.
#[inline(always)]
unsafe fn softmax(
    scores: Part<f32>,
    visible: &[Range<usize>; ROWS],
    padded: usize,
    weights: Part<u16>,
    before: Rows,
) -> (Rows, __m512) {
    // SAFETY: below `padded`.
    unsafe {
        for (r, visible) in visible.iter().enumerate() {
            hide(scores.row(r), visible, padded);
        }
        let mut maxima = [S::splat(NO_KEY); ROWS];
        for i in (0..padded).step_by(BLOCK) {
            for (r, max) in maxima.iter_mut().enumerate() {
                let score = scores.row(r).add(i);
                *max = S::max(*max, S::max(S::load(score), S::load(score.add(LANES))));
            }
        }
        let max = S::max(before.max, reduce(maxima, |a, b| S::max(a, b)));
        let maxima = [
            _mm512_shuffle_f32x4::<0x00>(max, max),
            _mm512_shuffle_f32x4::<0x55>(max, max),
            _mm512_shuffle_f32x4::<0xaa>(max, max),
            _mm512_shuffle_f32x4::<0xff>(max, max),
        ];
        let mut sums = [S::splat(0.0); ROWS];
        for i in (0..padded).step_by(BLOCK) {
            for (r, (sum, max)) in sums.iter_mut().zip(maxima).enumerate() {
                let score = scores.row(r).add(i);
                let low = exp2(S::sub(S::load(score), max));
                let high = exp2(S::sub(S::load(score.add(LANES)), max));
                *sum = S::add(*sum, S::add(low, high));
                let pair = _mm512_cvtne2ps_pbh(high, low);
                _mm512_storeu_si512(
                    weights.row(r).add(i).cast(),
                    std::mem::transmute::<__m512bh, __m512i>(pair),
                );
            }
        }
        for (r, visible) in visible.iter().enumerate() {
            drop_hidden(weights.row(r), visible, padded);
            if visible.is_empty() {
                sums[r] = S::splat(0.0);
            }
        }
        // Exactly one where the maximum stays, so that keys which none of a row's queries sees change no bit.
        let factors = math::exp2::<S>(S::sub(before.max, max));
        let sum = S::fma(before.sum, factors, reduce(sums, |a, b| S::add(a, b)));
        (Rows { max, sum }, factors)
    }
}

/// Puts [`NO_KEY`] where a row may not see.
///
/// # Safety
/// As for [`softmax`].
#[inline(always)]
unsafe fn hide(scores: *mut f32, visible: &Range<usize>, padded: usize) {
    let len = visible.end;
    // SAFETY: below `padded`.
    unsafe {
        for i in 0..visible.start {
            *scores.add(i) = NO_KEY;
        }
        // Of a causal block the first queries may see none of the last tiles.
        for i in len..padded.saturating_sub(BLOCK).max(len) {
            *scores.add(i) = NO_KEY;
        }
        if len < padded {
            let (last, beyond) = (scores.add(padded - BLOCK), beyond(len, padded));
            let no_key = S::splat(NO_KEY);
            _mm512_mask_storeu_ps(last, beyond as __mmask16, no_key);
            _mm512_mask_storeu_ps(last.add(LANES), (beyond >> LANES) as __mmask16, no_key);
        }
    }
}

/// Makes the weights of what a row may not see nothing at all, so that no key outside can change a bit.
///
/// # Safety
/// As for [`softmax`].
#[inline(always)]
unsafe fn drop_hidden(weights: *mut u16, visible: &Range<usize>, padded: usize) {
    let len = visible.end;
    // SAFETY: below `padded`.
    unsafe {
        for i in (0..visible.start).chain(len..padded.saturating_sub(BLOCK).max(len)) {
            *weights.add(i) = 0;
        }
        if len < padded {
            let last = weights.add(padded - BLOCK).cast();
            _mm512_mask_storeu_epi16(last, beyond(len, padded), _mm512_setzero_si512());
        }
    }
}

/// Which of the last 32 numbers below `padded` come after the first `len`.
fn beyond(len: usize, padded: usize) -> u32 {
    !0u32 << len.saturating_sub(padded - BLOCK)
}
