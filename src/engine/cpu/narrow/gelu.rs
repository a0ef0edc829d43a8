//! `x * Phi(x)`, as exact as bf16 can tell.

use crate::engine::cpu::simd::Simd;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

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
pub(super) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
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

/// `Phi(-a)` in powers of `a`, by intervals of which the `i`th lies around `i * PHI_END / 15.49` (least greatest error of
/// `a * Phi(-a)`).
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const PHI: [[f32; 16]; 3] = [
    [
        0.500_032_3, 0.501_237_2, 0.508_236_05, 0.518_379_2, 0.519_504_2, 0.497_181_4, 0.444_251_15, 0.365_504_15,
        0.274_926_7, 0.188_510_39, 0.117_753_536, 0.067_043_02, 0.034_826_912, 0.016_526_308, 0.007_172_318_6, 0.002_862_402_5,
    ],
    [
        -0.400_357_57, -0.413_714_23, -0.447_007_6, -0.476_815_76, -0.479_924_53, -0.444_831_3, -0.375_850_14, -0.288_639_63,
        -0.201_519_58, -0.128_090_72, -0.074_254_37, -0.039_326_496, -0.019_058_771, -0.008_463_612, -0.003_448_189, -0.001_296_14,
    ],
    [
        0.017_638_702, 0.055_181_3, 0.095_108_72, 0.117_066_585, 0.119_076_27, 0.105_274_22, 0.082_784_675, 0.058_627_076,
        0.037_670_802, 0.022_068_12, 0.011_825_334, 0.005_809_959, 0.002_621_809_7, 0.001_088_109_7, 0.000_415_752_38, 0.000_147_088_1,
    ],
];
/// Beyond it `a * Phi(-a)` is below 3.7e-5.
#[cfg(target_arch = "x86_64")]
const PHI_END: f32 = 4.3;

/// [`gelu`] from a table of 16 intervals that three registers hold.
///
/// # Safety
/// The CPU has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn from_table(x: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let a = _mm512_min_ps(_mm512_abs_ps(x), _mm512_set1_ps(PHI_END));
        // Added to 2^23, a number leaves itself as an integer in the lowest bits, of which `vpermps` takes four.
        let scaled =
            _mm512_fmadd_ps(a, _mm512_set1_ps(15.49 / PHI_END), _mm512_set1_ps(8_388_608.0));
        let interval = _mm512_castps_si512(scaled);
        let power = |i: usize| _mm512_permutexvar_ps(interval, _mm512_loadu_ps(PHI[i].as_ptr()));
        let u = _mm512_fmadd_ps(_mm512_fmadd_ps(power(2), a, power(1)), a, power(0));
        // Of zero and a NaN, `vmaxps` gives the second.
        _mm512_fnmadd_ps(a, u, _mm512_max_ps(_mm512_setzero_ps(), x))
    }
}
