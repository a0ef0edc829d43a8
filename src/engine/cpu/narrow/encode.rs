//! Rows of f32 or bf16 as bf16 or as codes.

use super::lanes::Lanes;
use super::{Code, EncodeArgs, Source, Target};

/// Rows whose codes are chosen before the first is written: that of one alone would wait for its extremes.
const ROWS: usize = 4;

/// # Safety
/// The CPU has the instruction set; `args` describes valid memory.
#[inline(always)]
pub(super) unsafe fn encode<S: Lanes>(args: &EncodeArgs, to: Target) {
    // SAFETY: the caller's promise.
    unsafe {
        match (args.from, to) {
            (Source::F32(from), Target::Bytes(to, codes)) => {
                encode_rows::<S, false>(args, from.cast(), to, codes);
            }
            (Source::Bf16(from), Target::Bytes(to, codes)) => {
                encode_rows::<S, true>(args, from.cast(), to, codes);
            }
            (Source::F32(from), Target::Bf16(to)) => {
                for row in 0..args.rows {
                    let (from, to) =
                        (from.add(row * args.from_stride), to.add(row * args.to_stride));
                    for i in (0..args.width).step_by(S::LANES) {
                        S::store_bf16(to.add(i), S::load(from.add(i)));
                    }
                }
            }
            (Source::Bf16(from), Target::Bf16(to)) => {
                for row in 0..args.rows {
                    let (from, to) =
                        (from.add(row * args.from_stride), to.add(row * args.to_stride));
                    std::ptr::copy(from, to, args.width);
                }
            }
        }
    }
}

/// Rows of f32, or `PAIRS`: bf16, as codes.
///
/// # Safety
/// As for [`encode`]; the rows and their codes are as long as `width` rounded up to a step of k, zeros after `width`.
#[inline(always)]
unsafe fn encode_rows<S: Lanes, const PAIRS: bool>(
    args: &EncodeArgs,
    from: *const u8,
    to: *mut u8,
    codes: *mut Code,
) {
    let row_bytes = args.from_stride * if PAIRS { 2 } else { 4 };
    let mut inverses = [0.0; ROWS];
    for first in (0..args.rows).step_by(ROWS) {
        let rows = first..args.rows.min(first + ROWS);
        // SAFETY: rows below `args.rows`.
        unsafe {
            for row in rows.clone() {
                let (low, high) = range::<S, PAIRS>(from.add(row * row_bytes), args.width);
                // Zero times what is not finite is a NaN: a row that has such must not look like numbers.
                let (code, inverse) = code_of(low, high + (low * 0.0 + high * 0.0));
                *codes.add(row) = code;
                inverses[row - first] = inverse;
            }
            for row in rows {
                let (inverse, zero) =
                    (S::splat(inverses[row - first]), S::splat((*codes.add(row)).zero));
                let (from, to) = (from.add(row * row_bytes), to.add(row * args.to_stride));
                write_codes::<S, PAIRS>(from, args.width, (inverse, zero), to);
            }
        }
    }
}

/// # Safety
/// As for [`encode_rows`].
#[inline(always)]
unsafe fn write_codes<S: Lanes, const PAIRS: bool>(
    row: *const u8,
    width: usize,
    (inverse, zero): (S::V, S::V),
    out: *mut u8,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in (0..width).step_by(4 * S::LANES) {
            if PAIRS {
                let row = row.cast::<u32>().add(i / 2);
                let mut v = [S::load_bf16_pairs(row), S::load_bf16_pairs(row.add(S::LANES))];
                for v in v.as_flattened_mut() {
                    *v = S::fma(*v, inverse, zero);
                }
                S::store_codes_of_pairs(out.add(i), v);
            } else {
                let row = row.cast::<f32>().add(i);
                let mut v = [zero; 4];
                for (j, v) in v.iter_mut().enumerate() {
                    *v = S::fma(S::load(row.add(j * S::LANES)), inverse, zero);
                }
                S::store_codes(out.add(i), v);
            }
        }
    }
}

/// The least number of a row or zero, and the largest or zero; a NaN counts as either.
///
/// As integers, positive floats are ordered as they are, and negative ones after them, from the largest to the least;
/// NaN lie beyond the infinities.
///
/// # Safety
/// As for [`encode_rows`].
#[inline(always)]
unsafe fn range<S: Lanes, const PAIRS: bool>(row: *const u8, width: usize) -> (f32, f32) {
    let bytes = width * if PAIRS { 2 } else { 4 };
    // SAFETY: the caller's promise.
    unsafe {
        // Two side by side, or each would wait for its last result.
        let mut most = [[S::zero_bits(); 2]; 2];
        for i in (0..bytes).step_by(8 * S::LANES) {
            for (j, most) in most.iter_mut().enumerate() {
                let bits = S::load_bits(row.add(i + 4 * j * S::LANES));
                *most = S::larger::<PAIRS>(*most, bits);
            }
        }
        let high = S::larger::<PAIRS>(most[0], most[1][0])[0];
        let low = S::larger::<PAIRS>(most[0], most[1][1])[1];
        let low = f32::from_bits(S::largest::<PAIRS>(low));
        let low = if low.is_sign_negative() { low } else { -0.0 };
        (low, f32::from_bits(S::largest::<PAIRS>(high)))
    }
}

/// The code of numbers from `low <= 0` to `high >= 0`, and one over its scale. Zero has a code, so padding costs nothing. A
/// NaN stays one.
#[inline(always)]
pub(super) fn code_of(low: f32, high: f32) -> (Code, f32) {
    let scale = (high - low) / 255.0;
    // One over a denormal may be infinite.
    if scale < f32::MIN_POSITIVE {
        return (Code::default(), 0.0);
    }
    let inverse = 1.0 / scale;
    (Code { scale, zero: (-low * inverse).round_ties_even(), pairs: 0 }, inverse)
}
