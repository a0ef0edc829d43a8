//! `set` and `setp`: comparisons with one bit as the result.

#![expect(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "`ltu` is by definition what `ge` is not: true when a NaN takes part"
)]

use super::float::f32_of;
use super::{AluFn, lanes, per_int};
use crate::ptx::ast::Type;
use half::{bf16, f16};

macro_rules! select_float {
    ($op:expr, |$v:ident| $get:expr) => {{
        macro_rules! compare {
            (|$x:ident, $y:ident| $e:expr) => {
                Some(lanes!(|a, b| {
                    let $v = a;
                    let $x = $get;
                    let $v = b;
                    let $y = $get;
                    u64::from($e)
                }))
            };
        }
        match $op {
            "eq" => compare!(|x, y| x == y),
            // Ordered: false when a NaN takes part, unlike Rust's `!=`.
            "ne" => compare!(|x, y| !x.is_nan() && !y.is_nan() && x != y),
            "lt" => compare!(|x, y| x < y),
            "le" => compare!(|x, y| x <= y),
            "gt" => compare!(|x, y| x > y),
            "ge" => compare!(|x, y| x >= y),
            "equ" => compare!(|x, y| x.is_nan() || y.is_nan() || x == y),
            "neu" => compare!(|x, y| x != y),
            "ltu" => compare!(|x, y| !(x >= y)),
            "leu" => compare!(|x, y| !(x > y)),
            "gtu" => compare!(|x, y| !(x <= y)),
            "geu" => compare!(|x, y| !(x < y)),
            "num" => compare!(|x, y| !x.is_nan() && !y.is_nan()),
            "nan" => compare!(|x, y| x.is_nan() || y.is_nan()),
            _ => None,
        }
    }};
}
/// The comparison `op` on `ty`; unordered forms (`ltu`) hold when a NaN takes part.
#[must_use]
pub fn select(op: &str, ty: Type) -> Option<AluFn> {
    match ty {
        Type::Pred => None,
        Type::F16 => select_float!(op, |a| f16::from_bits(a as u16).to_f32()),
        Type::Bf16 => select_float!(op, |a| bf16::from_bits(a as u16).to_f32()),
        Type::F32 => select_float!(op, |a| f32_of(a)),
        Type::F64 => select_float!(op, |a| f64::from_bits(a)),
        _ => match op {
            "eq" => per_int!(ty, T, lanes!(|a, b| u64::from(a as T == b as T))),
            "ne" => per_int!(ty, T, lanes!(|a, b| u64::from(a as T != b as T))),
            "lt" | "lo" => per_int!(ty, T, lanes!(|a, b| u64::from((a as T) < b as T))),
            "le" | "ls" => per_int!(ty, T, lanes!(|a, b| u64::from(a as T <= b as T))),
            "gt" | "hi" => per_int!(ty, T, lanes!(|a, b| u64::from(a as T > b as T))),
            "ge" | "hs" => per_int!(ty, T, lanes!(|a, b| u64::from(a as T >= b as T))),
            _ => None,
        },
    }
}
