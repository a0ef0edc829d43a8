//! Every instruction set of this machine gives what the portable kernels give, and those what f64 gives.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod values;

use proptest::prelude::*;
use rerankd::engine::cpu::{Cpu, Isa, Rows};
use rerankd::engine::packed::Packed;
use rerankd::engine::table::Table;
use rerankd::engine::{
    AttentionKind, Backend, Dtype, EmbeddingsInit, Epilogue, LinearInit, NormInit, NormKind,
    Pooling, Queries,
};

use values::values;

fn rows(cpu: &Cpu, num_rows: usize, width: usize, values: &[f32]) -> Rows {
    let mut rows = cpu.rows(num_rows, width).unwrap();
    rows.set_rows(num_rows);
    for (i, values) in values.chunks_exact(width).enumerate() {
        rows.row_mut(i).copy_from_slice(values);
    }
    rows
}

fn read(cpu: &Cpu, rows: &Rows) -> Vec<f32> {
    let mut out = vec![0.0; rows.num_rows() * rows.width()];
    cpu.read(rows, &mut out).unwrap();
    out
}

/// All kernels but the reference.
fn simd() -> impl Iterator<Item = Cpu> {
    Isa::distinct(Dtype::F32).filter(|isa| *isa != Isa::Portable).filter_map(f32_cpu)
}

fn f32_cpu(isa: Isa) -> Option<Cpu> {
    Cpu::with_isa(isa, Dtype::F32)
}

fn portable() -> Cpu {
    f32_cpu(Isa::Portable).expect("every machine has it")
}

fn assert_close(isa: Isa, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (got - expected).abs();
        assert!(
            difference <= tolerance,
            "{}: element {i} is {got}, not {expected} (tolerance {tolerance:e})",
            isa.name()
        );
    }
}

/// Rounding in a sum of `k` products of values up to one: half an ulp of the running sum each, which
/// grows as sqrt(k) for such values; ten times that.
fn sum_tolerance(k: usize) -> f32 {
    10.0 * f32::EPSILON * (k as f32).max(1.0)
}

const EPILOGUES: [Epilogue; 5] = [
    Epilogue::Bias,
    Epilogue::BiasGelu,
    Epilogue::BiasGeluTanh,
    Epilogue::BiasRelu,
    Epilogue::BiasTanh,
];

fn linear(cpu: &Cpu, m: usize, n: usize, k: usize, epilogue: Epilogue, seed: u64) -> Vec<f32> {
    let (weight, bias) = (values(seed, n * k), values(seed + 1, n));
    let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k }).unwrap();
    let x = rows(cpu, m, k, &values(seed + 2, m * k));
    let mut out = cpu.rows(m, n).unwrap();
    cpu.linear(&x, &w, epilogue, &mut out);
    read(cpu, &out)
}

fn attention(cpu: &Cpu, lens: &[usize], heads: usize, dim: usize, seed: u64) -> [Vec<f32>; 2] {
    let mut batch = Packed::with_capacity(0, lens.len());
    lens.iter().for_each(|len| batch.push(&vec![0; *len], *len));
    let num_tokens = batch.num_tokens();
    let width = 3 * heads * dim;
    let scaled: Vec<f32> = values(seed, num_tokens * width).iter().map(|x| x * 3.0).collect();
    let qkv = rows(cpu, num_tokens, width, &scaled);
    let mut scratch = cpu.scratch(lens.iter().copied().max().unwrap_or(1), dim).unwrap();
    [Queries::All, Queries::First].map(|queries| {
        let mut out = cpu.rows(num_tokens, heads * dim).unwrap();
        cpu.attention(&qkv, &batch, &AttentionKind::full(queries, heads), &mut scratch, &mut out);
        read(cpu, &out)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn linear_gives_the_reference_for_any_size(
        m in 1usize..40, n in 1usize..100, k in 1usize..200, act in 0usize..5, seed in 0u64..1000,
    ) {
        let expected = linear(&portable(), m, n, k, EPILOGUES[act], seed);
        for cpu in simd() {
            let got = linear(&cpu, m, n, k, EPILOGUES[act], seed);
            // GELU's own error of 1e-6 comes on top.
            assert_close(cpu.isa(), &got, &expected, sum_tolerance(k) + 1e-6);
        }
    }

    #[test]
    fn attention_gives_the_reference_for_any_size(
        lens in prop::collection::vec(1usize..80, 1..4),
        heads in 1usize..4, dim in 1usize..9, seed in 0u64..1000,
    ) {
        let dim = 8 * dim;
        let expected = attention(&portable(), &lens, heads, dim, seed);
        for cpu in simd() {
            let got = attention(&cpu, &lens, heads, dim, seed);
            for (got, expected) in got.iter().zip(&expected) {
                // Scores up to 9 * dim, whose rounding the exponential turns into a relative error.
                let tolerance = sum_tolerance(9 * dim) * 3.0;
                assert_close(cpu.isa(), got, expected, tolerance);
            }
        }
    }

    #[test]
    fn residual_norm_gives_the_reference_for_any_width(
        m in 1usize..5, width in 2usize..200, seed in 0u64..1000,
    ) {
        let norm = |cpu: &Cpu| {
            let (gamma, beta) = (values(seed, width), values(seed + 1, width));
            let norm = cpu.prepare_norm(&NormInit { kind: NormKind::Layer, gamma: &gamma, beta: &beta, eps: 1e-5 }).unwrap();
            let mut hidden = rows(cpu, m, width, &values(seed + 2, m * width));
            let update = rows(cpu, m, width, &values(seed + 3, m * width));
            cpu.residual_norm(&mut hidden, &update, &norm);
            read(cpu, &hidden)
        };
        let expected = norm(&portable());
        for cpu in simd() {
            // Two values a hair apart have a variance near eps, which magnifies their rounding.
            assert_close(cpu.isa(), &norm(&cpu), &expected, 2e-4);
        }
    }

    /// What lets a batch be cut anywhere.
    #[test]
    fn a_row_of_a_product_has_the_same_bits_alone(
        m in 2usize..40, n in 1usize..80, k in 1usize..100, seed in 0u64..1000,
    ) {
        for isa in Isa::distinct(Dtype::F32) {
            let cpu = f32_cpu(isa).expect("available");
            let (weight, bias) = (values(seed, n * k), values(seed + 1, n));
            let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k }).unwrap();
            let x = of_sizes(values(seed + 2, m * k), k, &[1.0, 1e-9, 1.0, f32::NAN, 1e9]);
            let mut together = cpu.rows(m, n).unwrap();
            cpu.linear(&rows(&cpu, m, k, &x), &w, Epilogue::BiasGelu, &mut together);
            for i in 0..m {
                let mut alone = cpu.rows(1, n).unwrap();
                let row = rows(&cpu, 1, k, &x[i * k..][..k]);
                cpu.linear(&row, &w, Epilogue::BiasGelu, &mut alone);
                let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(alone.row(0)), bits(together.row(i)));
            }
        }
    }
}

/// Rows multiplied by `sizes` in turns.
fn of_sizes(mut values: Vec<f32>, width: usize, sizes: &[f32]) -> Vec<f32> {
    for (row, size) in values.chunks_exact_mut(width).zip(sizes.iter().cycle()) {
        row.iter_mut().for_each(|x| *x *= size);
    }
    values
}

/// Whatever the unit that a row or an output's weights are in, or how much larger one number of a row is.
#[test]
fn a_product_is_as_exact_for_factors_of_any_size() {
    let (m, n, k) = (60, 40, 100);
    let sizes = [1e-15, 1e-3, 0.02, 0.3, 1.0, 4.0, 60.0, 1e4, 1e15];
    let weight = of_sizes(values(1, n * k), k, &[1.0, 1e-12, 0.05, 1e12, 0.0]);
    let mut x = of_sizes(values(2, m * k), k, &sizes);
    x.chunks_exact_mut(k).step_by(7).for_each(|row| row[11] *= 1e3);
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for isa in Isa::distinct(Dtype::F32) {
        let cpu = f32_cpu(isa).expect("available");
        let init = LinearInit { weight: &weight, bias: &vec![0.0; n], n, k };
        let w = cpu.prepare_linear(&init).unwrap();
        let mut out = cpu.rows(m, n).unwrap();
        cpu.linear(&rows(&cpu, m, k, &x), &w, Epilogue::Bias, &mut out);
        for (i, x) in x.chunks_exact(k).enumerate() {
            for (j, w) in weight.chunks_exact(k).enumerate() {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let error = (products.sum::<f64>() - f64::from(out.row(i)[j])).abs();
                let bound = 32.0 * f64::from(f32::EPSILON) * norm(x) * norm(w);
                assert!(error <= bound, "{isa:?}, row {i}, column {j}: {error:e}, not {bound:e}");
            }
        }
    }
}

/// An identity weight lets the activation be read alone, over all the values it will see: one a row, as products of others
/// may be rounded on their way to nothing.
#[test]
fn activations_are_within_one_millionth() {
    let n = 16;
    let mut identity = vec![0.0; n * n];
    (0..n).for_each(|i| identity[i * n + i] = 1.0);
    let grid: Vec<f32> = (0..40_000).map(|i| i as f32 * 1e-3 - 20.0).collect();
    let mut alone = vec![0.0; grid.len() * n];
    alone.chunks_exact_mut(n).zip(&grid).enumerate().for_each(|(i, (row, x))| row[i % n] = *x);
    for isa in Isa::distinct(Dtype::F32) {
        let cpu = f32_cpu(isa).expect("available");
        let init = LinearInit { weight: &identity, bias: &vec![0.0; n], n, k: n };
        let w = cpu.prepare_linear(&init).unwrap();
        let x = rows(&cpu, grid.len(), n, &alone);
        for epilogue in EPILOGUES {
            let mut out = cpu.rows(grid.len(), n).unwrap();
            cpu.linear(&x, &w, epilogue, &mut out);
            for (i, x) in grid.iter().enumerate() {
                let (y, expected) = (out.row(i)[i % n], exact(epilogue, f64::from(*x)));
                let error = (f64::from(y) - expected).abs();
                let bound = 1e-6 + x.abs().max(1.0) as f64 * f64::from(f32::EPSILON);
                assert!(error <= bound, "{isa:?} {epilogue:?}({x}) is {y}, not {expected}");
            }
        }
    }
}

fn exact(epilogue: Epilogue, x: f64) -> f64 {
    match epilogue {
        Epilogue::Bias => x,
        Epilogue::BiasGelu => x * normal_cdf(x),
        Epilogue::BiasGeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Epilogue::BiasRelu => x.max(0.0),
        Epilogue::BiasTanh => x.tanh(),
    }
}

/// By the trapezoid rule in steps of 1/64, exact to 1e-12 for so smooth a function.
fn normal_cdf(x: f64) -> f64 {
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let steps = (x.abs() * 64.0).ceil().max(1.0);
    let h = x.abs().min(9.0) / steps;
    let inner: f64 = (1..steps as usize).map(|i| density(i as f64 * h)).sum();
    // The ends' correction of Euler and Maclaurin: -h^2 / 12 (f'(b) - f'(a)), with f'(t) = -t f(t).
    let end = x.abs().min(9.0);
    let half =
        h * (0.5 * density(0.0) + inner + 0.5 * density(end)) + h * h / 12.0 * end * density(end);
    0.5 + half.copysign(x)
}

#[test]
fn embeddings_pooling_and_length_give_the_reference() {
    let (hidden_size, vocab) = (40, 10);
    let mut group = Packed::with_capacity(8, 2);
    group.push(&[1, 2, 3], 2);
    group.push(&[9, 0, 4, 5, 6], 1);
    let run = |cpu: &Cpu, pooling: Pooling| {
        let init = EmbeddingsInit {
            words: Table::of(&values(1, vocab * hidden_size), hidden_size),
            types: values(2, 2 * hidden_size),
            positions: values(3, 8 * hidden_size),
            hidden_size,
        };
        let embeddings = cpu.prepare_embeddings(init).unwrap();
        let (gamma, beta) = (values(4, hidden_size), values(5, hidden_size));
        let norm = cpu
            .prepare_norm(&NormInit {
                kind: NormKind::Layer,
                gamma: &gamma,
                beta: &beta,
                eps: 1e-12,
            })
            .unwrap();
        let [mut hidden, mut pooled] = [8, 8].map(|n| cpu.rows(n, hidden_size).unwrap());
        cpu.embed_norm(&group, &embeddings, &norm, &mut hidden);
        cpu.pool(&hidden, &group, pooling, &mut pooled);
        cpu.normalize(&mut pooled);
        read(cpu, &pooled)
    };
    for pooling in [Pooling::Cls, Pooling::Mean] {
        let expected = run(&portable(), pooling);
        for cpu in simd() {
            assert_close(cpu.isa(), &run(&cpu, pooling), &expected, 1e-5);
        }
    }
}

#[test]
fn the_portable_product_is_the_product() {
    let (m, n, k) = (3, 5, 70);
    let got = linear(&portable(), m, n, k, Epilogue::Bias, 7);
    let (weight, bias, x) = (values(7, n * k), values(8, n), values(9, m * k));
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(weight[j * k + p]));
            let expected = f64::from(bias[j]) + products.sum::<f64>();
            assert!((f64::from(got[i * n + j]) - expected).abs() < 1e-5);
        }
    }
}

/// Large scores must not overflow, equal ones must weigh the same.
#[test]
fn attention_survives_extreme_scores() {
    for isa in Isa::distinct(Dtype::F32) {
        let cpu = f32_cpu(isa).expect("available");
        let (dim, len) = (8, 20);
        let mut qkv = cpu.rows(len, 3 * dim).unwrap();
        qkv.set_rows(len);
        for t in 0..len {
            let row = qkv.row_mut(t);
            row[..dim].fill(1e4);
            row[dim..2 * dim].fill(if t == 7 { 1e4 } else { -1e4 });
            row[2 * dim..].fill(t as f32);
        }
        let mut scratch = cpu.scratch(len, dim).unwrap();
        let mut out = cpu.rows(len, dim).unwrap();
        let mut batch = Packed::with_capacity(len, 1);
        batch.push(&vec![0; len], len);
        cpu.attention(&qkv, &batch, &AttentionKind::full(Queries::All, 1), &mut scratch, &mut out);
        assert!(read(&cpu, &out).iter().all(|x| (x - 7.0).abs() < 1e-5), "{isa:?}");
    }
}
