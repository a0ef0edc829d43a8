//! From the raw sums of a tile to numbers: scales, bias, activation.

use super::lanes::Lanes;
use super::{LinearArgs, Output};
use crate::engine::Epilogue;
use crate::engine::cpu::math;

/// `a * erfc(a / sqrt(2)) / 2` on [0, GELU_END] in powers of `2a / GELU_END - 1` (Chebyshev fit of degree
/// 10): within 1.2e-5, and the function is below 2.4e-5 beyond the end. A bf16 near one has steps of 8e-3.
const GELU: [f32; 11] = [
    0.030_581_897,
    -0.141_004_53,
    0.244_221_99,
    -0.118_665_71,
    -0.228_334_57,
    0.411_039_83,
    -0.161_190_72,
    -0.176_669_14,
    0.153_062_1,
    0.025_305_785,
    -0.038_334_2,
];
const GELU_END: f32 = 4.4;

/// `x * Phi(x)` within 4e-5.
#[inline(always)]
unsafe fn gelu<S: Lanes>(x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let a = S::min(S::abs(x), S::splat(GELU_END));
        let u = S::fma(a, S::splat(2.0 / GELU_END), S::splat(-1.0));
        let uu = S::mul(u, u);
        let (mut even, mut odd) = (S::splat(GELU[10]), S::splat(GELU[9]));
        for i in (0..4).rev() {
            even = S::fma(even, uu, S::splat(GELU[2 * i + 2]));
            odd = S::fma(odd, uu, S::splat(GELU[2 * i + 1]));
        }
        even = S::fma(even, uu, S::splat(GELU[0]));
        S::sub(S::max(x, S::splat(0.0)), S::fma(odd, u, even))
    }
}

/// Writes row `row` of panel `panel_idx` from its `NV` vectors of raw sums.
///
/// # Safety
/// The CPU has the instruction set; `sums` has `NV * LANES` dwords, i32 if `INT8` or else f32; row and panel
/// are below those of `args`.
#[inline(always)]
pub(super) unsafe fn finish_row<S: Lanes, const NV: usize, const INT8: bool>(
    args: &LinearArgs,
    sums: *const u32,
    row: usize,
    panel_idx: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = panel_idx * NV * S::LANES;
        let out = row * args.out_stride + first;
        for j in 0..NV {
            let at = j * S::LANES;
            let bias = S::load(args.bias.add(first + at));
            let x = if INT8 {
                let code = &*args.codes.add(row);
                let zeros = S::load(args.sums.add(first + at));
                let exact = S::load_i32(sums.add(at).cast());
                let sum = S::fma(S::splat(-code.zero), zeros, exact);
                S::mul(sum, S::splat(code.scale))
            } else {
                S::load(sums.add(at).cast())
            };
            let x = S::fma(x, S::load(args.scales.add(first + at)), bias);
            let y = match args.epilogue {
                Epilogue::BiasGelu => gelu::<S>(x),
                other => math::activate::<S>(other, x),
            };
            match args.out {
                Output::F32(p) => S::store(p.add(out + at), y),
                Output::Bf16(p) => S::store_bf16(p.add(out + at), y),
            }
        }
    }
}
