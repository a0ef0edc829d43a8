//! From scores to weights, without their largest: any power of two near it will do.
//!
//! Zen 4's units that multiply make one vector of 512 bits a cycle, and others compare, convert and permute beside them.
//! So a weight is made by one multiplication, or by none if scores are in steps already: it turns a score into the bits of
//! `2^x` as bf16, but for what the line through two powers of two is above the curve (Schraudolph, "A fast, compact
//! approximation of the exponential function", 1999), and a table of all 128 mantissas has the curve's instead.

use super::BLOCK;
use super::rows::{self, NO_KEY, QUAD};
use super::vectors::{ROWS, Sums};
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::math;
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// Below any score, and so far above [`NO_KEY`] that two to the power of the difference is zero: no key that a query may
/// not see has a weight, even if the query sees none of those so far.
const FLOOR: f32 = NO_KEY / 2.0;

/// Steps of a power of two: as many as bf16 has mantissas.
pub(super) const STEPS: f32 = (1 << STEPS_POWER) as f32;
pub(super) const STEPS_POWER: u32 = 7;
/// A float whose lower half is zero, and whose neighbours are one apart: the lower half of what lies above it is that
/// many steps.
const ZERO: f32 = 12_582_912.0;
/// The lower half is one as bf16: its exponent, 127, and no mantissa.
const ONE: f32 = ZERO + 127.0 * STEPS;
/// The largest weight is `2^64`, and the sum of any number of them is a float.
const MOST: f32 = ONE + 64.0 * STEPS;

/// `2^x` for every mantissa of a line: the mantissa of the curve, rounded.
static CURVE: Line<u8, 128> = {
    /// `2^(1 / 128)`
    const ROOT: f64 = 1.005_429_901_112_802_8;
    let (mut mantissas, mut power, mut i) = ([0; 128], 1.0, 0);
    while i < 128 {
        mantissas[i] = ((power - 1.0) * STEPS as f64 + 0.5) as u8;
        power *= ROOT;
        i += 1;
    }
    Line(mantissas)
};

#[repr(C, align(64))]
struct Line<T, const N: usize>([T; N]);

/// Fours of a group's rows.
pub(super) const QUADS: usize = ROWS.div_ceil(QUAD);

/// [`rows::reduce`] of a group; of the last four's last rows nothing is told.
///
/// # Safety
/// The CPU has AVX-512; so for all here.
#[inline(always)]
pub(super) unsafe fn reduce(
    group: [__m512; ROWS],
    with: impl Fn(__m512, __m512) -> __m512,
) -> [__m512; QUADS] {
    let mut reduced = [group[0]; QUADS];
    for (i, reduced) in reduced.iter_mut().enumerate() {
        let quad = std::array::from_fn(|r| group[(i * QUAD + r).min(ROWS - 1)]);
        // SAFETY: the caller's promise.
        *reduced = unsafe { rows::reduce(quad, &with) };
    }
    reduced
}

/// A number for each row of a group, as [`reduce`] leaves them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct ByRow([f32; QUADS * LANES]);

impl ByRow {
    pub(super) fn of(&self, row: usize) -> f32 {
        self.0[row * (LANES / QUAD)]
    }

    #[inline(always)]
    pub(super) unsafe fn new(quads: [__m512; QUADS]) -> Self {
        let mut of_rows = Self([0.0; QUADS * LANES]);
        for (i, quad) in quads.into_iter().enumerate() {
            // SAFETY: the caller's promise; a vector each.
            unsafe { S::store(of_rows.0[i * LANES..][..LANES].as_mut_ptr(), quad) };
        }
        of_rows
    }

    #[inline(always)]
    unsafe fn quads(&self) -> [__m512; QUADS] {
        // SAFETY: the caller's promise; a vector each.
        unsafe {
            let mut quads = [S::splat(0.0); QUADS];
            for (i, quad) in quads.iter_mut().enumerate() {
                *quad = S::load(self.0[i * LANES..][..LANES].as_ptr());
            }
            quads
        }
    }
}

/// What a group's weights are relative to: for each row a whole power of two, so that another one changes no mantissa.
pub(super) struct Reference {
    /// Of a power of two, for each one of a score.
    steps: ByRow,
    /// What a score of nothing has, in steps.
    offsets: ByRow,
    /// The exponents.
    exponents: ByRow,
}

impl Reference {
    /// For scores that are multiples of these scales.
    #[inline(always)]
    pub(super) unsafe fn new(scales: [__m512; QUADS]) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let steps = scales.map(|scale| _mm512_mul_ps(scale, _mm512_set1_ps(STEPS)));
            let unset = ByRow([0.0; QUADS * LANES]);
            let mut reference = Self { steps: ByRow::new(steps), offsets: unset, exponents: unset };
            reference.set([S::splat(FLOOR); QUADS]);
            reference
        }
    }

    #[inline(always)]
    unsafe fn set(&mut self, exponents: [__m512; QUADS]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut offsets = exponents;
            for offset in &mut offsets {
                // Exact, as an exponent is a whole number.
                *offset = S::fma(*offset, S::splat(-STEPS), S::splat(ONE));
            }
            self.exponents = ByRow::new(exponents);
            self.offsets = ByRow::new(offsets);
        }
    }

    /// Takes these scores' largest of each row where weights would be larger than `2^64`, which they are before the
    /// first; what weights of before are to be multiplied with, exactly one where nothing changes.
    #[inline(always)]
    pub(super) unsafe fn raise(&mut self, scores: &Sums) -> [__m512; QUADS] {
        const UP: i32 = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
        // SAFETY: the caller's promise.
        unsafe {
            let mut most = [S::splat(0.0); ROWS];
            for (most, [low, high]) in most.iter_mut().zip(scores) {
                *most = S::max(*low, *high);
            }
            let largest = reduce(most, |a, b| S::max(a, b));
            let (steps, offsets) = (self.steps.quads(), self.offsets.quads());
            let (mut exponents, mut factors) = (self.exponents.quads(), steps);
            for i in 0..QUADS {
                let before = exponents[i];
                let x = S::fma(largest[i], steps[i], offsets[i]);
                let exceeds = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, S::splat(MOST));
                let power = S::mul(largest[i], S::mul(steps[i], S::splat(1.0 / STEPS)));
                let power = _mm512_roundscale_ps::<UP>(power);
                exponents[i] = _mm512_mask_mov_ps(before, exceeds, power);
                factors[i] = math::exp2::<S>(S::sub(before, exponents[i]));
            }
            self.set(exponents);
            factors
        }
    }

    /// Writes a row's weights of 32 keys as bf16, and returns `peak` or what is larger of them. Scores are in steps or, if
    /// `SCALED`, in a unit of their own. Weights are within .0064 of themselves, .0022 in the quadratic mean, where rounding to
    /// bf16 alone has .0039 and .0017.
    #[inline(always)]
    pub(super) unsafe fn weigh<const SCALED: bool>(
        &self,
        row: usize,
        scores: [__m512; 2],
        weights: *mut u16,
        peak: __m512i,
    ) -> __m512i {
        /// `a & !c | b & c`
        const CHOOSE: i32 = 0xd8;
        // SAFETY: 32 weights of a row.
        unsafe {
            let steps = S::splat(self.steps.of(row));
            let offset = S::splat(self.offsets.of(row));
            let line = |score| {
                let x = if SCALED { S::fma(score, steps, offset) } else { S::add(score, offset) };
                let zero = _mm512_castps_si512(S::splat(ZERO));
                _mm512_sub_epi32(_mm512_castps_si512(x), zero)
            };
            // What is below every weight is nothing, and what is above them the largest of all words.
            let line = _mm512_packus_epi32(line(scores[0]), line(scores[1]));
            let table = CURVE.0.as_ptr();
            let table = [table, table.add(64)].map(|part| _mm512_load_si512(part.cast()));
            let curve = _mm512_permutex2var_epi8(table[0], line, table[1]);
            let mantissas = _mm512_set1_epi16(STEPS as i16 - 1);
            let bf16 = _mm512_ternarylogic_epi32::<CHOOSE>(line, curve, mantissas);
            _mm512_storeu_si512(weights.cast(), bf16);
            _mm512_max_epu16(peak, line)
        }
    }
}

/// Whether a weight is larger than `2^64`.
#[inline(always)]
pub(super) unsafe fn exceeds(peak: __m512i) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let most = _mm512_set1_epi16((MOST - ZERO) as i16);
        _mm512_cmpgt_epu16_mask(peak, most) != 0
    }
}

/// Multiplies so many bf16, whole blocks, by a power of two.
#[inline(always)]
pub(super) unsafe fn scale(weights: *mut u16, keys: usize, factor: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let factor = S::splat(factor);
        for key in (0..keys).step_by(BLOCK / 2) {
            let weights = weights.add(key).cast::<__m256i>();
            let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(weights.read_unaligned()));
            let scaled = _mm512_cvtneps_pbh(S::mul(_mm512_castsi512_ps(wide), factor));
            weights.write_unaligned(std::mem::transmute::<__m256bh, __m256i>(scaled));
        }
    }
}

/// Where the pair of keys lies of which a row's dword has the weights: [`Reference::weigh`] narrows two vectors to one, four
/// of either at a time.
pub(super) const fn pair_of(dword: usize) -> usize {
    dword / 4 * 2 + dword / 2 % 2 * 8 + dword % 2
}

/// Adds a block of weights to their sums.
#[inline(always)]
pub(super) unsafe fn add(sums: __m512, weights: *const u16) -> __m512 {
    // SAFETY: the caller's promise; bf16 are what the words are.
    unsafe {
        let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
        let ones = _mm512_set1_epi32(0x3f80_3f80);
        _mm512_dpbf16_ps(sums, pairs(_mm512_loadu_si512(weights.cast())), pairs(ones))
    }
}
