//! Rows of f32 or bf16 as bf16 or as codes.

use super::lanes::Lanes;
use super::{Code, EncodeArgs, Source, Target};
use crate::engine::cpu::numbers::{Bf16, F32, Numbers};

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[inline(always)]
pub(super) unsafe fn encode<S: Lanes>(args: &EncodeArgs) {
    for row in 0..args.rows {
        let (at, to_at) = (row * args.from_stride, row * args.to_stride);
        // SAFETY: a row below `rows`.
        unsafe {
            match (args.from, args.to) {
                (Source::F32(from), Target::Codes(to, codes)) => {
                    *codes.add(row) = row_codes::<S, F32>(from.add(at), args.width, to.add(to_at));
                }
                (Source::Bf16(from), Target::Codes(to, codes)) => {
                    *codes.add(row) = row_codes::<S, Bf16>(from.add(at), args.width, to.add(to_at));
                }
                (Source::F32(from), Target::Bf16(to)) => {
                    for i in (0..args.width).step_by(S::LANES) {
                        S::store_bf16(to.add(to_at + i), S::load(from.add(at + i)));
                    }
                }
                (Source::Bf16(from), Target::Bf16(to)) => {
                    std::ptr::copy(from.add(at), to.add(to_at), args.width);
                }
            }
        }
    }
}

/// Vectors that are read side by side: not more than a step of k, to which rows are padded.
const CHAINS: usize = 4;

/// Spreads [min(row, 0), max(row, 0)] over the codes: zero has a code, so padding costs nothing.
///
/// # Safety
/// The row and its codes are as long as `width` rounded up to a step of k, zeros after `width`.
#[inline(always)]
unsafe fn row_codes<S: Lanes, N: Numbers<S>>(
    row: *const N::Number,
    width: usize,
    out: *mut u8,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = S::splat(0.0);
        // Chains side by side, or each would wait for its last result.
        let (mut low, mut high, mut nothing) = ([zero; CHAINS], [zero; CHAINS], [zero; CHAINS]);
        for i in (0..width).step_by(CHAINS * S::LANES) {
            for j in 0..CHAINS {
                let x = N::load(row.add(i + j * S::LANES));
                low[j] = S::min(low[j], x);
                high[j] = S::max(high[j], x);
                nothing[j] = S::fma(x, zero, nothing[j]);
            }
        }
        for j in 1..CHAINS {
            low[0] = S::min(low[0], low[j]);
            high[0] = S::max(high[0], high[j]);
            nothing[0] = S::add(nothing[0], nothing[j]);
        }
        let low = -S::reduce_max(S::sub(zero, low[0]));
        // Minimum and maximum pass over a NaN; a row that has one must not look like numbers.
        let (code, inverse) = code_of(low, S::reduce_max(high[0]) + S::reduce_add(nothing[0]));
        let (inverse, code_of_zero) = (S::splat(inverse), S::splat(code.zero));
        for i in (0..width).step_by(S::LANES) {
            let x = S::fma(N::load(row.add(i)), inverse, code_of_zero);
            S::store_u8(out.add(i), S::min(S::max(x, zero), S::splat(255.0)));
        }
        code
    }
}

/// The code of numbers from `low <= 0` to `high >= 0`, and one over its scale. A NaN stays one.
#[inline(always)]
pub(super) fn code_of(low: f32, high: f32) -> (Code, f32) {
    let scale = (high - low) / 255.0;
    if scale == 0.0 {
        return (Code::default(), 0.0);
    }
    let inverse = 1.0 / scale;
    (Code { scale, zero: (-low * inverse).round_ties_even() }, inverse)
}
