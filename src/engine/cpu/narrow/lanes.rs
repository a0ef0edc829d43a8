//! Vector operations between f32 and narrow numbers.

use super::gelu::gelu;
use crate::engine::cpu::simd::Simd;

/// Conversions of one vector's lanes.
///
/// # Safety
/// As for [`Simd`].
pub(in crate::engine::cpu) trait Lanes: Simd {
    /// A vector's bits: two bf16 a lane, or one f32.
    type Bits: Copy;
    /// Whether registers are left beside the sums of a tile.
    const WEAVES: bool;
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
    /// Reads `LANES` pairs of bf16: the first of each, and the second of each.
    unsafe fn load_bf16_pairs(p: *const u32) -> [Self::V; 2];
    /// `x * Phi(x)` within 4e-5.
    #[inline(always)]
    unsafe fn gelu(x: Self::V) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { gelu::<Self>(x) }
    }
    unsafe fn zero_bits() -> Self::Bits;
    unsafe fn load_bits(p: *const u8) -> Self::Bits;
    /// The larger of each two numbers, as signed and as unsigned integers: of 16 bits if `PAIRS`, or of 32.
    unsafe fn larger<const PAIRS: bool>(most: [Self::Bits; 2], x: Self::Bits) -> [Self::Bits; 2];
    /// The largest number of all as unsigned integers; one of 16 bits is the upper half of the answer.
    unsafe fn largest<const PAIRS: bool>(bits: Self::Bits) -> u32;
    /// Rounds to nearest, ties to even, and writes a byte each: 255 for what is larger, zero for what is less or none.
    unsafe fn store_codes(p: *mut u8, v: [Self::V; 4]);
    /// [`Lanes::store_codes`] of two vectors of pairs: the first of each, and the second of each.
    unsafe fn store_codes_of_pairs(p: *mut u8, v: [[Self::V; 2]; 2]);
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
