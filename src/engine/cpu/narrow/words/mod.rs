//! Products of bf16 rows in fixed point of 16 bits, for cores whose adders stand beside their multipliers.
//!
//! A row and a column each have a scale of their own, in which numbers are integers of up to fifteen bits: but for the least
//! ones that keeps more of them than the eight bits of bf16. For integers `x1 y1 + x2 y2 = (x1 + y2) (x2 + y1) - x1 x2 - y1 y2`
//! (see [`crate::engine::cpu::paired`]) is exact. Of three dwords of k two are multiplied so, and one as it is. An instruction
//! has two products of 16 bits in each lane, as it has of bf16: four numbers of k where those are of pairs.

#[cfg(target_arch = "x86_64")]
mod encode;
#[cfg(target_arch = "x86_64")]
mod linear;

/// Those of the instruction set that has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub(super) static WORDS: super::Words =
    super::Words { linear: linear::linear, encode: encode::encode };

/// Dwords of k that are taken together: the numbers of the first and of the second are pairs.
const STEP: usize = 3;
/// Of the integers: the sum of a row's and a column's fits into 16 bits.
const LARGEST: f32 = 16_383.0;
/// Of the root of the sum of their squares: so the product of a row and a column fits into 32 bits. What leads to it may
/// wrap.
const LARGEST_NORM: f32 = 45_000.0;
/// What the largest weight is a multiple of.
const WEIGHTS: f32 = 127.0;

/// The scale of a row, or zero if it would be no normal number; a NaN if one of its numbers is not finite.
fn scale_of(largest: f32, squares: f32, width: usize) -> f32 {
    /// Where squares are floats, and those that are not are nothing beside the largest.
    const SQUARED: std::ops::Range<f32> = f32::from_bits(77 << 23)..f32::from_bits(177 << 23);
    let norm =
        if SQUARED.contains(&largest) { squares.sqrt() } else { largest * (width as f32).sqrt() };
    let scale = (largest / LARGEST).max(norm / LARGEST_NORM) + largest * 0.0;
    if scale < f32::MIN_POSITIVE { 0.0 } else { scale }
}

/// The scale of a column: its largest weight is a multiple of 127, if so much fits.
pub(super) fn scale_of_weights(weight: &[f32]) -> f32 {
    let largest = weight.iter().fold(0f32, |max, x| max.max(x.abs()));
    let squares = weight.iter().map(|x| x * x).sum();
    let scale = scale_of(largest, squares, weight.len());
    let multiple = (largest / scale / WEIGHTS).floor();
    if multiple >= 1.0 { largest / (multiple * WEIGHTS) } else { scale }
}

/// What a column's sums begin at: less the products of its pairs.
pub(super) fn start_of(codes: &[i16]) -> i32 {
    let steps = codes.chunks_exact(2 * STEP);
    let pairs = steps.flat_map(|x| [(x[0], x[2]), (x[1], x[3])]);
    pairs.fold(0, |sum, (a, b)| sum.wrapping_sub(i32::from(a) * i32::from(b)))
}
