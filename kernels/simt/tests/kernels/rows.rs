//! embed, pool, gated_activation, classify and the conversions.

use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random, shapes};
use crate::reference::{gelu_erf, gelu_tanh};
use crate::tolerance::{Expected, F32, assert_f16, assert_f32};

#[test]
fn pool_takes_the_first_row_or_the_mean() {
    let lens = [0, 1, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 2, 511, 512];
    for width in [8, 40, 384, 1024] {
        let cu = cu_seqlens(&lens);
        let hidden = random(width as u64, lens.iter().sum::<usize>() * width, 2.0);
        for pooling in [0, 1] {
            let mut gpu = Gpu::new(Mode::Rough);
            let (hidden_at, cu_at) = (gpu.f16(&hidden), gpu.u32(&cu));
            let out = gpu.f16_zeros(lens.len() * width);
            gpu.launch(
                "pool_f16_sm80",
                lens.len() as u32,
                (width / 8).next_multiple_of(32) as u32,
                0,
                &[
                    Arg::Ptr(hidden_at),
                    Arg::Ptr(cu_at),
                    Arg::I32(width as i32),
                    Arg::I32(pooling),
                    Arg::Ptr(out),
                ],
            );
            let mut expected = Vec::new();
            for (i, len) in lens.into_iter().enumerate() {
                let rows = &hidden[cu[i] as usize * width..];
                let num_rows = if pooling == 0 { len.min(1) } else { len };
                for column in 0..width {
                    let terms = (0..num_rows).map(|row| f64::from(rows[row * width + column]));
                    let count = num_rows.max(1) as f64;
                    expected.push(Expected::sum(terms).map(|sum| sum / count, 1.0, 2.0 * F32));
                }
            }
            assert_f16(&format!("width {width}, pooling {pooling}"), &gpu.read_f16(out), &expected);
        }
    }
}

#[test]
fn embed_copies_the_rows_of_its_ids() {
    for (rows, width) in shapes(&[8, 40, 1024]) {
        let words = random(width as u64, 50 * width, 2.0);
        let ids: Vec<u32> = (0..rows as u32).map(|row| (row * 7 + 3) % 50).collect();
        let mut gpu = Gpu::new(Mode::Rough);
        let (ids_at, words_at, out) = (gpu.u32(&ids), gpu.f16(&words), gpu.f16_zeros(rows * width));
        let args = [
            Arg::Ptr(ids_at),
            Arg::Ptr(words_at),
            Arg::I32(rows as i32),
            Arg::I32(width as i32),
            Arg::Ptr(out),
        ];
        gpu.launch("embed_f16_sm80", 2, 256, 0, &args);
        let row = |id: &u32| words[*id as usize * width..][..width].to_vec();
        let expected: Vec<f32> = ids.iter().flat_map(row).collect();
        assert_eq!(gpu.read_f16(out), expected, "width {width}");
    }
}

#[test]
fn gated_activation_multiplies_the_halves() {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let relu = |x: f64| x.max(0.0);
    let activations: [&dyn Fn(f64) -> f64; 4] = [&gelu_erf, &gelu_tanh, &silu, &relu];
    for (rows, width) in shapes(&[8, 520]) {
        let x = random(width as u64, rows * 2 * width, 6.0);
        for (activation, f) in activations.into_iter().enumerate() {
            let mut gpu = Gpu::new(Mode::Rough);
            let (from, out) = (gpu.f16(&x), gpu.f16_zeros(rows * width));
            let args = [
                Arg::Ptr(from),
                Arg::Ptr(out),
                Arg::I32(rows as i32),
                Arg::I32(width as i32),
                Arg::I32(activation as i32),
            ];
            gpu.launch("gated_activation_f16_sm80", 1, 256, 0, &args);
            let mut expected = Vec::new();
            for row in x.chunks(2 * width) {
                for column in 0..width {
                    let up = f64::from(row[column + width]);
                    let value = f(f64::from(row[column])) * up;
                    // 1 + erf cancels on the negative side: the error is relative to x there. Squaring the
                    // argument of an exponential multiplies its error by up to 40.
                    let error = (f64::from(row[column]) * up).abs() * F32 * 40.0;
                    expected.push(Expected { value, error });
                }
            }
            assert_f16(
                &format!("width {width}, activation {activation}"),
                &gpu.read_f16(out),
                &expected,
            );
        }
    }
}

#[test]
fn classify_makes_a_logit_for_each_row_and_label() {
    let few = [(1, 1, 8), (5, 1, 384), (3, 3, 40), (2, 5, 1024)];
    let many = shapes(&[]).into_iter().map(|(rows, width)| (rows, 2, width));
    for (rows, labels, width) in few.into_iter().chain(many) {
        let x = random(1, rows * width, 1.0);
        let weight = random(2, labels * width, 1.0);
        let bias = random(3, labels, 1.0);
        for with_bias in [true, false] {
            let mut gpu = Gpu::new(Mode::Rough);
            let (x_at, weight_at, bias_at) = (gpu.f16(&x), gpu.f16(&weight), gpu.f32(&bias));
            let logits = gpu.f32(&vec![f32::NAN; rows * labels]);
            let args = [
                Arg::Ptr(x_at),
                Arg::Ptr(weight_at),
                if with_bias { Arg::Ptr(bias_at) } else { Arg::Null },
                Arg::Ptr(logits),
                Arg::I32(rows as i32),
                Arg::I32(labels as i32),
                Arg::I32(width as i32),
            ];
            gpu.launch("classify_f16_sm80", (rows * labels).div_ceil(4) as u32, 128, 0, &args);
            let mut expected = Vec::new();
            for row in 0..rows {
                for label in 0..labels {
                    let terms = (0..width).map(|i| {
                        f64::from(x[row * width + i]) * f64::from(weight[label * width + i])
                    });
                    let bias = if with_bias { f64::from(bias[label]) } else { 0.0 };
                    expected.push(Expected::sum(terms).plus(bias));
                }
            }
            assert_f32(&format!("{rows} x {labels} x {width}"), &gpu.read_f32(logits), &expected);
        }
    }
}

#[test]
fn conversions_round_as_the_host_does() {
    for count in [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512, 3000] {
        let mut x: Vec<f32> = random(count as u64, count, 1.0)
            .iter()
            .enumerate()
            .map(|(i, x)| x * 1.000_123 * 2f32.powi(i as i32 % 50 - 30))
            .collect();
        let special = [65504.0, 65519.9, 65520.0, -1e9, 1e-9, 6e-8, -0.0];
        x.iter_mut().zip(special).for_each(|(x, special)| *x = special);
        let mut gpu = Gpu::new(Mode::Rough);
        let (from, halves) = (gpu.f32(&x), gpu.f16_zeros(count));
        let args = [Arg::Ptr(from), Arg::Ptr(halves), Arg::I64(count as i64)];
        gpu.launch("convert_f32_f16_sm80", 2, 256, 0, &args);
        let rounded: Vec<f32> = x.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
        assert_eq!(gpu.read_f16(halves), rounded, "{count} to f16");

        let back = gpu.f32(&vec![f32::NAN; count]);
        let args = [Arg::Ptr(halves), Arg::Ptr(back), Arg::I64(count as i64)];
        gpu.launch("convert_f16_f32_sm80", 2, 256, 0, &args);
        assert_eq!(gpu.read_f32(back), rounded, "{count} to f32");
    }
}

#[test]
fn rope_turns_queries_and_keys_and_leaves_values() {
    let many = shapes(&[]).into_iter().map(|(rows, _)| (rows, 32));
    for (rows, head_dim) in [32, 64, 96, 128].map(|head_dim| (5, head_dim)).into_iter().chain(many)
    {
        let (rotated, stride) = (3, 5 * head_dim);
        let qkv = random(1, rows * stride, 2.0);
        let half = head_dim / 2;
        let angle =
            |position: usize, i: usize| position as f64 / 10_000f64.powf(i as f64 / half as f64);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..9 * half).map(|at| f(angle(at / half, at % half)) as f32).collect()
        };
        let positions: Vec<u32> = (0..rows as u32).map(|row| row * 4 % 9).collect();
        let mut gpu = Gpu::new(Mode::Rough);
        let (qkv_at, positions_at) = (gpu.f16(&qkv), gpu.u32(&positions));
        let (cosines, sines) = (gpu.f32(&table(f64::cos)), gpu.f32(&table(f64::sin)));
        let args = [
            Arg::Ptr(qkv_at),
            Arg::Ptr(positions_at),
            Arg::Ptr(cosines),
            Arg::Ptr(sines),
            Arg::I32(rows as i32),
            Arg::I32(rotated),
            Arg::I32(head_dim as i32),
            Arg::I32(stride as i32),
        ];
        gpu.launch("rope_f16_sm80", 1, 256, 0, &args);
        let mut expected = Vec::new();
        for at in 0..qkv.len() {
            let (row, column) = (at / stride, at % stride);
            let (head, i) = (column / head_dim, column % head_dim);
            let x = |at: usize| f64::from(qkv[at]);
            if head >= rotated as usize {
                expected.push(Expected::exact(x(at)));
                continue;
            }
            let (sin, cos) = angle(positions[row] as usize, i % half).sin_cos();
            let terms = if i < half {
                [x(at) * cos, -x(at + half) * sin]
            } else {
                [x(at) * cos, x(at - half) * sin]
            };
            // The tables are rounded too.
            let sum = Expected::sum(terms.into_iter());
            expected.push(Expected { error: 2.0 * sum.error, ..sum });
        }
        assert_f16(&format!("head_dim {head_dim}"), &gpu.read_f16(qkv_at), &expected);
    }
}
