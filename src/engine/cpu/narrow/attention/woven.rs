//! The softmax of a group of queries in pieces, each to be taken between the lines of a product.
//!
//! Zen 4 issues a vector of 512 bits a cycle to the units that multiply, and beside it two of 256 bits to those that
//! add, round and convert, but not one of 512 more. So it is halves of vectors here.

use super::state::{EXP2, NO_KEY, Part, ROWS, Rows, State, reduce};
use super::{BLOCK, GROUP};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;
const QUADS: usize = GROUP / ROWS;

/// Keys of a quarter of a piece's row.
const KEYS: usize = 8;
/// Quarters of a row in a piece.
pub(super) const QUARTERS: usize = BLOCK / KEYS;

/// Below any score, and so far above [`NO_KEY`] that two to the power of the difference is zero: no key that a query may
/// not see has a weight, even if the query sees none at all.
const FLOOR: f32 = NO_KEY / 2.0;

/// The largest scores of a group's rows, lane by lane.
pub(super) type Maxima = [__m512; GROUP];

/// A group's softmax under way.
pub(super) struct Softmax {
    scores: Part<f32>,
    weights: Part<u16>,
    keys: usize,
    /// Maxima with these keys, and sums without them.
    rows: [Rows; QUADS],
    /// What turns weights of the keys before into weights of the new maximum.
    factors: [__m512; QUADS],
    /// As [`reduce`] leaves them.
    max: [[f32; LANES]; QUADS],
    sums: [__m256; GROUP],
    /// The next piece.
    key: usize,
    row: usize,
}

/// [`ROWS`] rows of [`BLOCK`] keys.
pub(super) struct Piece {
    scores: Part<f32>,
    weights: Part<u16>,
    max: *const f32,
    sums: *mut __m256,
}

/// A row of a piece.
pub(super) struct Row {
    scores: *const f32,
    weights: *mut u16,
    max: __m256,
    sum: __m256,
    sum_to: *mut __m256,
}

impl Softmax {
    /// Of no group: it has no pieces.
    ///
    /// # Safety
    /// The CPU has AVX-512 with BF16, DQ and VL; so for all here.
    #[inline(always)]
    pub(super) unsafe fn none() -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = S::splat(0.0);
            Self {
                scores: Part { start: std::ptr::null_mut(), stride: 0 },
                weights: Part { start: std::ptr::null_mut(), stride: 0 },
                keys: 0,
                rows: [Rows { max: zero, sum: zero }; QUADS],
                factors: [zero; QUADS],
                max: [[0.0; LANES]; QUADS],
                sums: [_mm256_setzero_ps(); GROUP],
                key: 0,
                row: 0,
            }
        }
    }

    /// Of a group with so many `keys`, a multiple of [`BLOCK`], and their largest scores; `before` are its rows with the
    /// keys before.
    ///
    /// # Safety
    /// Rows of scores and weights are valid until the last piece was taken.
    #[inline(always)]
    pub(super) unsafe fn new(
        (scores, weights): (Part<f32>, Part<u16>),
        keys: usize,
        maxima: &Maxima,
        before: [Rows; QUADS],
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let mut softmax = Self { scores, weights, keys, ..Self::none() };
            for (i, before) in before.into_iter().enumerate() {
                let maxima = std::array::from_fn(|r| maxima[i * ROWS + r]);
                let max = reduce(maxima, |a, b| S::max(a, b));
                let max = S::max(S::max(before.max, S::splat(FLOOR)), max);
                // Exactly one where the maximum stays, so that keys which none of a row's queries sees change no bit.
                softmax.factors[i] = math::exp2::<S>(S::sub(before.max, max));
                softmax.rows[i] = Rows { max, sum: S::mul(before.sum, softmax.factors[i]) };
                S::store(softmax.max[i].as_mut_ptr(), max);
            }
            softmax
        }
    }

    #[inline(always)]
    pub(super) unsafe fn next(&mut self) -> Option<Piece> {
        if self.key == self.keys {
            return None;
        }
        let (row, key) = (self.row, self.key);
        self.row += ROWS;
        if self.row == GROUP {
            (self.row, self.key) = (0, key + BLOCK);
        }
        // SAFETY: a row of the group, and a key below `keys`.
        unsafe {
            Some(Piece {
                scores: Part { start: self.scores.row(row).add(key), ..self.scores },
                weights: Part { start: self.weights.row(row).add(key), ..self.weights },
                max: self.max[row / ROWS].as_ptr(),
                sums: self.sums.as_mut_ptr().add(row),
            })
        }
    }

    /// Takes the pieces that are left, and notes the rows of the group, which begin at `row` of a block.
    #[inline(always)]
    pub(super) unsafe fn end(&mut self, row: usize, slot: usize, state: &mut State) {
        // SAFETY: the caller's promise.
        unsafe {
            while let Some(piece) = self.next() {
                for i in 0..ROWS {
                    let mut row = piece.row(i);
                    for quarter in 0..QUARTERS {
                        row.weigh(quarter);
                    }
                    row.end();
                }
            }
            for (i, rows) in self.rows.iter().enumerate() {
                let sums = std::array::from_fn(|r| _mm512_zextps256_ps512(self.sums[i * ROWS + r]));
                let sum = S::add(rows.sum, reduce(sums, |a, b| S::add(a, b)));
                state.set(row + i * ROWS, slot, Rows { max: rows.max, sum }, self.factors[i]);
            }
        }
    }
}

impl Piece {
    #[inline(always)]
    pub(super) unsafe fn row(&self, i: usize) -> Row {
        // SAFETY: a row of the piece.
        unsafe {
            Row {
                scores: self.scores.row(i),
                weights: self.weights.row(i),
                max: _mm256_broadcast_ss(&*self.max.add(i * (LANES / ROWS))),
                sum: *self.sums.add(i),
                sum_to: self.sums.add(i),
            }
        }
    }
}

impl Row {
    /// Writes `2^(score - max)` of a quarter of the keys as bf16 weights.
    #[inline(always)]
    pub(super) unsafe fn weigh(&mut self, quarter: usize) {
        // SAFETY: keys of the row.
        unsafe {
            let scores = _mm256_loadu_ps(self.scores.add(KEYS * quarter));
            let x = exp2(_mm256_sub_ps(scores, self.max));
            self.sum = _mm256_add_ps(self.sum, x);
            let narrow: __m128i = std::mem::transmute(_mm256_cvtneps_pbh(x));
            _mm_storeu_si128(self.weights.add(KEYS * quarter).cast(), narrow);
        }
    }

    #[inline(always)]
    pub(super) unsafe fn end(self) {
        // SAFETY: the row's place.
        unsafe { *self.sum_to = self.sum };
    }
}

/// `vreduceps` leaves what lies above the whole number below x, and `vscalefps` takes that number from x itself.
#[inline(always)]
unsafe fn exp2(x: __m256) -> __m256 {
    const DOWN: i32 = 0x01;
    // SAFETY: the caller's promise.
    unsafe {
        let r = _mm256_reduce_ps::<DOWN>(x);
        let mut y = _mm256_set1_ps(EXP2[3]);
        for c in EXP2[..3].iter().rev() {
            y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(*c));
        }
        _mm256_scalef_ps(y, x)
    }
}
