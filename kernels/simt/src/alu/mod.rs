//! What the arithmetic instructions compute, one function for each opcode and type.
//!
//! Every function works on all 32 lanes, active or not, and is total: the executor keeps what the
//! active lanes want. Semantics are those of the PTX manual, section "Instruction Set".

#![allow(clippy::unnecessary_cast, reason = "the table's types include the one cast to")]

pub mod bits;
pub mod compare;
pub mod convert;
pub mod float;
pub mod int;

use crate::program::Lanes;

/// Up to four operands in, one result out.
pub type AluFn = fn([&Lanes; 4]) -> Lanes;

/// Lifts an expression over one to four lane values to an `AluFn`.
macro_rules! lanes {
    (|$a:ident| $e:expr) => {
        $crate::alu::lanes!(|$a, _b, _c, _d| $e)
    };
    (|$a:ident, $b:ident| $e:expr) => {
        $crate::alu::lanes!(|$a, $b, _c, _d| $e)
    };
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::alu::lanes!(|$a, $b, $c, _d| $e)
    };
    (|$a:ident, $b:ident, $c:ident, $d:ident| $e:expr) => {{
        let f: $crate::alu::AluFn = |source| {
            let mut result = [0u64; $crate::program::WARP_LANES];
            for (lane, out) in result.iter_mut().enumerate() {
                let $a = source[0][lane];
                let $b = source[1][lane];
                let $c = source[2][lane];
                let $d = source[3][lane];
                *out = $e;
            }
            result
        };
        f
    }};
}
pub(crate) use lanes;

/// `body` with `$t` as the Rust integer behind a PTX integer type; None for other types.
macro_rules! per_int {
    ($ty:expr, $t:ident, $body:expr) => {{
        use $crate::ptx::ast::Type;
        match $ty {
            Type::U8 | Type::B8 => {
                type $t = u8;
                Some($body)
            }
            Type::S8 => {
                type $t = i8;
                Some($body)
            }
            Type::U16 | Type::B16 => {
                type $t = u16;
                Some($body)
            }
            Type::S16 => {
                type $t = i16;
                Some($body)
            }
            Type::U32 | Type::B32 => {
                type $t = u32;
                Some($body)
            }
            Type::S32 => {
                type $t = i32;
                Some($body)
            }
            Type::U64 | Type::B64 => {
                type $t = u64;
                Some($body)
            }
            Type::S64 => {
                type $t = i64;
                Some($body)
            }
            _ => None,
        }
    }};
}
pub(crate) use per_int;

/// Subnormals to zero of the same sign, as `.ftz` does.
#[must_use]
pub fn flush_f32(bits: u64) -> u64 {
    let bits = bits as u32;
    u64::from(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}
