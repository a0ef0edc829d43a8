//! From the raw sums of a tile to numbers: scales, bias, activation.

use super::lanes::Lanes;
use super::{LinearArgs, Output};
use crate::engine::Epilogue;
use crate::engine::cpu::math;

/// What raw sums are.
pub(super) trait Raw {
    /// The products of a row with a vector of columns, in units of the columns' scales.
    ///
    /// # Safety
    /// The CPU has the instruction set; `sums` are those of this row and of the columns from `column` on.
    unsafe fn products<S: Lanes>(
        args: &LinearArgs,
        sums: *const u32,
        row: usize,
        column: usize,
    ) -> S::V;
}

/// The products themselves.
pub(super) struct Floats;

impl Raw for Floats {
    #[inline(always)]
    unsafe fn products<S: Lanes>(_: &LinearArgs, sums: *const u32, _: usize, _: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(sums.cast()) }
    }
}

/// i32, of codes that have a zero.
pub(super) struct Bytes;

impl Raw for Bytes {
    #[inline(always)]
    unsafe fn products<S: Lanes>(
        args: &LinearArgs,
        sums: *const u32,
        row: usize,
        column: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let code = &*args.codes.add(row);
            let zeros = S::load(args.sums.add(column));
            let sum = S::fma(S::splat(-code.zero), zeros, S::load_i32(sums.cast()));
            S::mul(sum, S::splat(code.scale))
        }
    }
}

/// Writes row `row` of panel `panel_idx` from its `NV` vectors of raw sums.
///
/// # Safety
/// The CPU has the instruction set; `sums` has `NV * LANES` dwords; row and panel are below those of `args`.
#[inline(always)]
pub(super) unsafe fn finish_row<R: Raw, S: Lanes, const NV: usize>(
    args: &LinearArgs,
    sums: *const u32,
    row: usize,
    panel_idx: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let first = panel_idx * NV * S::LANES;
        let mut x = [S::splat(0.0); NV];
        for (j, x) in x.iter_mut().enumerate() {
            let at = j * S::LANES;
            let product = R::products::<S>(args, sums.add(at), row, first + at);
            let (scales, bias) = (args.scales.add(first + at), args.bias.add(first + at));
            *x = S::fma(product, S::load(scales), S::load(bias));
        }
        match args.epilogue {
            Epilogue::Bias => {}
            Epilogue::BiasGelu => {
                for x in &mut x {
                    *x = S::gelu(*x);
                }
            }
            other => {
                for x in &mut x {
                    *x = math::activate::<S>(other, *x);
                }
            }
        }
        let out = row * args.out_stride + first;
        match args.out {
            Output::F32(p) => {
                for (j, x) in x.iter().enumerate() {
                    S::store(p.add(out + j * S::LANES), *x);
                }
            }
            Output::Bf16(p) => {
                for (j, x) in x.chunks_exact(2).enumerate() {
                    S::store_bf16_pair(p.add(out + 2 * j * S::LANES), [x[0], x[1]]);
                }
            }
        }
    }
}
