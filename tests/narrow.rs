//! In bf16 and int8 every instruction set of this machine gives what the portable kernels give, and those what
//! f64 gives. What multiplies 16-bit integers for bf16 is nearer to f32.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod values;

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
    fn attention_gives_the_reference_for_any_size(
        lens in prop::collection::vec(1usize..80, 1..4),
        heads in 1usize..4, dim in 1usize..13, seed in 0u64..1000,
    ) {
        let dim = 8 * dim;
        let num_tokens = lens.iter().sum();
        let mut batch = Packed::with_capacity(0, lens.len());
        lens.iter().for_each(|len| batch.push(&vec![0; *len], *len));
        for dtype in NARROW {
            let attention = |cpu: &Cpu| {
                // Four columns in, so that scores stay small: their error is theirs times a step of bf16.
                let qkv = linear(cpu, num_tokens, 3 * heads * dim, 4, Epilogue::Bias, seed);
                let mut scratch = cpu.scratch(80, dim).unwrap();
                [Queries::All, Queries::First].map(|queries| {
                    let mut out = cpu.rows(num_tokens, heads * dim).unwrap();
                    cpu.attention(&qkv, &batch, &AttentionKind::full(queries, heads), &mut scratch, &mut out);
                    read(cpu, &out)
                })
            };
            let expected = attention(&portable(dtype));
            for cpu in simd(dtype) {
                // Nothing divides the scores, so that products of bytes are a tenth of one off at times, and so is the
                // reference of words: its own queries and keys are made of bf16.
                let has_bytes = dtype == Dtype::Int8 && cpu.isa() == Isa::Avx512Bf16;
                let is_far = has_words(&cpu) || has_bytes && lens.iter().any(|len| *len >= 64);
                let absolute = if is_far { 0.15 } else { 0.05 };
                for (got, expected) in attention(&cpu).iter().zip(&expected) {
                    assert_close(&cpu, got, expected, absolute, BF16_STEP);
                }
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

/// Scores, which are exponents of two, rise or fall by four from key to key: what was the largest weight is soon nothing.
#[test]
fn attention_gives_the_reference_where_keys_outweigh_all_before() {
    const STEP: f32 = 4.0;
    for (len, dim, rise) in [(40, 32, 1.0), (150, 32, 1.0), (130, 64, 1.0), (150, 40, -1.0)] {
        let x: Vec<f32> = (0..len).flat_map(|t| [1.0, t as f32 / len as f32]).collect();
        let total = rise * STEP * len as f32;
        // Queries are all the same, keys go from zero to `total` of their product, values from one number to another.
        let mut weight = values(3, 3 * dim * 2);
        weight[..2 * dim].copy_from_slice(&[1.0, 0.0].repeat(dim));
        weight[2 * dim..4 * dim].copy_from_slice(&[0.0, total / dim as f32].repeat(dim));
        let bias = vec![0.0; 3 * dim];
        let init = LinearInit { weight: &weight, bias: &bias, n: 3 * dim, k: 2 };
        let mut batch = Packed::with_capacity(0, 1);
        batch.push(&vec![0; len], len);
        for (dtype, window) in
            NARROW.into_iter().flat_map(|dtype| [(dtype, Window::ALL), (dtype, Window::CAUSAL)])
        {
            let kind = AttentionKind { window, ..AttentionKind::full(Queries::All, 1) };
            let attention = |cpu: &Cpu| {
                let mut qkv = cpu.rows(len, 3 * dim).unwrap();
                let w = cpu.prepare_linear(&init).unwrap();
                cpu.linear(&rows(cpu, len, 2, &x), &w, Epilogue::Bias, &mut qkv);
                let mut scratch = cpu.scratch(len, dim).unwrap();
                let mut out = cpu.rows(len, dim).unwrap();
                cpu.attention(&qkv, &batch, &kind, &mut scratch, &mut out);
                read(cpu, &out)
            };
            let expected = attention(&portable(dtype));
            for cpu in simd(dtype) {
                // Codes of keys that are so far apart shift a weight to a neighbour, whose value is near.
                assert_close(&cpu, &attention(&cpu), &expected, 0.03, BF16_STEP);
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

/// Columns of keys of very different sizes, far from zero: what counts is how they differ from key to key.
#[test]
fn keys_of_any_size_and_offset_give_the_reference() {
    let (lens, heads) = ([150, 64, 97], 2);
    let num_tokens = lens.iter().sum();
    let mut batch = Packed::with_capacity(0, lens.len());
    lens.iter().for_each(|len| batch.push(&vec![0; *len], *len));
    for dim in [8, 32, 64, 96] {
        let (width, k) = (3 * heads * dim, 6);
        let (mut weight, mut bias) = (values(3, width * k), values(4, width));
        for (column, weights) in weight.chunks_exact_mut(k).enumerate() {
            let size = 2f32.powi(column as i32 % 5 - 2);
            let part = column / (heads * dim);
            let factor = [1.0 / size, 4.0 * size / (dim as f32).sqrt(), 1.0][part];
            weights.iter_mut().for_each(|x| *x *= factor);
            bias[column] *= if part == 1 { 10.0 * size } else { 1.0 };
        }
        let attention = |cpu: &Cpu| {
            let x = rows(cpu, num_tokens, k, &values(5, num_tokens * k));
            let init = LinearInit { weight: &weight, bias: &bias, n: width, k };
            let mut qkv = cpu.rows(num_tokens, width).unwrap();
            let weight = cpu.prepare_linear(&init).unwrap();
            cpu.linear(&x, &weight, Epilogue::Bias, &mut qkv);
            let mut scratch = cpu.scratch(150, dim).unwrap();
            let mut out = cpu.rows(num_tokens, heads * dim).unwrap();
            let kind = AttentionKind::full(Queries::All, heads);
            cpu.attention(&qkv, &batch, &kind, &mut scratch, &mut out);
            read(cpu, &out)
        };
        let expected = attention(&portable(Dtype::Int8));
        for cpu in simd(Dtype::Int8) {
            let got = attention(&cpu);
            let power = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
            let error = power(&mut got.iter().zip(&expected).map(|(got, x)| got - x));
            let share = (error / power(&mut expected.iter().copied())).sqrt();
            assert!(share < 0.03, "{:?}, heads of {dim}: {share}", cpu.isa());
        }
    }
}

/// Two keys whose scores differ by what the rows say, and values of zero and one.
#[test]
fn a_key_weighs_two_to_the_power_of_its_score() {
    const DIM: usize = 32;
    let scores: Vec<f32> = (0..256).map(|i| i as f32 / -16.0).collect();
    // A query, a key and a value.
    let x: Vec<f32> = scores.iter().flat_map(|score| [1.0, 0.0, 0.0, 0.0, *score, 1.0]).collect();
    let mut weight = vec![0.0; 3 * DIM * 3];
    (0..3).for_each(|part| weight[part * DIM * 3 + part] = 1.0);
    let init = LinearInit { weight: &weight, bias: &[0.0; 3 * DIM], n: 3 * DIM, k: 3 };
    let mut batch = Packed::with_capacity(0, scores.len());
    scores.iter().for_each(|_| batch.push(&[0; 2], 2));
    for cpu in Isa::distinct(Dtype::Bf16).filter_map(|isa| Cpu::with_isa(isa, Dtype::Bf16)) {
        let mut qkv = cpu.rows(2 * scores.len(), 3 * DIM).unwrap();
        let weight = cpu.prepare_linear(&init).unwrap();
        cpu.linear(&rows(&cpu, 2 * scores.len(), 3, &x), &weight, Epilogue::Bias, &mut qkv);
        let mut scratch = cpu.scratch(2, DIM).unwrap();
        let mut out = cpu.rows(scores.len(), DIM).unwrap();
        let kind = AttentionKind::full(Queries::First, 1);
        cpu.attention(&qkv, &batch, &kind, &mut scratch, &mut out);
        for (score, got) in scores.iter().zip(read(&cpu, &out).chunks_exact(DIM)) {
            let weight = score.exp2();
            assert_close(&cpu, &got[..1], &[weight / (1.0 + weight)], 0.0, BF16_STEP);
        }
    }
}

/// Rows and columns that 16-bit integers hold exactly; their numbers of k are steps of pairs and what is left of those.
#[test]
fn products_of_words_are_exact() {
    let (m, n) = (11, 37);
    for cpu in coded().filter(has_words) {
        for k in (1..70).chain([128, 384, 385, 1536]) {
            let whole = |seed: usize, i: usize, most: usize| {
                (((i + seed) * 7919) % (2 * most + 1)) as f32 - most as f32
            };
            // The largest makes the scale: one in a row, and 127 in a column.
            let x: Vec<f32> = (0..m * k).map(|i| whole(1, i, 500)).collect();
            let x: Vec<f32> =
                x.iter().enumerate().map(|(i, x)| if i % k == 0 { 16_383.0 } else { *x }).collect();
            let weight: Vec<f32> =
                (0..n * k).map(|i| if i % k == k / 2 { 127.0 } else { whole(2, i, 126) }).collect();
            let init = LinearInit { weight: &weight, bias: &vec![0.0; n], n, k };
            let mut out = cpu.rows(m, n).unwrap();
            // As narrow as its input or narrower, a product is written in f32.
            let w = cpu.prepare_linear(&init).unwrap();
            cpu.linear(&rows(&cpu, m, k, &x), &w, Epilogue::Bias, &mut out);
            let step = if n <= k { 1e-6 } else { BF16_STEP / 2.0 };
            for (i, got) in read(&cpu, &out).iter().enumerate() {
                let pairs = x[i / n * k..][..k].iter().zip(&weight[i % n * k..][..k]);
                let exact: f64 = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let error = (f64::from(*got) - exact).abs();
                assert!(
                    error <= f64::from(step) * exact.abs(),
                    "k of {k}, element {i}: {got}, not {exact}"
                );
            }
        }
    }
}

/// Numbers of one sign and size make the largest sums that rows of their norm can make.
#[test]
fn sums_of_words_do_not_wrap() {
    for cpu in coded().filter(has_words) {
        for (k, size) in [(1, 1.0), (7, 1.0), (384, 1e-30), (384, 1e30), (5000, 1.0)] {
            let init = LinearInit { weight: &vec![3.0; k], bias: &[0.0], n: 1, k };
            let mut out = cpu.rows(2, 1).unwrap();
            let w = cpu.prepare_linear(&init).unwrap();
            let x = [vec![size; k], vec![-size; k]].concat();
            cpu.linear(&rows(&cpu, 2, k, &x), &w, Epilogue::Bias, &mut out);
            let expected = 3.0 * size * k as f32;
            assert_close(&cpu, &read(&cpu, &out), &[expected, -expected], 0.0, 2e-3);
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
