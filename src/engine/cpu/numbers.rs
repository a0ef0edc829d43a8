//! What kernels read that take f32 as well as bf16.

use super::narrow::lanes::Lanes;
use super::simd::{MAX_LANES, Simd};

/// A number in memory that becomes f32 in a register.
///
/// # Safety
/// As for [`Simd`].
pub(super) trait Numbers<S: Simd> {
    type Number;

    /// Reads `LANES` numbers.
    unsafe fn load(p: *const Self::Number) -> S::V;
    /// Reads `n < LANES` numbers, zeros after them.
    unsafe fn load_part(p: *const Self::Number, n: usize) -> S::V;
    /// Writes `LANES` numbers, rounded to nearest.
    unsafe fn store(p: *mut Self::Number, v: S::V);
}

#[derive(Debug)]
pub(super) struct F32;

impl<S: Simd> Numbers<S> for F32 {
    type Number = f32;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_part(p, n, 0.0) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store(p, v) }
    }
}

#[derive(Debug)]
pub(super) struct Bf16;

impl<S: Lanes> Numbers<S> for Bf16 {
    type Number = u16;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const u16, n: usize) -> S::V {
        let mut lanes = [0; MAX_LANES];
        // SAFETY: the caller lends `n` numbers, and `lanes` holds the widest vector.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            S::load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u16, v: S::V) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bf16(p, v) }
    }
}
