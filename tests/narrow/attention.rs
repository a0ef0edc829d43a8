//! Attention in bf16, and in int8, where scores may be products of bytes.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

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
            let (expected, wide) = (attention(&portable(dtype)), attention(&portable(Dtype::F32)));
            for cpu in simd(dtype) {
                // Nothing divides the scores, so that products of bytes are a tenth of one off at times.
                let has_bytes = dtype == Dtype::Int8 && cpu.isa() == Isa::Avx512Bf16;
                let absolute = if has_bytes && lens.iter().any(|len| *len >= 64) { 0.1 } else { 0.05 };
                // Queries and keys that words have made are nearer to f32's than to those of bf16.
                let expected = if has_words(&cpu) { &wide } else { &expected };
                for (got, expected) in attention(&cpu).iter().zip(expected) {
                    assert_close(&cpu, got, expected, absolute, BF16_STEP);
                }
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
