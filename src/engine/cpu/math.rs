//! The transcendental functions of the kernels, as polynomials, with their error bounds.

use super::simd::Simd;
use crate::engine::{Epilogue, Gate};

/// `2^x` on [-1/2, 1/2], relative error 2.7e-7 in f32 (least squares at Chebyshev nodes, exact at 0).
pub(super) const EXP2: [f32; 6] =
    [1.0, std::f32::consts::LN_2, 0.240_223_48, 0.055_503_57, 0.009_666_374, 0.001_339_086_7];

/// `a * erfc(a / sqrt(2)) / 2` on [0, GELU_END] in powers of `2a / GELU_END - 1`: absolute error 2.7e-7 in
/// f32, evaluation included (Chebyshev fit of degree 16). Beyond the end the function is below 1.1e-7.
pub(super) const GELU: [f32; 17] = [
    0.008_194_37,
    -0.060_577_98,
    0.191_263_38,
    -0.308_680_9,
    0.178_947_58,
    0.260_418_27,
    -0.628_322_9,
    0.459_697_34,
    0.151_383_86,
    -0.545_276_4,
    0.272_212_54,
    0.232_402_07,
    -0.256_906_2,
    -0.037_460_41,
    0.098_924_37,
    -0.000_522_047_34,
    -0.015_696_92,
];
pub(super) const GELU_END: f32 = 5.5;

/// Below this `2^x` counts as `2^EXP2_MIN`: no denormals, which some CPUs take in microcode.
const EXP2_MIN: f32 = -125.0;
const EXP2_MAX: f32 = 127.0;

/// `sqrt(2 / pi)` and the cubic's factor of the tanh form of GELU.
pub(super) const GELU_TANH: (f32, f32) = (0.797_884_6, 0.044_715);

/// `2^x` for `x <= 127.5`.
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let x = S::max(x, S::splat(EXP2_MIN));
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut y = S::splat(EXP2[5]);
        for c in EXP2[..5].iter().rev() {
            y = S::fma(y, r, S::splat(*c));
        }
        S::scale2(y, n)
    }
}

/// `e^x`, clamped to what f32 holds.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe { exp2::<S>(S::min(S::mul(x, S::splat(std::f32::consts::LOG2_E)), S::splat(EXP2_MAX))) }
}

/// `x * Phi(x)`, written `max(x, 0) - |x| * Phi(-|x|)`: one polynomial, no exponential, no division.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let a = S::min(S::abs(x), S::splat(GELU_END));
        let u = S::fma(a, S::splat(2.0 / GELU_END), S::splat(-1.0));
        // Even and odd powers apart: two chains of half the latency.
        let uu = S::mul(u, u);
        let mut even = S::splat(GELU[16]);
        let mut odd = S::splat(GELU[15]);
        for i in (0..7).rev() {
            even = S::fma(even, uu, S::splat(GELU[2 * i + 2]));
            odd = S::fma(odd, uu, S::splat(GELU[2 * i + 1]));
        }
        even = S::fma(even, uu, S::splat(GELU[0]));
        S::sub(S::max(x, S::splat(0.0)), S::fma(odd, u, even))
    }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// Replaces each of `len` numbers, rounded up to whole vectors, by `cap * tanh(x / cap)`.
///
/// # Safety
/// The CPU has the instruction set, and the numbers are valid memory.
#[inline(always)]
pub(super) unsafe fn softcap<S: Simd>(x: *mut f32, len: usize, cap: f32) {
    for i in (0..len).step_by(S::LANES) {
        // SAFETY: below `len` in whole vectors.
        unsafe {
            let scaled = S::mul(S::load(x.add(i)), S::splat(1.0 / cap));
            let tanh = activate::<S>(Epilogue::BiasTanh, scaled);
            S::store(x.add(i), S::mul(tanh, S::splat(cap)));
        }
    }
}

/// The activation of the half of a row that gates the other.
#[inline(always)]
pub(super) unsafe fn gate<S: Simd>(gate: Gate, x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        match gate {
            Gate::Gelu => activate::<S>(Epilogue::BiasGelu, x),
            Gate::GeluTanh => activate::<S>(Epilogue::BiasGeluTanh, x),
            Gate::Silu => S::mul(x, sigmoid::<S>(x)),
            Gate::Relu => activate::<S>(Epilogue::BiasRelu, x),
        }
    }
}

/// The activation of `epilogue`; the bias is already in `x`.
#[inline(always)]
pub(super) unsafe fn activate<S: Simd>(epilogue: Epilogue, x: S::V) -> S::V {
    // SAFETY: the caller's CPU has the instruction set.
    unsafe {
        match epilogue {
            Epilogue::Bias => x,
            Epilogue::BiasGelu => S::precise_gelu(x),
            Epilogue::BiasGeluTanh => {
                let cubic = S::fma(S::mul(x, x), S::splat(GELU_TANH.1), S::splat(1.0));
                let u = S::mul(S::mul(x, S::splat(2.0 * GELU_TANH.0)), cubic);
                S::mul(x, sigmoid::<S>(u))
            }
            Epilogue::BiasRelu => S::max(x, S::splat(0.0)),
            // 2 sigmoid(2x) - 1
            Epilogue::BiasTanh => {
                let s = sigmoid::<S>(S::add(x, x));
                S::sub(S::add(s, s), S::splat(1.0))
            }
        }
    }
}
