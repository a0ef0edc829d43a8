//! Floating-point arithmetic on f16, bf16, their pairs, f32 and f64.

use half::{bf16, f16};

use super::{AluFn, lanes};
use crate::ptx::ast::Type;

#[must_use]
pub fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

#[must_use]
pub fn bits_of(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// The 16-bit formats compute in f32 or f64 and round once: exact for one operation, since f32 has
/// more than twice their precision.
trait Half: Copy {
    fn get(bits: u64) -> f64;
    fn put(value: f64) -> u64;
}

impl Half for f16 {
    fn get(bits: u64) -> f64 {
        f16::from_bits(bits as u16).to_f64()
    }
    fn put(value: f64) -> u64 {
        u64::from(f16::from_f64(value).to_bits())
    }
}

impl Half for bf16 {
    fn get(bits: u64) -> f64 {
        bf16::from_bits(bits as u16).to_f64()
    }
    fn put(value: f64) -> u64 {
        u64::from(bf16::from_f64(value).to_bits())
    }
}

/// PTX max and min drop a NaN beside a number; Rust's do the same. -0 is below +0 in PTX.
fn max(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

fn min(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
}

fn pair(hi: u64, lo: u64) -> u64 {
    (hi & 0xffff) << 16 | (lo & 0xffff)
}

/// Lifts an expression over f64 to scalars of `$t`, or to pairs when `$packed`.
macro_rules! half_op {
    ($packed:expr, $t:ty, |$a:ident $(, $b:ident $(, $c:ident)?)?| $e:expr) => {{
        fn one(a: u64, _b: u64, _c: u64) -> u64 {
            let $a = <$t>::get(a);
            $(let $b = <$t>::get(_b); $(let $c = <$t>::get(_c);)?)?
            <$t>::put($e)
        }
        if $packed {
            lanes!(|a, b, c| pair(one(a >> 16, b >> 16, c >> 16), one(a, b, c)))
        } else {
            lanes!(|a, b, c| one(a, b, c))
        }
    }};
}

macro_rules! half_table {
    ($name:ident, $t:ty) => {
        fn $name(op: &str, packed: bool) -> Option<AluFn> {
            Some(match op {
                "add" => half_op!(packed, $t, |a, b| a + b),
                "sub" => half_op!(packed, $t, |a, b| a - b),
                "mul" => half_op!(packed, $t, |a, b| a * b),
                "fma" => half_op!(packed, $t, |a, b, c| a.mul_add(b, c)),
                "fma.relu" => half_op!(packed, $t, |a, b, c| max(a.mul_add(b, c), 0.0)),
                "min" => half_op!(packed, $t, |a, b| min(a, b)),
                "max" => half_op!(packed, $t, |a, b| max(a, b)),
                "neg" => half_op!(packed, $t, |a| -a),
                "abs" => half_op!(packed, $t, |a| a.abs()),
                "ex2" => half_op!(packed, $t, |a| a.exp2()),
                "tanh" => half_op!(packed, $t, |a| a.tanh()),
                _ => return None,
            })
        }
    };
}
half_table!(select_f16, f16);
half_table!(select_bf16, bf16);

fn select_f32(op: &str) -> Option<AluFn> {
    Some(match op {
        "add" => lanes!(|a, b| bits_of(f32_of(a) + f32_of(b))),
        "sub" => lanes!(|a, b| bits_of(f32_of(a) - f32_of(b))),
        "mul" => lanes!(|a, b| bits_of(f32_of(a) * f32_of(b))),
        "div" => lanes!(|a, b| bits_of(f32_of(a) / f32_of(b))),
        "fma" | "mad" => lanes!(|a, b, c| bits_of(f32_of(a).mul_add(f32_of(b), f32_of(c)))),
        "min" => lanes!(|a, b| bits_of(min(f32_of(a).into(), f32_of(b).into()) as f32)),
        "max" => lanes!(|a, b| bits_of(max(f32_of(a).into(), f32_of(b).into()) as f32)),
        // Sign operations touch no other bit, of a NaN either.
        "neg" => lanes!(|a| a ^ 0x8000_0000),
        "abs" => lanes!(|a| a & 0x7fff_ffff),
        "copysign" => lanes!(|a, b| (b & 0x7fff_ffff) | (a & 0x8000_0000)),
        "rcp" => lanes!(|a| bits_of(1.0 / f32_of(a))),
        "sqrt" => lanes!(|a| bits_of(f32_of(a).sqrt())),
        "rsqrt" => lanes!(|a| bits_of((1.0 / f64::from(f32_of(a)).sqrt()) as f32)),
        "ex2" => lanes!(|a| bits_of(f64::from(f32_of(a)).exp2() as f32)),
        "lg2" => lanes!(|a| bits_of(f64::from(f32_of(a)).log2() as f32)),
        "sin" => lanes!(|a| bits_of(f64::from(f32_of(a)).sin() as f32)),
        "cos" => lanes!(|a| bits_of(f64::from(f32_of(a)).cos() as f32)),
        "tanh" => lanes!(|a| bits_of(f64::from(f32_of(a)).tanh() as f32)),
        "testp.finite" => lanes!(|a| u64::from(f32_of(a).is_finite())),
        "testp.infinite" => lanes!(|a| u64::from(f32_of(a).is_infinite())),
        "testp.notanumber" => lanes!(|a| u64::from(f32_of(a).is_nan())),
        "testp.number" => lanes!(|a| u64::from(!f32_of(a).is_nan())),
        _ => return None,
    })
}

fn select_f64(op: &str) -> Option<AluFn> {
    Some(match op {
        "add" => lanes!(|a, b| (f64_of(a) + f64_of(b)).to_bits()),
        "sub" => lanes!(|a, b| (f64_of(a) - f64_of(b)).to_bits()),
        "mul" => lanes!(|a, b| (f64_of(a) * f64_of(b)).to_bits()),
        "div" => lanes!(|a, b| (f64_of(a) / f64_of(b)).to_bits()),
        "fma" | "mad" => lanes!(|a, b, c| f64_of(a).mul_add(f64_of(b), f64_of(c)).to_bits()),
        "min" => lanes!(|a, b| min(f64_of(a), f64_of(b)).to_bits()),
        "max" => lanes!(|a, b| max(f64_of(a), f64_of(b)).to_bits()),
        "neg" => lanes!(|a| a ^ (1 << 63)),
        "abs" => lanes!(|a| a & !(1 << 63)),
        "rcp" => lanes!(|a| (1.0 / f64_of(a)).to_bits()),
        "sqrt" => lanes!(|a| f64_of(a).sqrt().to_bits()),
        _ => return None,
    })
}

/// The function of `op`, rounding to nearest even.
#[must_use]
pub fn select(op: &str, ty: Type) -> Option<AluFn> {
    match ty {
        Type::F16 => select_f16(op, false),
        Type::F16x2 => select_f16(op, true),
        Type::Bf16 => select_bf16(op, false),
        Type::Bf16x2 => select_bf16(op, true),
        Type::F32 => select_f32(op),
        Type::F64 => select_f64(op),
        _ => None,
    }
}

/// The error the manual allows an approximate f32 instruction, in units of the last place.
///
/// On top of this comes the half ulp of rounding. rsqrt: 2^-22.9 relative. lg2, sin, cos: absolute bounds, taken as ulps of results near 1. tanh: 2^-11 relative.
#[must_use]
pub fn allowed_error_ulps(op: &str) -> u16 {
    match op {
        "rcp" | "sqrt" | "rsqrt" => 1,
        "div" | "ex2" => 2,
        "lg2" | "sin" | "cos" => 4,
        "tanh" => 4096,
        _ => 0,
    }
}
