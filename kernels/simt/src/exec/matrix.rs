//! ldmatrix, stmatrix and mma.sync m16n8.
//!
//! The fragments of all element sizes follow one rule: with `e` elements in a 32-bit register, lane
//! `l`, `g = l / 4`, `t = l % 4`, a register holds row (A) or column (B) `g`, elements `e*t..e*t+e`.
//! Further registers of A go 8 rows down first, then `4e` elements to the right; those of B `4e` on.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::warp::Warp;
use super::{Context, LaneFault, MmaOrder};
use crate::counters::bank_conflicts;
use crate::fault::FaultKind;
use crate::program::{Address, Lanes, Mma, Slot, WARP_LANES};
use crate::ptx::ast::Type;

const M: usize = 16;
const N: usize = 8;
const MAX_K: usize = 32;
const ROW_BYTES: u32 = 16;

/// The offsets of the eight rows of matrix `index`: lanes `8 * index ..` hold them.
fn rows(warp: &Warp, address: Address, index: usize) -> [(usize, u32); 8] {
    std::array::from_fn(|row| {
        let base = warp.slots[address.base as usize][8 * index + row];
        (row, base.wrapping_add(address.offset as u64) as u32)
    })
}

/// Which row and 2-byte column of an 8x8 matrix a lane's register holds, for its two halves.
fn places(lane: usize, transposed: bool) -> [(usize, usize); 2] {
    let (g, t) = (lane / 4, lane % 4);
    if transposed { [(2 * t, g), (2 * t + 1, g)] } else { [(g, 2 * t), (g, 2 * t + 1)] }
}

pub fn load(
    warp: &mut Warp,
    context: &mut Context<'_>,
    address: Address,
    transposed: bool,
    dst: &[Slot],
) -> Result<(), LaneFault> {
    context.counters.ldmatrix_requests += 1;
    let access = context.access(warp.id, None);
    let mut results: [Lanes; 4] = [[0; WARP_LANES]; 4];
    for (index, result) in results.iter_mut().enumerate().take(dst.len()) {
        let rows = rows(warp, address, index);
        context.counters.ldmatrix_bank_conflicts += bank_conflicts(&rows, ROW_BYTES);
        let mut matrix = [[0u8; ROW_BYTES as usize]; 8];
        for (row, data) in matrix.iter_mut().enumerate() {
            let read = context.shared.read(access, rows[row].1, ROW_BYTES, ROW_BYTES);
            let lane = 8 * index + row;
            data.copy_from_slice(read.map_err(|kind: FaultKind| LaneFault { lane, kind })?);
        }
        for (lane, value) in result.iter_mut().enumerate() {
            for (half, (row, column)) in places(lane, transposed).into_iter().enumerate() {
                let bytes = [matrix[row][2 * column], matrix[row][2 * column + 1]];
                *value |= u64::from(u16::from_le_bytes(bytes)) << (16 * half);
            }
        }
    }
    for (&dst, result) in dst.iter().zip(&results) {
        warp.slots[dst as usize] = *result;
    }
    Ok(())
}

pub fn store(
    warp: &mut Warp,
    context: &mut Context<'_>,
    address: Address,
    transposed: bool,
    src: &[Slot],
) -> Result<(), LaneFault> {
    let access = context.access(warp.id, None);
    for (index, &src) in src.iter().enumerate() {
        let rows = rows(warp, address, index);
        context.counters.shared_bank_conflicts += bank_conflicts(&rows, ROW_BYTES);
        let mut matrix = [[0u8; ROW_BYTES as usize]; 8];
        for (lane, value) in warp.slots[src as usize].iter().enumerate() {
            for (half, (row, column)) in places(lane, transposed).into_iter().enumerate() {
                let bytes = ((value >> (16 * half)) as u16).to_le_bytes();
                matrix[row][2 * column..2 * column + 2].copy_from_slice(&bytes);
            }
        }
        for (row, data) in matrix.iter().enumerate() {
            let lane = 8 * index + row;
            let write = context.shared.write(access, rows[row].1, ROW_BYTES, ROW_BYTES);
            write.map_err(|kind: FaultKind| LaneFault { lane, kind })?.copy_from_slice(data);
        }
    }
    Ok(())
}

/// Both factors as f32, which holds every f16, bf16, tf32 and s8 exactly.
struct Factors {
    a: [[f32; MAX_K]; M],
    /// By k first, so that the product runs along n.
    b: [[f32; N]; MAX_K],
}

/// The elements of one register of each lane: `elements(lane)[i]`.
fn unpack(ty: Type, register: &Lanes, per_register: usize) -> [f32; WARP_LANES * 4] {
    let mut values = [0f32; WARP_LANES * 4];
    let count = WARP_LANES * per_register;
    match ty {
        Type::F16 | Type::Bf16 => {
            let mut bits = [0u16; WARP_LANES * 2];
            for (pair, value) in bits.chunks_exact_mut(2).zip(register) {
                (pair[0], pair[1]) = (*value as u16, (*value >> 16) as u16);
            }
            if ty == Type::F16 {
                let halves = bits.map(f16::from_bits);
                halves.as_slice().convert_to_f32_slice(&mut values[..count]);
            } else {
                let halves = bits.map(bf16::from_bits);
                halves.as_slice().convert_to_f32_slice(&mut values[..count]);
            }
        }
        Type::S8 | Type::U8 => {
            for (four, value) in values.chunks_exact_mut(4).zip(register) {
                for (element, byte) in four.iter_mut().zip(value.to_le_bytes()) {
                    *element = if ty == Type::S8 { f32::from(byte as i8) } else { f32::from(byte) };
                }
            }
        }
        // tf32 reads the upper 19 bits.
        _ => {
            for (element, value) in values.iter_mut().zip(register) {
                *element = f32::from_bits(*value as u32 & 0xffff_e000);
            }
        }
    }
    values
}

fn gather(warp: &Warp, mma: &Mma) -> Factors {
    let mut factors = Factors { a: [[0.0; MAX_K]; M], b: [[0.0; N]; MAX_K] };
    let e = match mma.a_type {
        Type::S8 | Type::U8 => 4,
        Type::Tf32 => 1,
        _ => 2,
    };
    for (index, &slot) in mma.a.iter().enumerate() {
        let values = unpack(mma.a_type, &warp.slots[slot as usize], e);
        let (down, right) = (8 * (index % 2), 4 * e * (index / 2));
        for lane in 0..WARP_LANES {
            let (row, column) = (lane / 4 + down, e * (lane % 4) + right);
            factors.a[row][column..column + e].copy_from_slice(&values[e * lane..e * lane + e]);
        }
    }
    for (index, &slot) in mma.b.iter().enumerate() {
        let values = unpack(mma.b_type, &warp.slots[slot as usize], e);
        for lane in 0..WARP_LANES {
            let (n, k) = (lane / 4, e * (lane % 4) + 4 * e * index);
            for element in 0..e {
                factors.b[k + element][n] = values[e * lane + element];
            }
        }
    }
    factors
}

pub fn multiply(warp: &mut Warp, mma: &Mma, order: MmaOrder) {
    let factors = gather(warp, mma);
    match mma.acc_type {
        Type::S32 => integer(warp, mma, &factors),
        _ => float(warp, mma, &factors, order),
    }
}

/// Accumulator `index` of `lane`: two neighbours in row g, two in row g + 8.
fn place(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + 8 * (index / 2), 2 * (lane % 4) + index % 2)
}

fn float(warp: &mut Warp, mma: &Mma, factors: &Factors, order: MmaOrder) {
    let packed = mma.acc_type == Type::F16;
    let mut sum = [[0f32; N]; M];
    for lane in 0..WARP_LANES {
        for index in 0..4 {
            let (row, column) = place(lane, index);
            let slot = mma.c[if packed { index / 2 } else { index }];
            let bits = warp.slots[slot as usize][lane];
            sum[row][column] = if packed {
                f16::from_bits((bits >> (16 * (index % 2))) as u16).to_f32()
            } else {
                f32::from_bits(bits as u32)
            };
        }
    }
    for (row, sum) in factors.a.iter().zip(&mut sum) {
        match order {
            MmaOrder::Sequential => {
                for (&a, b) in row.iter().zip(&factors.b).take(mma.k) {
                    // The product of two 11-bit numbers is exact: this rounds once, at the addition.
                    sum.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
                }
            }
            MmaOrder::Exact => {
                let mut exact = sum.map(f64::from);
                for (&a, b) in row.iter().zip(&factors.b).take(mma.k) {
                    exact.iter_mut().zip(b).for_each(|(sum, b)| *sum += f64::from(a * b));
                }
                *sum = exact.map(|value| value as f32);
            }
        }
    }
    for lane in 0..WARP_LANES {
        let value = |index: usize| {
            let (row, column) = place(lane, index);
            sum[row][column]
        };
        if packed {
            for (half, &slot) in mma.d.iter().enumerate() {
                let bits = |index: usize| u64::from(f16::from_f32(value(index)).to_bits());
                warp.slots[slot as usize][lane] = bits(2 * half + 1) << 16 | bits(2 * half);
            }
        } else {
            for (index, &slot) in mma.d.iter().enumerate() {
                warp.slots[slot as usize][lane] = u64::from(value(index).to_bits());
            }
        }
    }
}

fn integer(warp: &mut Warp, mma: &Mma, factors: &Factors) {
    for lane in 0..WARP_LANES {
        let mut totals = [0u64; 4];
        for (index, total) in totals.iter_mut().enumerate() {
            let (row, column) = place(lane, index);
            let c = i64::from(warp.slots[mma.c[index] as usize][lane] as i32);
            // 32 products of at most 255 * 255: exact in f32, being below 2^24.
            let dot: f32 = (0..mma.k).map(|k| factors.a[row][k] * factors.b[k][column]).sum();
            let exact = c + dot as i64;
            *total = if mma.saturate {
                exact.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64
            } else {
                exact as u64
            };
        }
        for (&slot, total) in mma.d.iter().zip(totals) {
            warp.slots[slot as usize][lane] = total;
        }
    }
}
