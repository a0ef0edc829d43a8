//! Atomic read-modify-write, lane after lane.

use half::{bf16, f16};

use super::access::{Target, resolve};
use super::warp::{Warp, lanes_of};
use super::{Context, LaneFault};
use crate::fault::FaultKind;
use crate::program::{Atomic, Reduction};
use crate::ptx::ast::Type;

pub fn run(
    warp: &mut Warp,
    context: &mut Context<'_>,
    atomic: &Atomic,
    mask: u32,
) -> Result<(), LaneFault> {
    context.counters.atomics += 1;
    let bytes = atomic.ty.bytes();
    for lane in lanes_of(mask) {
        let blame = |kind: FaultKind| LaneFault { lane, kind };
        let target = resolve(warp, atomic.address, lane).map_err(|fault| blame(fault.into()))?;
        let cell = match target {
            Target::Global(at) => context
                .global
                .write(at, u64::from(bytes), u64::from(bytes))
                .map_err(|fault| blame(fault.into()))?,
            Target::Shared(offset) => {
                let access = context.access(warp.id, Some(lane));
                context.shared.atomic(access, offset, bytes).map_err(blame)?
            }
            Target::Local(_) | Target::Param(_) => {
                return Err(blame(FaultKind::Unsupported { what: "atomic on this space".into() }));
            }
        };
        let mut old = [0; 8];
        old[..bytes as usize].copy_from_slice(cell);
        let old = u64::from_le_bytes(old);
        let b = warp.slots[atomic.b as usize][lane];
        let c = warp.slots[atomic.c as usize][lane];
        let new = combine(atomic.op, atomic.ty, old, b, c);
        cell.copy_from_slice(&new.to_le_bytes()[..bytes as usize]);
        if let Some(dst) = atomic.dst {
            warp.slots[dst as usize][lane] = old;
        }
    }
    Ok(())
}

/// The value after `op`; `redux` uses it as well.
pub fn combine(op: Reduction, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let keep = if ty.bytes() == 8 { u64::MAX } else { 0xffff_ffff };
    match op {
        Reduction::Exchange => b,
        Reduction::CompareExchange => {
            if old & keep == b & keep {
                c
            } else {
                old
            }
        }
        Reduction::And => old & b,
        Reduction::Or => old | b,
        Reduction::Xor => old ^ b,
        Reduction::Inc => {
            if old & keep >= b & keep {
                0
            } else {
                old + 1
            }
        }
        Reduction::Dec => {
            let old = old & keep;
            if old == 0 || old > b & keep { b } else { old - 1 }
        }
        Reduction::Add | Reduction::Min | Reduction::Max => arithmetic(op, ty, old, b),
    }
}

fn arithmetic(op: Reduction, ty: Type, a: u64, b: u64) -> u64 {
    match ty {
        Type::F32 => u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits()),
        Type::F64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        Type::F16x2 => halves(a, b, |a, b| {
            f16::from_f32(pick(op, f16::from_bits(a).to_f32(), f16::from_bits(b).to_f32()))
                .to_bits()
        }),
        Type::Bf16x2 => halves(a, b, |a, b| {
            bf16::from_f32(pick(op, bf16::from_bits(a).to_f32(), bf16::from_bits(b).to_f32()))
                .to_bits()
        }),
        Type::S32 => integer(op, i128::from(a as i32), i128::from(b as i32)),
        Type::S64 => integer(op, i128::from(a as i64), i128::from(b as i64)),
        Type::U64 | Type::B64 => integer(op, i128::from(a), i128::from(b)),
        _ => integer(op, i128::from(a as u32), i128::from(b as u32)),
    }
}

fn pick(op: Reduction, a: f32, b: f32) -> f32 {
    match op {
        Reduction::Min => a.min(b),
        Reduction::Max => a.max(b),
        _ => a + b,
    }
}

fn integer(op: Reduction, a: i128, b: i128) -> u64 {
    (match op {
        Reduction::Min => a.min(b),
        Reduction::Max => a.max(b),
        _ => a + b,
    }) as u64
}

fn halves(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u64::from(high) << 16 | u64::from(f(a as u16, b as u16))
}
