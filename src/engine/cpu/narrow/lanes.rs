//! Vector operations between f32 and narrow numbers.

use crate::engine::cpu::simd::Simd;

/// Conversions of one vector's lanes.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::engine::cpu) trait Lanes: Simd {
    /// Reads `LANES` bf16.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Rounds to nearest, ties to even.
    unsafe fn store_bf16(p: *mut u16, v: Self::V);
    /// Two vectors, one after another.
    #[inline(always)]
    unsafe fn store_bf16_pair(p: *mut u16, v: [Self::V; 2]) {
        // SAFETY: the caller's promise.
        unsafe { store_apart::<Self>(p, v) }
    }
    /// Reads `LANES` integers, rounded to f32.
    unsafe fn load_i32(p: *const i32) -> Self::V;
    /// Rounds numbers in [0, 255] to nearest, ties to even, and writes them as bytes.
    unsafe fn store_u8(p: *mut u8, v: Self::V);
    /// Reads `LANES` pairs of bf16: the first of each, and the second of each.
    unsafe fn load_bf16_pairs(p: *const u32) -> [Self::V; 2];
}

/// [`Lanes::store_bf16_pair`] without an instruction for it.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn store_apart<S: Lanes>(p: *mut u16, v: [S::V; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        S::store_bf16(p, v[0]);
        S::store_bf16(p.add(S::LANES), v[1]);
    }
}
