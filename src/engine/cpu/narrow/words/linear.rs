//! Tiles of eight rows by two vectors of columns.

use super::STEP;
use crate::engine::cpu::avx512::Avx512;
use crate::engine::cpu::narrow::LinearArgs;
use crate::engine::cpu::narrow::finish::Raw;
use crate::engine::cpu::narrow::lanes::Lanes;
use crate::engine::cpu::narrow::tile::{self, Product};
use std::arch::x86_64::*;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory and `out` overlaps nothing else.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn linear(args: &LinearArgs) {
    // SAFETY: the caller's promise.
    unsafe { tile::linear::<Pairs, Avx512<true>, 8, 2>(args) }
}

struct Pairs;

// SAFETY (every block): the traits' contract hands the feature and the pointers down to the caller.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Product for Pairs {
    const STEP: usize = STEP;
    type Columns = [__m512i; STEP];
    type Sums = __m512i;
    type Raw = Exact;

    #[inline(always)]
    unsafe fn start(args: &LinearArgs, row: usize, column: usize) -> __m512i {
        unsafe {
            let columns = _mm512_loadu_si512(args.starts.add(column).cast());
            _mm512_sub_epi32(columns, _mm512_set1_epi32((*args.codes.add(row)).pairs))
        }
    }
    #[inline(always)]
    unsafe fn columns(p: *const u32, panel: usize) -> [__m512i; STEP] {
        unsafe { std::array::from_fn(|i| _mm512_loadu_si512(p.add(i * panel).cast())) }
    }
    #[inline(always)]
    unsafe fn add_step<const NV: usize>(
        sums: &mut [__m512i; NV],
        row: *const u32,
        columns: &[[__m512i; STEP]; NV],
    ) {
        const { assert!(NV == 2, "a panel of two vectors") };
        unsafe { [sums[0], sums[1]] = add_step([sums[0], sums[1]], row, [columns[0], columns[1]]) }
    }
    #[inline(always)]
    unsafe fn add_dword(sums: __m512i, row: *const u32, columns: *const u32) -> __m512i {
        unsafe {
            let row = _mm512_set1_epi32(row.cast::<i32>().read());
            _mm512_dpwssd_epi32(sums, row, _mm512_loadu_si512(columns.cast()))
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u32, sums: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), sums) }
    }
}

/// A row's step with two vectors of columns, `x` and `y`. Written out, as the compiler would make two instructions of
/// `vpdpwssd` to wait less for the sums: 333 GFLOP/s became 270.
///
/// # Safety
/// The CPU has the instruction set, and `row` a step.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_step(
    [mut a, mut b]: [__m512i; 2],
    row: *const u32,
    [x, y]: [[__m512i; STEP]; 2],
) -> [__m512i; 2] {
    // SAFETY: the caller's promise; nothing but the sums is written.
    unsafe {
        std::arch::asm!(
            "vpbroadcastd zmm28, dword ptr [{row}]",
            "vpbroadcastd zmm29, dword ptr [{row} + 4]",
            "vpaddw zmm30, {x1}, zmm28",
            "vpaddw zmm31, {x0}, zmm29",
            "vpdpwssd {a}, zmm30, zmm31",
            "vpaddw zmm28, {y1}, zmm28",
            "vpaddw zmm29, {y0}, zmm29",
            "vpdpwssd {b}, zmm28, zmm29",
            "vpdpwssd {a}, {x2}, dword ptr [{row} + 8]{{1to16}}",
            "vpdpwssd {b}, {y2}, dword ptr [{row} + 8]{{1to16}}",
            a = inout(zmm_reg) a, b = inout(zmm_reg) b, row = in(reg) row,
            x0 = in(zmm_reg) x[0], x1 = in(zmm_reg) x[1], x2 = in(zmm_reg) x[2],
            y0 = in(zmm_reg) y[0], y1 = in(zmm_reg) y[1], y2 = in(zmm_reg) y[2],
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [a, b]
}

/// i32, of codes without a zero.
struct Exact;

impl Raw for Exact {
    #[inline(always)]
    unsafe fn products<S: Lanes>(
        args: &LinearArgs,
        sums: *const u32,
        row: usize,
        _: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::load_i32(sums.cast()), S::splat((*args.codes.add(row)).scale)) }
    }
}
