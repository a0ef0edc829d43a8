//! Integer arithmetic.

use super::{AluFn, lanes, per_int};
use crate::ptx::ast::Type;

/// `op` with the part of a product it keeps, `""` for none: `("mul", "wide")`.
#[must_use]
pub fn select(op: &str, part: &str, ty: Type) -> Option<AluFn> {
    match (op, part) {
        ("add", "") => per_int!(ty, T, lanes!(|a, b| (a as T).wrapping_add(b as T) as u64)),
        ("sub", "") => per_int!(ty, T, lanes!(|a, b| (a as T).wrapping_sub(b as T) as u64)),
        ("mul", "lo") => per_int!(ty, T, lanes!(|a, b| (a as T).wrapping_mul(b as T) as u64)),
        ("mul", "hi") => {
            per_int!(ty, T, lanes!(|a, b| high_product(wide(a as T), wide(b as T), T::BITS)))
        }
        ("mul", "wide") => {
            per_int!(ty, T, lanes!(|a, b| (a as T as u64).wrapping_mul(b as T as u64)))
        }
        ("mad", "lo") => {
            per_int!(
                ty,
                T,
                lanes!(|a, b, c| (a as T).wrapping_mul(b as T).wrapping_add(c as T) as u64)
            )
        }
        ("mad", "hi") => per_int!(
            ty,
            T,
            lanes!(|a, b, c| high_product(wide(a as T), wide(b as T), T::BITS).wrapping_add(c))
        ),
        ("mad", "wide") => {
            per_int!(
                ty,
                T,
                lanes!(|a, b, c| (a as T as u64).wrapping_mul(b as T as u64).wrapping_add(c))
            )
        }
        // The manual leaves division by zero open; all ones is what the hardware's code gives.
        ("div", "") => per_int!(
            ty,
            T,
            lanes!(|a, b| if b as T == 0 {
                u64::MAX
            } else {
                (a as T).wrapping_div(b as T) as u64
            })
        ),
        ("rem", "") => per_int!(
            ty,
            T,
            lanes!(|a, b| if b as T == 0 { a } else { (a as T).wrapping_rem(b as T) as u64 })
        ),
        ("min", "") => per_int!(ty, T, lanes!(|a, b| (a as T).min(b as T) as u64)),
        ("max", "") => per_int!(ty, T, lanes!(|a, b| (a as T).max(b as T) as u64)),
        ("sad", "") => {
            per_int!(ty, T, lanes!(|a, b, c| ((a as T).abs_diff(b as T) as u64).wrapping_add(c)))
        }
        ("neg", "") => per_int!(ty, T, lanes!(|a| (a as T).wrapping_neg() as u64)),
        ("abs", "") => match ty {
            Type::S16 => Some(lanes!(|a| (a as i16).wrapping_abs() as u64)),
            Type::S32 => Some(lanes!(|a| (a as i32).wrapping_abs() as u64)),
            Type::S64 => Some(lanes!(|a| (a as i64).wrapping_abs() as u64)),
            _ => None,
        },
        _ => None,
    }
}

/// Lossless into 128 bits, for any integer of a register.
trait Wide: Copy {
    fn wide(self) -> i128;
}

macro_rules! impl_wide {
    ($($t:ty)*) => { $(impl Wide for $t { fn wide(self) -> i128 { i128::from(self) } })* };
}
impl_wide!(u8 i8 u16 i16 u32 i32 u64 i64);

fn wide<T: Wide>(value: T) -> i128 {
    value.wide()
}

fn high_product(a: i128, b: i128, bits: u32) -> u64 {
    // The product of two u64 does not fit in i128, but its bits do: the shift takes them as they are.
    (a.wrapping_mul(b) as u128 >> bits) as u64
}

/// `dp4a` of four signed or unsigned bytes each.
#[must_use]
pub fn dp4a(a_signed: bool, b_signed: bool) -> AluFn {
    fn dot(a: u64, b: u64, a_signed: bool, b_signed: bool) -> u64 {
        let byte = |value: u64, at: u32, signed: bool| {
            let byte = (value >> (8 * at)) as u8;
            if signed { i64::from(byte as i8) } else { i64::from(byte) }
        };
        (0..4).map(|at| byte(a, at, a_signed) * byte(b, at, b_signed)).sum::<i64>() as u64
    }
    match (a_signed, b_signed) {
        (true, true) => lanes!(|a, b, c| dot(a, b, true, true).wrapping_add(c)),
        (true, false) => lanes!(|a, b, c| dot(a, b, true, false).wrapping_add(c)),
        (false, true) => lanes!(|a, b, c| dot(a, b, false, true).wrapping_add(c)),
        (false, false) => lanes!(|a, b, c| dot(a, b, false, false).wrapping_add(c)),
    }
}
