//! What the softmax of a block of queries carries from keys to keys.

use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::narrow::attention::BLOCK;
use crate::engine::cpu::narrow::attention::rows::{NO_KEY, QUAD};
use crate::engine::cpu::simd::Simd;
use std::arch::x86_64::*;

type S = Avx512<true>;
const LANES: usize = S::LANES;

/// Rows that take their softmax side by side.
pub(super) const ROWS: usize = QUAD;

/// A number for each row of a block: a quarter of a vector repeats it, as [`reduce`](crate::engine::cpu::narrow::attention::rows::reduce) leaves it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct ByRow([f32; BLOCK * LANES / ROWS]);

impl ByRow {
    fn of(&self, row: usize) -> f32 {
        self.0[row / ROWS * LANES + row % ROWS * (LANES / ROWS)]
    }

    #[inline(always)]
    unsafe fn load(&self, row: usize) -> __m512 {
        // SAFETY: the caller's CPU has AVX-512; a vector for each group of rows.
        unsafe { S::load(self.0[row / ROWS * LANES..][..LANES].as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(&mut self, row: usize, x: __m512) {
        // SAFETY: as above.
        unsafe { S::store(self.0[row / ROWS * LANES..][..LANES].as_mut_ptr(), x) };
    }
}

/// Maxima and sums of [`ROWS`] rows over the keys so far.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) max: __m512,
    pub(super) sum: __m512,
}

/// What the softmax of a block of queries carries from keys to keys, and what its values are multiplied by.
pub(super) struct State {
    max: ByRow,
    sum: ByRow,
    /// For the values of keys before, in either place of weights; and for all values in the end.
    factors: [ByRow; 2],
    scales: [ByRow; 2],
}

impl Default for State {
    fn default() -> Self {
        let zeros = ByRow([0.0; BLOCK * LANES / ROWS]);
        Self { max: zeros, sum: zeros, factors: [zeros; 2], scales: [zeros; 2] }
    }
}

impl State {
    /// # Safety
    /// The CPU has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn rows(&self, row: usize, is_first: bool) -> Rows {
        // SAFETY: the caller's promise.
        unsafe {
            if is_first {
                return Rows { max: S::splat(NO_KEY), sum: S::splat(0.0) };
            }
            Rows { max: self.max.load(row), sum: self.sum.load(row) }
        }
    }

    /// # Safety
    /// The CPU has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn set(&mut self, row: usize, slot: usize, rows: Rows, factors: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            self.max.store(row, rows.max);
            self.sum.store(row, rows.sum);
            self.factors[slot].store(row, factors);
            self.scales[slot].store(row, S::div(S::splat(1.0), rows.sum));
        }
    }

    pub(super) fn factor(&self, slot: usize, row: usize) -> f32 {
        self.factors[slot].of(row)
    }

    pub(super) fn scale(&self, slot: usize, row: usize) -> f32 {
        self.scales[slot].of(row)
    }
}

/// Some rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<T> {
    pub(super) start: *mut T,
    pub(super) stride: usize,
}

impl<T> Part<T> {
    /// The rows from `row` on.
    ///
    /// # Safety
    /// The row is one of the matrix.
    #[inline(always)]
    pub(super) unsafe fn from(&self, row: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self { start: self.row(row), stride: self.stride } }
    }

    /// # Safety
    /// The row is one of the matrix.
    #[inline(always)]
    pub(super) unsafe fn row(&self, i: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(i * self.stride) }
    }
}
