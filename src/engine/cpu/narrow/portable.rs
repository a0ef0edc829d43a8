//! The narrow kernels in plain Rust: for machines without the instruction sets, and the reference in the
//! tests. Of the SIMD kernels they share the layouts and the choice of a row's code.

use super::encode::code_of;
use super::{Code, EncodeArgs, Kernels, LinearArgs, Output, STEP_BYTES, Source, Target, widen};
use crate::engine::cpu::kernels::{GateArgs, HeadNormArgs, NormArgs, RotateArgs};
use crate::engine::cpu::portable::{activate, gate_row, norm_head, norm_row, rotate_row};
use half::bf16;
use std::slice::{from_raw_parts, from_raw_parts_mut};

const PANEL: usize = 16;

pub(in crate::engine::cpu) static KERNELS: Kernels = Kernels {
    panel: PANEL,
    linear_int8,
    linear_bf16,
    words: None,
    encode,
    add_norm,
    gate,
    rotate,
    head_norm,
    attention: None,
    max_sim: None,
};

/// # Safety
/// `args` describes valid memory and `out` overlaps nothing else.
unsafe fn linear_int8(args: &LinearArgs) {
    // SAFETY: the caller's promise; sums and codes are those of an int8 weight.
    unsafe {
        let columns = args.num_panels * PANEL;
        let zeros = from_raw_parts(args.sums, columns);
        let codes = from_raw_parts(args.codes, args.rows);
        linear(args, |row, column, x, weight| {
            let products = x.iter().zip(weight).map(|(x, w)| i32::from(*x) * i32::from(*w as i8));
            let Code { scale, zero, .. } = codes[row];
            let sum = (-zero).mul_add(zeros[column], products.sum::<i32>() as f32);
            sum * scale
        });
    }
}

/// # Safety
/// `args` describes valid memory and `out` overlaps nothing else.
unsafe fn linear_bf16(args: &LinearArgs) {
    let number = |pair: &[u8]| widen(u16::from_le_bytes([pair[0], pair[1]]));
    // SAFETY: the caller's promise.
    unsafe {
        linear(args, |_, _, x, weight| {
            let pairs = x.chunks_exact(2).zip(weight.chunks_exact(2));
            pairs.map(|(x, w)| number(x) * number(w)).sum()
        });
    }
}

/// Calls `dot(row, column, bytes of the row, bytes of the column)` for each element, and finishes it: the
/// column's scale, the bias, the activation.
///
/// # Safety
/// `args` describes valid memory and `out` overlaps nothing else.
unsafe fn linear(args: &LinearArgs, dot: impl Fn(usize, usize, &[u8], &[u8]) -> f32) {
    let k = args.steps * STEP_BYTES;
    let mut weight = vec![0; k];
    for column in 0..args.num_panels * PANEL {
        let (panel_idx, lane) = (column / PANEL, column % PANEL);
        // SAFETY: a panel below `num_panels`.
        let panel = unsafe { from_raw_parts(args.panels.add(panel_idx * k * PANEL), k * PANEL) };
        for (p, weight) in weight.chunks_exact_mut(4).enumerate() {
            weight.copy_from_slice(&panel[(p * PANEL + lane) * 4..][..4]);
        }
        for row in 0..args.rows {
            // SAFETY: a row below `rows`, a column below `num_panels * panel`.
            unsafe {
                let x = from_raw_parts(args.x.add(row * args.x_stride_bytes), k);
                let product = dot(row, column, x, &weight);
                let y = product.mul_add(*args.scales.add(column), *args.bias.add(column));
                let (y, at) = (activate(args.epilogue, y), row * args.out_stride + column);
                match args.out {
                    Output::F32(p) => *p.add(at) = y,
                    Output::Bf16(p) => *p.add(at) = bf16::from_f32(y).to_bits(),
                }
            }
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn encode(args: &EncodeArgs, to: Target) {
    for row in 0..args.rows {
        let (at, to_at) = (row * args.from_stride, row * args.to_stride);
        // SAFETY: a row below `rows`.
        unsafe {
            let numbers: Vec<f32> = match args.from {
                Source::F32(p) => from_raw_parts(p.add(at), args.width).to_vec(),
                Source::Bf16(p) => {
                    from_raw_parts(p.add(at), args.width).iter().map(|x| widen(*x)).collect()
                }
            };
            match to {
                Target::Bf16(p) => {
                    let out = from_raw_parts_mut(p.add(to_at), args.width);
                    let numbers = numbers.iter().map(|x| bf16::from_f32(*x).to_bits());
                    out.iter_mut().zip(numbers).for_each(|(out, x)| *out = x);
                }
                Target::Bytes(p, codes) => {
                    let low = numbers.iter().copied().fold(0.0, f32::min);
                    let high = numbers.iter().copied().fold(0.0, f32::max);
                    let nothing: f32 = numbers.iter().map(|x| x * 0.0).sum();
                    let (code, inverse) = code_of(low, high + nothing);
                    *codes.add(row) = code;
                    let out = from_raw_parts_mut(p.add(to_at), args.width);
                    for (out, x) in out.iter_mut().zip(numbers) {
                        *out = x.mul_add(inverse, code.zero).round_ties_even() as u8;
                    }
                }
            }
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn add_norm(args: &NormArgs<u16>) {
    for row in 0..args.rows {
        // SAFETY: a row below `rows`.
        unsafe {
            let update = (!args.update.is_null())
                .then(|| from_raw_parts(args.update.add(row * args.update_stride), args.width));
            norm_row(args, row, update.into_iter().flatten().map(|x| widen(*x)));
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn gate(args: &GateArgs<u16>) {
    for row in 0..args.rows {
        // SAFETY: a row below `rows`.
        unsafe {
            let x = from_raw_parts(args.x.add(row * args.x_stride), 2 * args.width);
            gate_row(args, row, x.iter().map(|x| widen(*x)));
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn rotate(args: &RotateArgs<u16>) {
    for row in 0..args.num_rows {
        // SAFETY: a row below `num_rows`.
        unsafe {
            let width = args.num_heads * 2 * args.half;
            let numbers = from_raw_parts_mut(args.rows.add(row * args.stride), width);
            let mut floats: Vec<f32> = numbers.iter().map(|x| widen(*x)).collect();
            rotate_row(args, row, &mut floats);
            let rounded = floats.iter().map(|x| bf16::from_f32(*x).to_bits());
            numbers.iter_mut().zip(rounded).for_each(|(number, x)| *number = x);
        }
    }
}

/// # Safety
/// `args` describes valid memory.
unsafe fn head_norm(args: &HeadNormArgs<u16>) {
    for at in 0..args.num_rows * args.num_heads {
        let (row, head) = (at / args.num_heads, at % args.num_heads);
        // SAFETY: a row below `num_rows`, a head below `num_heads`.
        unsafe {
            let start = args.heads.add(row * args.stride + head * args.head_dim);
            let numbers = from_raw_parts_mut(start, args.head_dim);
            let mut floats: Vec<f32> = numbers.iter().map(|x| widen(*x)).collect();
            norm_head(args, &mut floats);
            let rounded = floats.iter().map(|x| bf16::from_f32(*x).to_bits());
            numbers.iter_mut().zip(rounded).for_each(|(number, x)| *number = x);
        }
    }
}
