//! Logic, shifts, bit fields and byte permutation.

use super::{AluFn, lanes, per_int};
use crate::ptx::ast::Type;

#[must_use]
pub fn select(op: &str, ty: Type) -> Option<AluFn> {
    Some(match (op, ty) {
        ("and", _) => lanes!(|a, b| a & b),
        ("or", _) => lanes!(|a, b| a | b),
        ("xor", _) => lanes!(|a, b| a ^ b),
        ("not", Type::Pred) => lanes!(|a| (a & 1) ^ 1),
        ("not", _) => lanes!(|a| !a),
        ("cnot", _) => return per_int!(ty, T, lanes!(|a| u64::from(a as T == 0))),
        ("mov" | "cvta", _) => lanes!(|a| a),
        ("selp", _) => lanes!(|a, b, p| if p & 1 == 1 { a } else { b }),
        // Amounts are 32 bits, unsigned; past the width a shift gives 0 or the sign.
        ("shl", _) => {
            return per_int!(
                ty,
                T,
                lanes!(|a, b| (a as T).checked_shl(b as u32).unwrap_or(0) as u64)
            );
        }
        ("shr", _) => {
            return per_int!(
                ty,
                T,
                lanes!(|a, b| {
                    let amount = b as u32;
                    // In two steps: a shift by the whole width is no shift in Rust.
                    (if amount < T::BITS {
                        (a as T) >> amount
                    } else {
                        ((a as T) >> (T::BITS - 1)) >> 1
                    }) as u64
                })
            );
        }
        ("popc", Type::B32) => lanes!(|a| u64::from((a as u32).count_ones())),
        ("popc", Type::B64) => lanes!(|a| u64::from(a.count_ones())),
        ("clz", Type::B32) => lanes!(|a| u64::from((a as u32).leading_zeros())),
        ("clz", Type::B64) => lanes!(|a| u64::from(a.leading_zeros())),
        ("brev", Type::B32) => lanes!(|a| u64::from((a as u32).reverse_bits())),
        ("brev", Type::B64) => lanes!(|a| a.reverse_bits()),
        ("bfind", Type::U32) => lanes!(|a| find_top(a & 0xffff_ffff)),
        ("bfind", Type::U64) => lanes!(|a| find_top(a)),
        ("bfind", Type::S32) => {
            lanes!(|a| find_top(u64::from((a as u32) ^ ((a as i32 >> 31) as u32))))
        }
        ("bfind", Type::S64) => lanes!(|a| find_top(a ^ (a as i64 >> 63) as u64)),
        ("bfe", Type::U32) => lanes!(|a, b, c| extract(a & 0xffff_ffff, b, c, 32, false)),
        ("bfe", Type::S32) => lanes!(|a, b, c| extract(a & 0xffff_ffff, b, c, 32, true)),
        ("bfe", Type::U64) => lanes!(|a, b, c| extract(a, b, c, 64, false)),
        ("bfe", Type::S64) => lanes!(|a, b, c| extract(a, b, c, 64, true)),
        ("bfi", Type::B32) => lanes!(|a, b, c, d| insert(a, b, c, d, 32)),
        ("bfi", Type::B64) => lanes!(|a, b, c, d| insert(a, b, c, d, 64)),
        ("lop3", Type::B32) => lanes!(|a, b, c, table| lop3(a, b, c, table)),
        ("prmt", Type::B32) => lanes!(|a, b, c| permute(a, b, c)),
        _ => return None,
    })
}

/// `shf.{l,r}.{wrap,clamp}.b32`: a is the low word, b the high one.
#[must_use]
pub fn funnel(left: bool, wrap: bool) -> AluFn {
    fn joined(a: u64, b: u64) -> u64 {
        (b << 32) | (a & 0xffff_ffff)
    }
    match (left, wrap) {
        (true, true) => lanes!(|a, b, c| (joined(a, b) << (c & 31)) >> 32),
        (true, false) => lanes!(|a, b, c| (joined(a, b) << u64::from(c as u32).min(32)) >> 32),
        (false, true) => lanes!(|a, b, c| joined(a, b) >> (c & 31)),
        (false, false) => lanes!(|a, b, c| joined(a, b) >> u64::from(c as u32).min(32)),
    }
}

fn find_top(value: u64) -> u64 {
    if value == 0 { 0xffff_ffff } else { u64::from(63 - value.leading_zeros()) }
}

fn extract(value: u64, position: u64, length: u64, width: u32, signed: bool) -> u64 {
    let (position, length) = ((position & 0xff) as u32, (length & 0xff) as u32);
    let top = (position + length).saturating_sub(1).min(width - 1);
    let sign = if signed && length > 0 { (value >> top) & 1 } else { 0 };
    let field = if position >= width { 0 } else { value >> position };
    // Bits of the field that lie in the register; all above are sign.
    let kept = if position >= width { 0 } else { length.min(width - position) };
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    (field & mask) | if sign == 1 { !mask } else { 0 }
}

fn insert(field: u64, target: u64, position: u64, length: u64, width: u32) -> u64 {
    let (position, length) = ((position & 0xff) as u32, (length & 0xff) as u32);
    if position >= width {
        return target;
    }
    let length = length.min(width - position);
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 } << position;
    (target & !mask) | ((field << position) & mask)
}

fn lop3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    let mut result = 0;
    for row in 0..8u64 {
        if table >> row & 1 == 1 {
            let pick = |value: u64, bit: u64| if row >> bit & 1 == 1 { value } else { !value };
            result |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    result
}

fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = (b << 32) | (a & 0xffff_ffff);
    let mut result = 0;
    for at in 0..4 {
        let select = selector >> (4 * at);
        let byte = (bytes >> (8 * (select & 7))) & 0xff;
        // The fourth bit replicates the sign of the byte instead.
        let byte = match (select & 8, byte & 0x80) {
            (0, _) => byte,
            (_, 0) => 0,
            _ => 0xff,
        };
        result |= byte << (8 * at);
    }
    result
}
