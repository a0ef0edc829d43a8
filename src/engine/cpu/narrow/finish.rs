//! From the raw sums of a tile to numbers: scales, bias, activation.

use super::lanes::Lanes;
use super::{LinearArgs, Output};
use crate::engine::Epilogue;
use crate::engine::cpu::math;

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
        let mut x = [S::splat(0.0); NV];
        for (j, x) in x.iter_mut().enumerate() {
            let at = j * S::LANES;
            let product = if INT8 {
                let code = &*args.codes.add(row);
                let zeros = S::load(args.sums.add(first + at));
                let exact = S::load_i32(sums.add(at).cast());
                let sum = S::fma(S::splat(-code.zero), zeros, exact);
                S::mul(sum, S::splat(code.scale))
            } else {
                S::load(sums.add(at).cast())
            };
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
