//! NEON: `usdot` and `bfdot` where I8MM and BF16 are, `sdot` where DotProd is; elsewhere products of 16 bits, and bf16 by f32.
//!
//! The instructions are written as assembly: stable Rust has no functions for them yet.

use super::LinearArgs;
use super::finish::{Bytes, Floats};
use super::lanes::Lanes;
use super::tile::{Dot, LinearDot, WidenedBf16, narrow_table};
use crate::engine::cpu::neon::Neon;
use std::arch::aarch64::*;
use std::arch::asm;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl<const BF16: bool> Lanes for Neon<BF16> {
    type Bits = uint32x4_t;
    const WEAVES: bool = false;

    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: float32x4_t) {
        unsafe {
            if BF16 {
                return vst1_u16(p, bfcvtn(v));
            }
            let bits = vreinterpretq_u32_f32(v);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            vst1_u16(p, vshrn_n_u32::<16>(vaddq_u32(bits, half)));
        }
    }
    #[inline(always)]
    unsafe fn load_i32(p: *const i32) -> float32x4_t {
        unsafe { vcvtq_f32_s32(vld1q_s32(p)) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u32) -> [float32x4_t; 2] {
        unsafe {
            let pairs = vld1q_u32(p);
            let high = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
            [vshlq_n_u32::<16>(pairs), high].map(|bits| vreinterpretq_f32_u32(bits))
        }
    }
    #[inline(always)]
    unsafe fn zero_bits() -> uint32x4_t {
        unsafe { vdupq_n_u32(0) }
    }
    #[inline(always)]
    unsafe fn load_bits(p: *const u8) -> uint32x4_t {
        unsafe { vreinterpretq_u32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn larger<const PAIRS: bool>(most: [uint32x4_t; 2], x: uint32x4_t) -> [uint32x4_t; 2] {
        unsafe {
            if PAIRS {
                let signed = [most[0], x].map(|bits| vreinterpretq_s16_u32(bits));
                let unsigned = [most[1], x].map(|bits| vreinterpretq_u16_u32(bits));
                [
                    vreinterpretq_u32_s16(vmaxq_s16(signed[0], signed[1])),
                    vreinterpretq_u32_u16(vmaxq_u16(unsigned[0], unsigned[1])),
                ]
            } else {
                let signed = [most[0], x].map(|bits| vreinterpretq_s32_u32(bits));
                [vreinterpretq_u32_s32(vmaxq_s32(signed[0], signed[1])), vmaxq_u32(most[1], x)]
            }
        }
    }
    #[inline(always)]
    unsafe fn largest<const PAIRS: bool>(bits: uint32x4_t) -> u32 {
        unsafe {
            if PAIRS {
                return u32::from(vmaxvq_u16(vreinterpretq_u16_u32(bits))) << 16;
            }
            vmaxvq_u32(bits)
        }
    }
    #[inline(always)]
    unsafe fn store_codes(p: *mut u8, v: [float32x4_t; 4]) {
        unsafe {
            vst1_u8(p, codes(v[0], v[1]));
            vst1_u8(p.add(8), codes(v[2], v[3]));
        }
    }
    #[inline(always)]
    unsafe fn store_codes_of_pairs(p: *mut u8, v: [[float32x4_t; 2]; 2]) {
        unsafe {
            // It writes a byte of each in turn.
            vst2_u8(p, uint8x8x2_t(codes(v[0][0], v[1][0]), codes(v[0][1], v[1][1])));
        }
    }
}

/// The conversion takes what is negative or no number as zero, and narrowing keeps what is larger at 255.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn codes(a: float32x4_t, b: float32x4_t) -> uint8x8_t {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b] = [a, b].map(|x| vqmovn_u32(vcvtnq_u32_f32(x)));
        vqmovn_u16(vcombine_u16(a, b))
    }
}

/// Rounds to nearest, ties to even.
///
/// # Safety
/// The CPU has BF16, and so has the function that this is inlined into.
#[inline(always)]
unsafe fn bfcvtn(v: float32x4_t) -> uint16x4_t {
    let narrow;
    // SAFETY: the caller's promise; nothing but the result is written.
    unsafe {
        asm!("bfcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) v,
            options(pure, nomem, nostack, preserves_flags));
    }
    narrow
}

/// Products of bytes that fit into 16 bits, 255 * -128 included, summed by pairs: for CPUs without DotProd.
pub(super) struct Wide;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for Wide {
    type Row = [int16x8_t; 2];
    type Columns = [int16x8_t; 2];
    type Sums = int32x4_t;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> [int16x8_t; 2] {
        unsafe {
            // Bytes 0 and 2, bytes 1 and 3, each as 16 bits.
            [(*p & 0x00ff_00ff), (*p >> 8 & 0x00ff_00ff)]
                .map(|x| vreinterpretq_s16_u32(vdupq_n_u32(x)))
        }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> [int16x8_t; 2] {
        unsafe {
            let bytes = vreinterpretq_s16_u32(vld1q_u32(p));
            let even = vshrq_n_s16::<8>(vshlq_n_s16::<8>(bytes));
            [even, vshrq_n_s16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: int32x4_t, row: [int16x8_t; 2], columns: [int16x8_t; 2]) -> int32x4_t {
        unsafe {
            let even = vpadalq_s16(sums, vmulq_s16(row[0], columns[0]));
            vpadalq_s16(even, vmulq_s16(row[1], columns[1]))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: int32x4_t) {
        unsafe { vst1q_s32(p.cast(), sums) }
    }
}

impl LinearDot for Wide {
    type Raw = Bytes;
}

/// `usdot` or, `SIGNED`, `sdot`: four bytes to a sum.
///
/// As signed numbers, codes of rows are 128 less than they are, which is a flip of their highest bit; so sums begin at
/// what that takes from them, and end at the same bits.
pub(super) struct DotBytes<const SIGNED: bool>;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller. The assembly writes
// nothing but its sums.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl<const SIGNED: bool> Dot for DotBytes<SIGNED> {
    type Row = uint32x4_t;
    type Columns = uint32x4_t;
    type Sums = int32x4_t;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> uint32x4_t {
        unsafe { vdupq_n_u32(if SIGNED { *p ^ 0x8080_8080 } else { *p }) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> uint32x4_t {
        unsafe { vld1q_u32(p) }
    }
    #[inline(always)]
    unsafe fn dot(mut sums: int32x4_t, row: uint32x4_t, columns: uint32x4_t) -> int32x4_t {
        unsafe {
            if SIGNED {
                asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) row,
                    in(vreg) columns, options(pure, nomem, nostack, preserves_flags));
            } else {
                asm!("usdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) row,
                    in(vreg) columns, options(pure, nomem, nostack, preserves_flags));
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: int32x4_t) {
        unsafe { vst1q_s32(p.cast(), sums) }
    }
}

impl<const SIGNED: bool> LinearDot for DotBytes<SIGNED> {
    type Raw = Bytes;

    #[inline(always)]
    unsafe fn start(args: &LinearArgs, column: usize) -> int32x4_t {
        unsafe {
            if SIGNED {
                return vshlq_n_s32::<7>(vcvtq_s32_f32(vld1q_f32(args.sums.add(column))));
            }
            Self::zero()
        }
    }
}

/// `bfdot`: two bf16 to a sum. It flushes denormals, and rounds to odd.
pub(super) struct DotBf16;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller. The assembly writes
// nothing but its sums.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Dot for DotBf16 {
    type Row = uint32x4_t;
    type Columns = uint32x4_t;
    type Sums = float32x4_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        unsafe { vdupq_n_f32(0.0) }
    }
    #[inline(always)]
    unsafe fn row(p: *const u32) -> uint32x4_t {
        unsafe { vdupq_n_u32(*p) }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32) -> uint32x4_t {
        unsafe { vld1q_u32(p) }
    }
    #[inline(always)]
    unsafe fn dot(mut sums: float32x4_t, row: uint32x4_t, columns: uint32x4_t) -> float32x4_t {
        unsafe {
            asm!("bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h", inout(vreg) sums, in(vreg) row,
                in(vreg) columns, options(pure, nomem, nostack, preserves_flags));
            sums
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: float32x4_t) {
        unsafe { vst1q_f32(p.cast(), sums) }
    }
}

impl LinearDot for DotBf16 {
    type Raw = Floats;
}

// 16 sums, and with numbers widened 8 registers of columns and 2 of a row: 26 of 32.
narrow_table!(
    NEON, neon, Neon, "neon", vectors: 4,
    int8: Wide, 4, bf16: WidenedBf16<Neon>, 4, attention: None, words: None, max_sim: None
);
narrow_table!(
    DOT, dot, Neon, "neon,dotprod", vectors: 4,
    int8: DotBytes<true>, 4, bf16: WidenedBf16<Neon>, 4, attention: None, words: None, max_sim: None
);
narrow_table!(
    BF16, bf16, Neon<true>, "neon,i8mm,bf16", vectors: 4,
    int8: DotBytes<false>, 4, bf16: DotBf16, 4, attention: None, words: None, max_sim: None
);
