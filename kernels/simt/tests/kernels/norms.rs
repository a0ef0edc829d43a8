//! embed_norm, residual_norm, rms_norm, head_norm, normalize.

use crate::gpu::{Arg, Buffer, Gpu, Mode, random, shapes};
use crate::tolerance::{Expected, F32, assert_f16};

const EPS: f32 = 1e-5;
/// One vector, an uneven warp, exactly a warp, the models' widths, and the widest.
const WIDTHS: [usize; 7] = [8, 40, 256, 264, 384, 1024, 4096];

fn block(width: usize) -> u32 {
    (width / 8).next_multiple_of(32) as u32
}

/// The layer norm of a row whose elements are known within `error`.
fn layer_norm(x: &[f64], gamma: &[f32], beta: Option<&[f32]>) -> Vec<Expected> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
    let magnitude = x.iter().map(|x| x.abs()).sum::<f64>() / n;
    (0..x.len())
        .map(|i| {
            let gamma = f64::from(gamma[i]);
            let beta = beta.map_or(0.0, |beta| f64::from(beta[i]));
            let value = (x[i] - mean) * scale * gamma + beta;
            // The mean's error shifts a row; the variance's and a few roundings scale it. The sums are
            // trees of at most 3 + 5 + 16 levels.
            let shift = (magnitude * 24.0 + x[i].abs()) * F32 * scale * gamma.abs();
            Expected { value, error: shift + (value.abs() + beta.abs()) * F32 * 40.0 }
        })
        .collect()
}

#[test]
fn residual_norm_adds_and_norms_rows_of_every_width() {
    for (case, (rows, width)) in shapes(&WIDTHS).into_iter().enumerate() {
        let hidden = random(case as u64, rows * width, 3.0);
        let update = random(case as u64 + 50, rows * width, 3.0);
        let gamma = random(case as u64 + 100, width, 1.0);
        let beta = random(case as u64 + 150, width, 1.0);
        for (with_update, with_beta) in [(true, true), (true, false), (false, true)] {
            let mut gpu = Gpu::new(Mode::Rough);
            let hidden_at = gpu.f16(&hidden);
            let update_at = gpu.f16(&update);
            let (gamma_at, beta_at) = (gpu.f32(&gamma), gpu.f32(&beta));
            let sum_at = gpu.f16_zeros(rows * width);
            let args = [
                Arg::Ptr(hidden_at),
                if with_update { Arg::Ptr(update_at) } else { Arg::Null },
                Arg::Ptr(gamma_at),
                if with_beta { Arg::Ptr(beta_at) } else { Arg::Null },
                Arg::F32(EPS),
                Arg::I32(width as i32),
                if with_beta { Arg::Ptr(sum_at) } else { Arg::Null },
                // In place, as BERT has it.
                Arg::Ptr(hidden_at),
            ];
            gpu.launch("residual_norm_f16_sm80", rows as u32, block(width), 0, &args);

            let x: Vec<f64> = hidden
                .iter()
                .zip(&update)
                .map(|(h, u)| f64::from(*h) + if with_update { f64::from(*u) } else { 0.0 })
                .collect();
            let expected: Vec<Expected> = x
                .chunks(width)
                .flat_map(|row| layer_norm(row, &gamma, with_beta.then_some(&beta)))
                .collect();
            assert_f16(&format!("width {width}"), &gpu.read_f16(hidden_at), &expected);
            if with_beta {
                let sums: Vec<Expected> = x.iter().map(|x| Expected::exact(*x)).collect();
                assert_f16(&format!("sum, width {width}"), &gpu.read_f16(sum_at), &sums);
            }
        }
    }
}

#[test]
fn a_row_far_from_zero_keeps_its_variance() {
    // E[x^2] - E[x]^2 in f32 would lose this: mean 1000, deviation 1.
    let width = 384;
    let x: Vec<f32> =
        random(7, width, 2.0).iter().map(|x| half::f16::from_f32(1000.0 + x).to_f32()).collect();
    let (gamma, beta) = (vec![1.0; width], vec![0.0; width]);
    let mut gpu = Gpu::new(Mode::Rough);
    let hidden = gpu.f16(&x);
    let (gamma_at, beta_at) = (gpu.f32(&gamma), gpu.f32(&beta));
    gpu.launch(
        "residual_norm_f16_sm80",
        1,
        block(width),
        0,
        &[
            Arg::Ptr(hidden),
            Arg::Null,
            Arg::Ptr(gamma_at),
            Arg::Ptr(beta_at),
            Arg::F32(EPS),
            Arg::I32(width as i32),
            Arg::Null,
            Arg::Ptr(hidden),
        ],
    );
    let row: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    assert_f16("far row", &gpu.read_f16(hidden), &layer_norm(&row, &gamma, Some(&beta)));
}

#[test]
fn head_norm_norms_queries_and_keys_and_leaves_values() {
    for (rows, head_dim) in [(1, 32), (5, 64), (9, 96), (3, 128), (2, 256), (70, 32)] {
        let (heads, kv_heads) = (3, 2);
        let stride = (heads + 2 * kv_heads) * head_dim;
        let qkv = random(rows as u64, rows * stride, 3.0);
        let gammas = [random(1, head_dim, 1.0), random(2, head_dim, 1.0)];
        let mut gpu = Gpu::new(Mode::Rough);
        let qkv_at = gpu.f16(&qkv);
        let [queries_at, keys_at] = gammas.each_ref().map(|gamma| gpu.f32(gamma));
        let args = [
            Arg::Ptr(qkv_at),
            Arg::Ptr(queries_at),
            Arg::Ptr(keys_at),
            Arg::F32(EPS),
            Arg::I32(rows as i32),
            Arg::I32(heads as i32),
            Arg::I32(kv_heads as i32),
            Arg::I32(head_dim as i32),
            Arg::I32(stride as i32),
        ];
        let blocks = (rows * (heads + kv_heads)).div_ceil(4) as u32;
        gpu.launch("head_norm_f16_sm80", blocks, 128, 0, &args);
        let mut expected = Vec::new();
        for (at, head) in qkv.chunks(head_dim).enumerate() {
            let head_idx = at % (heads + 2 * kv_heads);
            let square = head.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / head_dim as f64;
            let scale = 1.0 / (square + f64::from(EPS)).sqrt();
            let gamma = &gammas[usize::from(head_idx >= heads)];
            expected.extend(head.iter().zip(gamma).map(|(x, gamma)| {
                if head_idx >= heads + kv_heads {
                    return Expected::exact(f64::from(*x));
                }
                let value = f64::from(*x) * scale * f64::from(*gamma);
                Expected { value, error: value.abs() * F32 * 30.0 }
            }));
        }
        assert_f16(&format!("head_dim {head_dim}"), &gpu.read_f16(qkv_at), &expected);
    }
}

#[test]
fn rms_norm_of_every_width() {
    for (case, (rows, width)) in shapes(&WIDTHS).into_iter().enumerate() {
        let hidden = random(case as u64, rows * width, 3.0);
        let update = random(case as u64 + 50, rows * width, 3.0);
        let gamma = random(case as u64 + 100, width, 1.0);
        let mut gpu = Gpu::new(Mode::Rough);
        let (hidden_at, update_at) = (gpu.f16(&hidden), gpu.f16(&update));
        let (gamma_at, out_at) = (gpu.f32(&gamma), gpu.f16_zeros(rows * width));
        gpu.launch(
            "rms_norm_f16_sm80",
            rows as u32,
            block(width),
            0,
            &[
                Arg::Ptr(hidden_at),
                Arg::Ptr(update_at),
                Arg::Ptr(gamma_at),
                Arg::F32(EPS),
                Arg::I32(width as i32),
                Arg::Ptr(hidden_at),
                Arg::Ptr(out_at),
            ],
        );
        let x: Vec<f64> =
            hidden.iter().zip(&update).map(|(h, u)| f64::from(*h) + f64::from(*u)).collect();
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let square = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let scale = 1.0 / (square + f64::from(EPS)).sqrt();
            expected.extend(row.iter().zip(&gamma).map(|(x, gamma)| {
                let value = x * scale * f64::from(*gamma);
                Expected { value, error: value.abs() * F32 * 30.0 }
            }));
        }
        assert_f16(&format!("width {width}"), &gpu.read_f16(out_at), &expected);
        let sums: Vec<Expected> = x.iter().map(|x| Expected::exact(*x)).collect();
        assert_f16(&format!("sum, width {width}"), &gpu.read_f16(hidden_at), &sums);
    }
}

#[test]
fn normalize_scales_rows_to_one_and_leaves_zeros() {
    for (case, (num_rows, width)) in shapes(&WIDTHS).into_iter().enumerate() {
        let mut x = random(case as u64, num_rows * width, 3.0);
        x.chunks_mut(width).skip(1).step_by(4).for_each(|row| row.fill(0.0));
        let mut gpu = Gpu::new(Mode::Rough);
        let rows = gpu.f16(&x);
        gpu.launch(
            "normalize_f16_sm80",
            num_rows as u32,
            block(width),
            0,
            &[Arg::Ptr(rows), Arg::I32(width as i32)],
        );
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            expected.extend(row.iter().map(|x| {
                let value = if length == 0.0 { 0.0 } else { f64::from(*x) / length };
                Expected { value, error: value.abs() * F32 * 30.0 }
            }));
        }
        assert_f16(&format!("width {width}"), &gpu.read_f16(rows), &expected);
    }
}

#[test]
fn embed_norm_adds_the_tables_that_are_there() {
    for (case, (rows, width)) in shapes(&WIDTHS).into_iter().enumerate() {
        let (vocabulary, num_types, max_positions) = (11, 2, 9);
        let words = random(case as u64, vocabulary * width, 1.0);
        let types = random(case as u64 + 50, num_types * width, 1.0);
        let positions = random(case as u64 + 60, max_positions * width, 1.0);
        let gamma = random(case as u64 + 70, width, 1.0);
        let beta = random(case as u64 + 80, width, 1.0);
        let ids = |step: usize, count: usize| -> Vec<u32> {
            (0..rows).map(|token| (token * step % count) as u32).collect()
        };
        let (input_ids, type_ids, position_ids) =
            (ids(10, vocabulary), ids(1, num_types), ids(4, max_positions));
        for (with_types, with_positions) in [(true, true), (false, true), (true, false)] {
            let mut gpu = Gpu::new(Mode::Rough);
            let ids = [&input_ids, &type_ids, &position_ids].map(|ids| gpu.u32(ids));
            let tables = [&words, &types, &positions].map(|table| gpu.f16(table));
            let (gamma_at, beta_at) = (gpu.f32(&gamma), gpu.f32(&beta));
            let out = gpu.f16_zeros(input_ids.len() * width);
            let optional = |there: bool, at: Buffer| if there { Arg::Ptr(at) } else { Arg::Null };
            gpu.launch(
                "embed_norm_f16_sm80",
                input_ids.len() as u32,
                block(width),
                0,
                &[
                    Arg::Ptr(ids[0]),
                    Arg::Ptr(ids[1]),
                    Arg::Ptr(ids[2]),
                    Arg::Ptr(tables[0]),
                    optional(with_types, tables[1]),
                    optional(with_positions, tables[2]),
                    Arg::Ptr(gamma_at),
                    Arg::Ptr(beta_at),
                    Arg::F32(EPS),
                    Arg::I32(width as i32),
                    Arg::Ptr(out),
                ],
            );
            let mut expected = Vec::new();
            for token in 0..input_ids.len() {
                let at =
                    |table: &[f32], id: u32, i: usize| f64::from(table[id as usize * width + i]);
                let row: Vec<f64> = (0..width)
                    .map(|i| {
                        let mut x = at(&words, input_ids[token], i);
                        if with_types {
                            x += at(&types, type_ids[token], i);
                        }
                        if with_positions {
                            x += at(&positions, position_ids[token], i);
                        }
                        x
                    })
                    .collect();
                expected.extend(layer_norm(&row, &gamma, Some(&beta)));
            }
            assert_f16(&format!("width {width}"), &gpu.read_f16(out), &expected);
        }
    }
}

#[test]
fn a_row_without_variance_gives_beta_and_not_infinity() {
    let width = 40;
    let beta = random(1, width, 1.0);
    for constant in [0.0, 3.0] {
        let mut gpu = Gpu::new(Mode::Rough);
        let hidden = gpu.f16(&vec![constant; width]);
        let (gamma_at, beta_at) = (gpu.f32(&vec![1.0; width]), gpu.f32(&beta));
        let args = [
            Arg::Ptr(hidden),
            Arg::Null,
            Arg::Ptr(gamma_at),
            Arg::Ptr(beta_at),
            Arg::F32(EPS),
            Arg::I32(width as i32),
            Arg::Null,
            Arg::Ptr(hidden),
        ];
        gpu.launch("residual_norm_f16_sm80", 1, block(width), 0, &args);
        // The f32 mean of 3, 3, ... may be off by a rounding, which 1 / sqrt(eps) enlarges.
        let error = 3.0 * 8.0 * F32 / f64::from(EPS).sqrt();
        let expected: Vec<Expected> =
            beta.iter().map(|b| Expected { value: f64::from(*b), error }).collect();
        assert_f16(&format!("constant {constant}"), &gpu.read_f16(hidden), &expected);
    }

    let mut gpu = Gpu::new(Mode::Rough);
    let (hidden, gamma) = (gpu.f16_zeros(width), gpu.f32(&vec![1.0; width]));
    let args = [
        Arg::Ptr(hidden),
        Arg::Null,
        Arg::Ptr(gamma),
        Arg::F32(EPS),
        Arg::I32(width as i32),
        Arg::Null,
        Arg::Ptr(hidden),
    ];
    gpu.launch("rms_norm_f16_sm80", 1, block(width), 0, &args);
    assert_eq!(gpu.read_f16(hidden), vec![0.0; width]);
}
