//! The softmax of a group of queries in pieces, each to be taken between the lines of a product.
//!
//! Zen 4 issues one vector of 512 bits a cycle to the units that multiply, and has others that add and permute. So a weight
//! is made by as few multiplications as will do: one turns a score into the bits of `2^x` as bf16, but for what the
//! line through two powers of two is above the curve (Schraudolph, "A fast, compact approximation of the exponential
//! function", 1999), and a table of all 128 mantissas takes that away.

use super::state::{NO_KEY, Part, ROWS, Rows, State, reduce};
use super::{BLOCK, GROUP};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;
const QUADS: usize = GROUP / ROWS;

/// Of a power of two, in the mantissa of bf16.
const STEPS: f32 = 128.0;
/// A float whose lower half is zero, and whose neighbours are one apart: the lower half of what lies above it is that
/// many steps.
const ZERO: f32 = 12_582_912.0;
/// The lower half is one as bf16: its exponent, 127, and no mantissa.
const ONE: f32 = ZERO + 127.0 * STEPS;

/// Steps by which the line is above the curve, for every mantissa, rounded.
static ABOVE_CURVE: Line<u8, 128> = {
    /// `2^(1 / 128)`
    const ROOT: f64 = 1.005_429_901_112_802_8;
    let (mut above, mut power, mut i) = ([0; 128], 1.0, 0);
    while i < 128 {
        above[i] = (i as f64 - (power - 1.0) * STEPS as f64 + 0.5) as u8;
        power *= ROOT;
        i += 1;
    }
    Line(above)
};

/// Lower halves of one vector's floats, then of another's.
static LOWER_HALVES: Line<u16, 32> = {
    let (mut words, mut i) = ([0; 32], 0);
    while i < 32 {
        words[i] = 2 * i as u16;
        i += 1;
    }
    Line(words)
};

#[repr(C, align(64))]
struct Line<T, const N: usize>([T; N]);

/// Below any score, and so far above [`NO_KEY`] that two to the power of the difference is zero: no key that a query may
/// not see has a weight, even if the query sees none at all.
const FLOOR: f32 = NO_KEY / 2.0;

/// What a group's softmax must know of its scores.
#[derive(Clone, Copy)]
pub(super) struct OfScores {
    /// The largest of each row, lane by lane.
    pub(super) maxima: [__m512; GROUP],
    /// What a row's scores are multiples of, as [`reduce`] leaves them.
    pub(super) scales: [__m512; QUADS],
}

impl OfScores {
    /// # Safety
    /// The CPU has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn none() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { maxima: [S::splat(NO_KEY); GROUP], scales: [S::splat(1.0); QUADS] } }
    }
}

/// A group's softmax under way, of scores as they are or of multiples of a scale.
pub(super) struct Softmax<const SCALED: bool> {
    scores: Part<f32>,
    weights: Part<u16>,
    keys: usize,
    /// Maxima with these keys, and sums without them.
    rows: [Rows; QUADS],
    /// What turns weights of the keys before into weights of the new maximum.
    factors: [__m512; QUADS],
    /// In the scores' unit, as [`reduce`] leaves them.
    max: [[f32; LANES]; QUADS],
    /// Of a power of two for each one of a score.
    steps: [[f32; LANES]; QUADS],
    sums: [__m512; GROUP],
    /// The next piece.
    key: usize,
    row: usize,
}

/// [`ROWS`] rows of 32 keys.
pub(super) struct Piece<const SCALED: bool> {
    scores: Part<f32>,
    weights: Part<u16>,
    max: *const f32,
    steps: *const f32,
    sums: *mut __m512,
}

impl<const SCALED: bool> Softmax<SCALED> {
    /// Of no group: it has no pieces.
    ///
    /// # Safety
    /// The CPU has AVX-512 with BF16, DQ, VBMI and VL; so for all here.
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
                steps: [[STEPS; LANES]; QUADS],
                sums: [zero; GROUP],
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
        of_scores: &OfScores,
        before: [Rows; QUADS],
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let mut softmax = Self { scores, weights, keys, ..Self::none() };
            for (i, before) in before.into_iter().enumerate() {
                let maxima = std::array::from_fn(|r| of_scores.maxima[i * ROWS + r]);
                let scale = of_scores.scales[i];
                let mut max = reduce(maxima, |a, b| S::max(a, b));
                if SCALED {
                    max = S::mul(max, scale);
                }
                let max = S::max(S::max(before.max, S::splat(FLOOR)), max);
                // Exactly one where the maximum stays, so that keys which none of a row's queries sees change no bit.
                softmax.factors[i] = math::exp2::<S>(S::sub(before.max, max));
                softmax.rows[i] = Rows { max, sum: S::mul(before.sum, softmax.factors[i]) };
                let in_scores = if SCALED { S::div(max, scale) } else { max };
                S::store(softmax.max[i].as_mut_ptr(), in_scores);
                S::store(softmax.steps[i].as_mut_ptr(), S::mul(scale, S::splat(STEPS)));
            }
            softmax
        }
    }

    #[inline(always)]
    pub(super) unsafe fn next(&mut self) -> Option<Piece<SCALED>> {
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
                steps: self.steps[row / ROWS].as_ptr(),
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
                for row in 0..ROWS {
                    piece.weigh(row);
                }
            }
            for (i, rows) in self.rows.iter().enumerate() {
                let sums = std::array::from_fn(|r| self.sums[i * ROWS + r]);
                let sum = S::add(rows.sum, reduce(sums, |a, b| S::add(a, b)));
                state.set(row + i * ROWS, slot, Rows { max: rows.max, sum }, self.factors[i]);
            }
        }
    }
}

impl<const SCALED: bool> Piece<SCALED> {
    /// Writes `2^(score - max)` of a row's keys as bf16 weights, and adds up what was written. Weights are within .0064 of
    /// themselves, .0022 in the quadratic mean, where rounding to bf16 alone has .0039 and .0017.
    #[inline(always)]
    pub(super) unsafe fn weigh(&self, row: usize) {
        // Of words.
        const LOWER_BYTES: __mmask64 = 0x5555_5555_5555_5555;
        let of_row = row * (LANES / ROWS);
        // SAFETY: keys of the row; bf16 are what the words are.
        unsafe {
            let max = S::splat(*self.max.add(of_row));
            let steps = S::splat(if SCALED { *self.steps.add(of_row) } else { STEPS });
            let scores = self.scores.row(row);
            // Cut off among integers: the units that multiply would compare floats, too.
            let bits = |scores: *const f32| {
                let x = S::fma(S::sub(S::load(scores), max), steps, S::splat(ONE));
                _mm512_max_epi32(_mm512_castps_si512(x), _mm512_castps_si512(S::splat(ZERO)))
            };
            let halves = _mm512_load_si512(LOWER_HALVES.0.as_ptr().cast());
            let line = _mm512_permutex2var_epi16(bits(scores), halves, bits(scores.add(LANES)));
            let table = ABOVE_CURVE.0.as_ptr();
            let table = [table, table.add(64)].map(|part| _mm512_load_si512(part.cast()));
            let above = _mm512_maskz_permutex2var_epi8(LOWER_BYTES, table[0], line, table[1]);
            let weights = _mm512_sub_epi16(line, above);
            _mm512_storeu_si512(self.weights.row(row).cast(), weights);
            let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
            let ones = _mm512_set1_epi32(0x3f80_3f80);
            let sum = self.sums.add(row);
            *sum = _mm512_dpbf16_ps(*sum, pairs(weights), pairs(ones));
        }
    }
}
