//! In bf16 and int8 every instruction set of this machine gives what the portable kernels give, and those what
//! f64 gives. What multiplies 16-bit integers for bf16 is nearer to f32.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod attention;
#[path = "../values/mod.rs"]
mod values;
mod words;

use proptest::prelude::*;
use rerankd::engine::cpu::{Cpu, Isa, Rows};
use rerankd::engine::packed::Packed;
use rerankd::engine::{
    AttentionKind, Backend, Dtype, Epilogue, LinearInit, NormInit, NormKind, Queries, Window,
};

use values::values;

const NARROW: [Dtype; 2] = [Dtype::Bf16, Dtype::Int8];

/// A step of bf16, relative to the number.
const BF16_STEP: f32 = 1.0 / 128.0;

fn portable(dtype: Dtype) -> Cpu {
    Cpu::with_isa(Isa::Portable, dtype).expect("every machine has it")
}

/// All kernels but the reference.
fn simd(dtype: Dtype) -> impl Iterator<Item = Cpu> {
    let simd = Isa::distinct(dtype).filter(|isa| *isa != Isa::Portable);
    simd.filter_map(move |isa| Cpu::with_isa(isa, dtype))
}

/// Whether products of bf16 rows are made of 16-bit integers.
fn has_words(cpu: &Cpu) -> bool {
    cpu.isa() == Isa::Avx512Bf16 && cpu.dtype() == Dtype::Bf16
}

/// Those whose products are made of integers of any kind.
fn coded() -> impl Iterator<Item = Cpu> {
    let all = |dtype| Isa::distinct(dtype).filter_map(move |isa| Cpu::with_isa(isa, dtype));
    all(Dtype::Int8).chain(all(Dtype::Bf16).filter(has_words))
}

fn rows(cpu: &Cpu, num_rows: usize, width: usize, values: &[f32]) -> Rows {
    let mut rows = cpu.rows(num_rows, width).unwrap();
    rows.set_rows(num_rows);
    for (i, values) in values.chunks_exact(width).enumerate() {
        rows.row_mut(i).copy_from_slice(values);
    }
    cpu.encode(&mut rows);
    rows
}

fn read(cpu: &Cpu, rows: &Rows) -> Vec<f32> {
    let mut out = vec![0.0; rows.num_rows() * rows.width()];
    cpu.read(rows, &mut out).unwrap();
    out
}

fn linear(cpu: &Cpu, m: usize, n: usize, k: usize, epilogue: Epilogue, seed: u64) -> Rows {
    product(cpu, &rows(cpu, m, k, &values(seed + 2, m * k)), n, epilogue, seed)
}

fn product(cpu: &Cpu, x: &Rows, n: usize, epilogue: Epilogue, seed: u64) -> Rows {
    let k = x.width();
    let (weight, bias) = (values(seed, n * k), values(seed + 1, n));
    let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k }).unwrap();
    let mut out = cpu.rows(x.num_rows(), n).unwrap();
    cpu.linear(x, &w, epilogue, &mut out);
    out
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn assert_close(cpu: &Cpu, got: &[f32], expected: &[f32], absolute: f32, relative: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let bound = absolute + relative * expected.abs();
        assert!(
            (got - expected).abs() <= bound,
            "{:?} in {:?}: element {i} is {got}, not {expected} ({bound:e})",
            cpu.isa(),
            cpu.dtype()
        );
    }
}

const EPILOGUES: [Epilogue; 5] = [
    Epilogue::Bias,
    Epilogue::BiasGelu,
    Epilogue::BiasGeluTanh,
    Epilogue::BiasRelu,
    Epilogue::BiasTanh,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sums of bytes are exact and the same operations follow, so nothing may differ: from rows of f32 and of bf16,
    /// with numbers of both signs and of one.
    #[test]
    fn int8_products_have_the_bits_of_the_reference(
        m in 1usize..70, n in 1usize..100, k in 1usize..200, shift in -2i8..3, seed in 0u64..1000,
    ) {
        let two = |cpu: &Cpu| {
            let x: Vec<f32> = values(seed + 2, m * k).iter().map(|x| x + f32::from(shift)).collect();
            // More columns than it reads are bf16.
            let mut wide = product(cpu, &rows(cpu, m, k, &x), n.max(k + 1), Epilogue::Bias, seed);
            cpu.encode(&mut wide);
            bits(&read(cpu, &product(cpu, &wide, n, Epilogue::Bias, seed + 3)))
        };
        let expected = two(&portable(Dtype::Int8));
        for cpu in simd(Dtype::Int8) {
            prop_assert_eq!(two(&cpu), expected.clone(), "{:?}", cpu.isa());
        }
    }

    /// Neither a row's codes nor its norm, its sums or its epilogue know of the rows beside it.
    #[test]
    fn a_row_has_the_bits_that_it_has_alone(
        m in 2usize..40, width in 5usize..150, row in 0usize..40, seed in 0u64..1000,
    ) {
        let row = row % m;
        for dtype in NARROW {
            for cpu in Isa::distinct(dtype).filter_map(|isa| Cpu::with_isa(isa, dtype)) {
                let through = |m: usize, x: &[f32]| {
                    let (gamma, beta) = (values(seed, width), values(seed + 1, width));
                    let norm = NormInit { kind: NormKind::Layer, gamma: &gamma, beta: &beta, eps: 1e-5 };
                    let mut hidden = rows(&cpu, m, width, x);
                    let wide = product(&cpu, &hidden, 2 * width, Epilogue::BiasGelu, seed + 2);
                    let update = product(&cpu, &wide, width, Epilogue::Bias, seed + 4);
                    cpu.residual_norm(&mut hidden, &update, &cpu.prepare_norm(&norm).unwrap());
                    bits(&read(&cpu, &hidden))
                };
                let x = values(seed + 6, m * width);
                let (all, alone) = (through(m, &x), through(1, &x[row * width..][..width]));
                prop_assert_eq!(&all[row * width..][..width], &alone[..], "{:?} in {:?}", cpu.isa(), dtype);
            }
        }
    }

    /// Wherever it stands, and in a row of f32 as in one of bf16.
    #[test]
    fn one_number_that_is_none_makes_its_row_nan_and_no_other(
        m in 1usize..10, k in 1usize..150, at in 0usize..1500, which in 0usize..4, seed in 0u64..1000,
    ) {
        let at = at % (m * k);
        let mut x = values(seed, m * k);
        x[at] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][which];
        for cpu in coded() {
            let mut once = product(&cpu, &rows(&cpu, m, k, &x), k + 1, Epilogue::Bias, seed + 1);
            cpu.encode(&mut once);
            let twice = product(&cpu, &once, 3, Epilogue::Bias, seed + 3);
            for (rows, width) in [(&once, k + 1), (&twice, 3)] {
                for (i, numbers) in read(&cpu, rows).chunks_exact(width).enumerate() {
                    prop_assert!(numbers.iter().all(|x| x.is_nan() == (i == at / k)), "{:?} row {}", cpu.isa(), i);
                }
            }
        }
    }

    #[test]
    fn linear_gives_the_reference_for_any_size(
        m in 1usize..70, n in 1usize..100, k in 1usize..200, act in 0usize..5, seed in 0u64..1000,
    ) {
        let of = |cpu: &Cpu| read(cpu, &linear(cpu, m, n, k, EPILOGUES[act], seed));
        let wide = of(&portable(Dtype::F32));
        for dtype in NARROW {
            let expected = of(&portable(dtype));
            for cpu in simd(dtype) {
                // GELU's own error; f32 sums in another order; and a rounding to bf16 that may tip over.
                let absolute = 4e-5 + k as f32 * f32::EPSILON;
                if has_words(&cpu) {
                    // Half a step of 1 / 16,383 in each factor, or of a 45,000th of the norm: that of k numbers.
                    assert_close(&cpu, &of(&cpu), &wide, absolute + 6e-5 + 2e-5 * k as f32, BF16_STEP);
                } else {
                    assert_close(&cpu, &of(&cpu), &expected, absolute, BF16_STEP);
                }
            }
        }
    }

    #[test]
    fn an_activation_feeds_the_next_product(
        m in 1usize..40, hidden in 1usize..90, inner in 1usize..90, seed in 0u64..1000,
    ) {
        for dtype in NARROW {
            let two = |cpu: &Cpu| {
                let inner_rows = linear(cpu, m, inner, hidden, Epilogue::BiasGelu, seed);
                let (weight, bias) = (values(seed + 5, hidden * inner), vec![0.5; hidden]);
                let init = LinearInit { weight: &weight, bias: &bias, n: hidden, k: inner };
                let mut out = cpu.rows(m, hidden).unwrap();
                cpu.linear(&inner_rows, &cpu.prepare_linear(&init).unwrap(), Epilogue::Bias, &mut out);
                read(cpu, &out)
            };
            let expected = two(&portable(dtype));
            for cpu in simd(dtype) {
                // A number between two codes may fall to either: one step of the largest, in some products.
                let step = (hidden as f32).sqrt() / 255.0;
                assert_close(&cpu, &two(&cpu), &expected, step * (inner as f32).sqrt(), BF16_STEP);
            }
        }
    }

    #[test]
    fn a_norm_takes_an_update_in_bf16(
        m in 1usize..5, width in 5usize..200, seed in 0u64..1000,
    ) {
        for dtype in NARROW {
            let norm = |cpu: &Cpu| {
                let (gamma, beta) = (values(seed, width), values(seed + 1, width));
                let norm = cpu.prepare_norm(&NormInit { kind: NormKind::Layer, gamma: &gamma, beta: &beta, eps: 1e-5 }).unwrap();
                let mut hidden = rows(cpu, m, width, &values(seed + 2, m * width));
                // Wider than its input, so in bf16; few columns in, so hardly a rounding differs.
                let update = linear(cpu, m, width, 4, Epilogue::Bias, seed + 3);
                cpu.residual_norm(&mut hidden, &update, &norm);
                read(cpu, &hidden)
            };
            let expected = norm(&portable(dtype));
            for cpu in simd(dtype) {
                assert_close(&cpu, &norm(&cpu), &expected, 0.02, 0.0);
            }
        }
    }
}

/// Against f64, with the most that rounding x and w can do to each product.
#[test]
fn the_portable_product_is_the_product_within_its_rounding() {
    let (m, n, k) = (3, 5, 70);
    for dtype in NARROW {
        let got = read(&portable(dtype), &linear(&portable(dtype), m, n, k, Epilogue::Bias, 7));
        let (weight, bias, x) = (values(7, n * k), values(8, n), values(9, m * k));
        // Codes of [-1, 1] have steps of 2 / 255 and 1 / 127, and bf16 of 2^-8 below one.
        let (x_error, w_error) = match dtype {
            Dtype::Int8 => (1.0 / 255.0, 0.5 / 127.0),
            _ => (1.0 / 512.0, 1.0 / 512.0),
        };
        for i in 0..m {
            for j in 0..n {
                let (mut exact, mut bound) = (f64::from(bias[j]), 1e-4);
                for p in 0..k {
                    let (x, w) = (f64::from(x[i * k + p]), f64::from(weight[j * k + p]));
                    exact += x * w;
                    bound += x.abs() * w_error + w.abs() * x_error + x_error * w_error;
                }
                let error = (f64::from(got[i * n + j]) - exact).abs();
                assert!(error <= bound, "{dtype:?} ({i}, {j}): {error} beyond {bound}");
                assert!(error > 1e-7, "{dtype:?} ({i}, {j}) was computed wide");
            }
        }
    }
}

/// A weight that is whole numbers times a scale by row, as int8 checkpoints have it, is held exactly.
#[test]
fn weights_stored_as_int8_lose_nothing() {
    let (n, k) = (4, 40);
    let code = |i: usize| if i.is_multiple_of(k) { 127 } else { (i * 37 % 255) as i32 - 127 };
    let weight: Vec<f32> =
        (0..n * k).map(|i| code(i) as f32 * 0.013 / (1 + i / k) as f32).collect();
    for dtype in NARROW {
        for isa in Isa::distinct(dtype) {
            let Some(cpu) = Cpu::with_isa(isa, dtype) else { continue };
            let init = LinearInit { weight: &weight, bias: &vec![0.0; n], n, k };
            // Rows of a single one read the weight back.
            let mut ones = vec![0.0; k * k];
            (0..k).for_each(|i| ones[i * k + i] = 1.0);
            let mut out = cpu.rows(k, n).unwrap();
            cpu.linear(
                &rows(&cpu, k, k, &ones),
                &cpu.prepare_linear(&init).unwrap(),
                Epilogue::Bias,
                &mut out,
            );
            for (i, got) in read(&cpu, &out).iter().enumerate() {
                let expected = weight[i % n * k + i / n];
                assert!((got - expected).abs() <= 1e-6 * expected.abs(), "{isa:?} {dtype:?} {i}");
            }
        }
    }
}

/// The normal distribution at `start`, a negligible part of it, and every `step` from there, by Simpson's rule.
fn phi_from(start: f64, step: f64) -> impl Iterator<Item = f64> {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let mut phi = 0.0;
    (0..).map(move |i| {
        let x = start + f64::from(i) * step;
        let so_far = phi;
        phi += (density(x) + 4.0 * density(x + step / 2.0) + density(x + step)) * step / 6.0;
        so_far
    })
}

/// A product with rows of zeros leaves the bias for the activation.
#[test]
fn gelu_is_exact_to_the_rounding_of_bf16() {
    const WIDTH: usize = 6000;
    let bias: Vec<f32> = (0..WIDTH).map(|i| i as f32 / 500.0 - 6.0).collect();
    for dtype in NARROW {
        for cpu in Isa::distinct(dtype).filter_map(|isa| Cpu::with_isa(isa, dtype)) {
            let init = LinearInit { weight: &vec![0.0; WIDTH], bias: &bias, n: WIDTH, k: 1 };
            let mut out = cpu.rows(1, WIDTH).unwrap();
            let weight = cpu.prepare_linear(&init).unwrap();
            cpu.linear(&rows(&cpu, 1, 1, &[0.0]), &weight, Epilogue::BiasGelu, &mut out);
            for ((x, phi), got) in
                bias.iter().zip(phi_from(-6.0, 1.0 / 500.0)).zip(read(&cpu, &out))
            {
                let expected = f64::from(*x) * phi;
                let error = (f64::from(got) - expected).abs();
                let bound = 4e-5 + expected.abs() / 256.0;
                assert!(error <= bound, "{:?} {dtype:?}: {x} gives {got}", cpu.isa());
            }
        }
    }
}

/// Their scale is so small that one over it is infinite.
#[test]
fn rows_of_hardly_more_than_zeros_are_zeros() {
    let (n, k) = (40, 50);
    let (weight, bias) = (values(1, n * k), values(2, n));
    for cpu in coded() {
        let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k }).unwrap();
        let mut out = cpu.rows(1, n).unwrap();
        cpu.linear(&rows(&cpu, 1, k, &vec![-1e-38; k]), &w, Epilogue::Bias, &mut out);
        assert_eq!(read(&cpu, &out), bias, "{:?}", cpu.isa());
    }
}

/// A row of zeros has no scale; a row with a NaN must not look like numbers.
#[test]
fn rows_of_zeros_give_the_bias_and_rows_of_nan_give_nan() {
    let (n, k) = (40, 50);
    let (weight, bias) = (values(1, n * k), values(2, n));
    for dtype in NARROW {
        for isa in Isa::distinct(dtype) {
            let Some(cpu) = Cpu::with_isa(isa, dtype) else { continue };
            let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k }).unwrap();
            let mut x = vec![0.0; 2 * k];
            x[k..].fill(f32::NAN);
            let mut out = cpu.rows(2, n).unwrap();
            cpu.linear(&rows(&cpu, 2, k, &x), &w, Epilogue::Bias, &mut out);
            let got = read(&cpu, &out);
            assert_eq!(&got[..n], &bias[..], "{isa:?} {dtype:?}");
            assert!(got[n..].iter().all(|x| x.is_nan()), "{isa:?} {dtype:?}");
        }
    }
}
