//! `cvt` between all scalar types, and its packing forms.

use half::{bf16, f16};

use super::float::{bits_of, f32_of};
use super::{AluFn, lanes, per_int};
use crate::ptx::ast::Type;

/// Direction of a rounding to an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToInt {
    Nearest,
    Zero,
    Down,
    Up,
}

impl ToInt {
    #[must_use]
    pub fn parse(modifier: &str) -> Option<ToInt> {
        Some(match modifier {
            "rni" => ToInt::Nearest,
            "rzi" => ToInt::Zero,
            "rmi" => ToInt::Down,
            "rpi" => ToInt::Up,
            _ => return None,
        })
    }
}

/// Integer to integer: extended by the source's sign, cut or clamped to the target.
#[must_use]
pub fn int_to_int(to: Type, from: Type, saturate: bool) -> Option<AluFn> {
    if saturate {
        return clamp(to, from);
    }
    // The upper bits carry the extension; a narrower target is cut by whoever reads it.
    per_int!(from, T, lanes!(|a| a as T as u64))
}

macro_rules! clamp_from {
    ($from:ty, $to:expr) => {
        per_int!(
            $to,
            T,
            lanes!(|a| i128::from(a as $from).clamp(i128::from(T::MIN), i128::from(T::MAX)) as u64)
        )
    };
}

fn clamp(to: Type, from: Type) -> Option<AluFn> {
    match from {
        Type::S8 => clamp_from!(i8, to),
        Type::U8 => clamp_from!(u8, to),
        Type::S16 => clamp_from!(i16, to),
        Type::U16 => clamp_from!(u16, to),
        Type::S32 => clamp_from!(i32, to),
        Type::U32 => clamp_from!(u32, to),
        Type::S64 => clamp_from!(i64, to),
        Type::U64 => clamp_from!(u64, to),
        _ => None,
    }
}

/// Integer to float, to nearest even.
#[must_use]
pub fn int_to_float(to: Type, from: Type) -> Option<AluFn> {
    match to {
        Type::F32 => per_int!(from, T, lanes!(|a| bits_of(a as T as f32))),
        Type::F64 => per_int!(from, T, lanes!(|a| (a as T as f64).to_bits())),
        // Through f64, which holds every integer below 2^53; larger ones overflow f16 anyway.
        Type::F16 => {
            per_int!(from, T, lanes!(|a| u64::from(f16::from_f64(a as T as f64).to_bits())))
        }
        Type::Bf16 => {
            per_int!(from, T, lanes!(|a| u64::from(bf16::from_f64(a as T as f64).to_bits())))
        }
        _ => None,
    }
}

macro_rules! float_to_int {
    ($to:expr, $mode:expr, |$a:ident| $get:expr) => {
        match $mode {
            // `as` clamps, and takes NaN to 0: what cvt does.
            ToInt::Nearest => {
                per_int!($to, T, lanes!(|$a| f64::round_ties_even($get) as T as u64))
            }
            ToInt::Zero => per_int!($to, T, lanes!(|$a| f64::trunc($get) as T as u64)),
            ToInt::Down => per_int!($to, T, lanes!(|$a| f64::floor($get) as T as u64)),
            ToInt::Up => per_int!($to, T, lanes!(|$a| f64::ceil($get) as T as u64)),
        }
    };
}

#[must_use]
pub fn float_to_int(to: Type, from: Type, mode: ToInt) -> Option<AluFn> {
    match from {
        Type::F16 => float_to_int!(to, mode, |a| f16::from_bits(a as u16).to_f64()),
        Type::Bf16 => float_to_int!(to, mode, |a| bf16::from_bits(a as u16).to_f64()),
        Type::F32 => float_to_int!(to, mode, |a| f64::from(f32_of(a))),
        Type::F64 => float_to_int!(to, mode, |a| f64::from_bits(a)),
        _ => None,
    }
}

/// Float to a whole number in the same type.
#[must_use]
pub fn round_float(ty: Type, mode: ToInt) -> Option<AluFn> {
    match (ty, mode) {
        (Type::F32, ToInt::Nearest) => Some(lanes!(|a| bits_of(f32_of(a).round_ties_even()))),
        (Type::F32, ToInt::Zero) => Some(lanes!(|a| bits_of(f32_of(a).trunc()))),
        (Type::F32, ToInt::Down) => Some(lanes!(|a| bits_of(f32_of(a).floor()))),
        (Type::F32, ToInt::Up) => Some(lanes!(|a| bits_of(f32_of(a).ceil()))),
        _ => None,
    }
}

/// f32 to tf32, ties away from zero: the low 13 bits of the mantissa are rounded off.
#[must_use]
pub fn to_tf32() -> AluFn {
    lanes!(|a| if f32_of(a).is_finite() { (a + 0x1000) & 0xffff_e000 } else { a })
}

fn half_bits(value: f32) -> u64 {
    u64::from(f16::from_f32(value).to_bits())
}

fn bhalf_bits(value: f32) -> u64 {
    u64::from(bf16::from_f32(value).to_bits())
}

/// Cuts the magnitude instead of rounding it.
fn half_bits_toward_zero(value: f32) -> u64 {
    let near = f16::from_f32(value);
    let cut = value.is_finite() && near.to_f32().abs() > value.abs();
    u64::from(near.to_bits() - u16::from(cut))
}

fn bhalf_bits_toward_zero(value: f32) -> u64 {
    if value.is_nan() { bhalf_bits(value) } else { bits_of(value) >> 16 }
}

/// Float to float, to nearest even or toward zero.
#[must_use]
pub fn float_to_float(to: Type, from: Type, toward_zero: bool) -> Option<AluFn> {
    Some(match (to, from, toward_zero) {
        (Type::F32, Type::F16, _) => lanes!(|a| bits_of(f16::from_bits(a as u16).to_f32())),
        (Type::F32, Type::Bf16, _) => lanes!(|a| bits_of(f32_of((a & 0xffff) << 16))),
        (Type::F16, Type::F32, false) => lanes!(|a| half_bits(f32_of(a))),
        (Type::F16, Type::F32, true) => lanes!(|a| half_bits_toward_zero(f32_of(a))),
        (Type::Bf16, Type::F32, false) => lanes!(|a| bhalf_bits(f32_of(a))),
        (Type::Bf16, Type::F32, true) => lanes!(|a| bhalf_bits_toward_zero(f32_of(a))),
        (Type::F64, Type::F32, _) => lanes!(|a| f64::from(f32_of(a)).to_bits()),
        (Type::F32, Type::F64, false) => lanes!(|a| bits_of(f64::from_bits(a) as f32)),
        (Type::F64, Type::F16, _) => lanes!(|a| f16::from_bits(a as u16).to_f64().to_bits()),
        (Type::F16, Type::F64, false) => {
            lanes!(|a| u64::from(f16::from_f64(f64::from_bits(a)).to_bits()))
        }
        (Type::F16, Type::F16, _) | (Type::F32, Type::F32, _) | (Type::F64, Type::F64, _) => {
            lanes!(|a| a)
        }
        _ => return None,
    })
}

/// `cvt.rn.f16x2.f32 d, a, b`: a goes to the upper half.
#[must_use]
pub fn pack(to: Type, toward_zero: bool, relu: bool) -> Option<AluFn> {
    fn positive(bits: u64) -> f32 {
        let value = f32_of(bits);
        if value > 0.0 || value.is_nan() { value } else { 0.0 }
    }
    Some(match (to, toward_zero, relu) {
        (Type::F16x2, false, false) => {
            lanes!(|a, b| half_bits(f32_of(a)) << 16 | half_bits(f32_of(b)))
        }
        (Type::F16x2, false, true) => {
            lanes!(|a, b| half_bits(positive(a)) << 16 | half_bits(positive(b)))
        }
        (Type::F16x2, true, false) => {
            lanes!(|a, b| half_bits_toward_zero(f32_of(a)) << 16 | half_bits_toward_zero(f32_of(b)))
        }
        (Type::Bf16x2, false, false) => {
            lanes!(|a, b| bhalf_bits(f32_of(a)) << 16 | bhalf_bits(f32_of(b)))
        }
        (Type::Bf16x2, false, true) => {
            lanes!(|a, b| bhalf_bits(positive(a)) << 16 | bhalf_bits(positive(b)))
        }
        (Type::Bf16x2, true, false) => {
            lanes!(
                |a, b| bhalf_bits_toward_zero(f32_of(a)) << 16 | bhalf_bits_toward_zero(f32_of(b))
            )
        }
        _ => return None,
    })
}
