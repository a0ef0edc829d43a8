//! What models with rotary positions, windows and gates add: every instruction set of this machine gives what
//! the portable kernels give, in f32 and in the narrow precisions, and those what their definitions say.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod max_sim;
mod values;

use proptest::prelude::*;
use rerankd::engine::cpu::{Cpu, Isa, Rows};
use rerankd::engine::packed::Packed;
use rerankd::engine::{
    AttentionKind, Backend, Dtype, Epilogue, FirstInit, Gate, LinearInit, NormInit, NormKind,
    Pooling, Queries, RelativeInit, RopeInit, Window,
};

use values::values;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

fn cpu(isa: Isa, dtype: Dtype) -> Cpu {
    Cpu::with_isa(isa, dtype).expect("available")
}

/// All kernels but the reference.
fn simd(dtype: Dtype) -> impl Iterator<Item = Cpu> {
    Isa::distinct(dtype).filter(|isa| *isa != Isa::Portable).map(move |isa| cpu(isa, dtype))
}

/// Rows of f32 numbers, in the form that the precision's products leave: wider than their input, so in bf16
/// unless all is f32. Four columns in, so that hardly a rounding differs.
fn product(cpu: &Cpu, m: usize, n: usize, seed: u64) -> Rows {
    const K: usize = 4;
    let (weight, bias) = (values(seed, n * K), values(seed + 1, n));
    let w = cpu.prepare_linear(&LinearInit { weight: &weight, bias: &bias, n, k: K }).unwrap();
    let mut x = cpu.rows(m, K).unwrap();
    x.set_rows(m);
    for (i, row) in values(seed + 2, m * K).chunks_exact(K).enumerate() {
        x.row_mut(i).copy_from_slice(row);
    }
    cpu.encode(&mut x);
    let mut out = cpu.rows(m, n).unwrap();
    cpu.linear(&x, &w, Epilogue::Bias, &mut out);
    out
}

fn read(cpu: &Cpu, rows: &Rows) -> Vec<f32> {
    let mut out = vec![0.0; rows.num_rows() * rows.width()];
    cpu.read(rows, &mut out).unwrap();
    out
}

fn packed(lens: &[usize]) -> Packed {
    let mut batch = Packed::with_capacity(0, lens.len());
    lens.iter().for_each(|len| batch.push(&vec![0; *len], *len));
    batch
}

/// Two roundings to bf16 may fall to either side, of numbers up to four; in f32 sums of four differ by less.
fn tolerance(dtype: Dtype) -> f32 {
    if dtype == Dtype::F32 { 2e-5 } else { 5e-2 }
}

fn assert_close(cpu: &Cpu, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (isa, dtype) = (cpu.isa(), cpu.dtype());
        let is_close = (got - expected).abs() <= tolerance;
        assert!(is_close, "{isa:?} in {dtype:?}: element {i} is {got}, not {expected}");
    }
}

fn kind(queries: Queries, heads: (usize, usize), window: Window) -> AttentionKind {
    let (num_heads, num_kv_heads) = (heads.0 * heads.1, heads.1);
    AttentionKind { queries, num_heads, num_kv_heads, window, softcap: None }
}

fn attention(cpu: &Cpu, lens: &[usize], kind: &AttentionKind, dim: usize, seed: u64) -> Vec<f32> {
    let batch = packed(lens);
    let qkv = product(cpu, batch.num_tokens(), kind.num_row_heads() * dim, seed);
    let mut scratch = cpu.scratch(lens.iter().copied().max().unwrap_or(1), dim).unwrap();
    let mut out = cpu.rows(batch.num_tokens(), kind.num_heads * dim).unwrap();
    cpu.attention(&qkv, &batch, kind, &mut scratch, &mut out);
    read(cpu, &out)
}

/// The longest sequence of those tests.
const MAX_LENGTH: usize = 100;

/// The bucket of a distance: near ones have their own, the others share the outer ones.
fn bucket(distance: isize, num_buckets: usize) -> u32 {
    (distance + num_buckets as isize / 2).clamp(0, num_buckets as isize - 1) as u32
}

fn relative_attention(
    cpu: &Cpu,
    lens: &[usize],
    queries: Queries,
    (num_heads, head_dim, num_buckets): (usize, usize, usize),
    seed: u64,
) -> Vec<f32> {
    let batch = packed(lens);
    let kind = AttentionKind::full(queries, num_heads);
    let qkv = product(cpu, batch.num_tokens(), kind.num_row_heads() * head_dim, seed);
    let len = num_heads * num_buckets * head_dim;
    let farthest = MAX_LENGTH as isize - 1;
    let buckets: Vec<_> = (-farthest..=farthest).map(|d| bucket(d, num_buckets)).collect();
    let (keys, from) = (values(seed + 7, len), values(seed + 8, len));
    let init = RelativeInit { keys: &keys, queries: &from, num_heads, head_dim, buckets: &buckets };
    let relative = cpu.prepare_relative(&init).unwrap();
    let mut scratch = cpu.relative_scratch(MAX_LENGTH, &relative).unwrap();
    let mut out = cpu.rows(batch.num_tokens(), num_heads * head_dim).unwrap();
    cpu.relative_attention(&qkv, &batch, &kind, &relative, &mut scratch, &mut out);
    read(cpu, &out)
}

/// One row a sequence by both ways: without keys and values, and by attention of the first queries in f32.
fn first_attention(
    cpu: &Cpu,
    lens: &[usize],
    heads: usize,
    sizes: (usize, usize),
) -> [Vec<f32>; 2] {
    let (width, head_dim) = sizes;
    let (batch, n) = (packed(lens), heads * head_dim);
    let bias = values(12, 3 * n);
    // Scores of a few units: the softmax of larger ones would turn their roundings into errors.
    let scale = 1.0 / (width as f32).sqrt();
    let weight: Vec<f32> = values(11, 3 * n * width).iter().map(|x| x * scale).collect();
    let part = |i: usize| LinearInit {
        weight: &weight[i * n * width..][..n * width],
        bias: &bias[i * n..][..n],
        n,
        k: width,
    };
    let hidden = |cpu: &Cpu| {
        let mut hidden = cpu.rows(batch.num_tokens(), width).unwrap();
        hidden.set_rows(batch.num_tokens());
        let numbers = values(13, batch.num_tokens() * width);
        for (i, row) in numbers.chunks_exact(width).enumerate() {
            hidden.row_mut(i).copy_from_slice(row);
        }
        hidden
    };
    let init = FirstInit { query: part(0), key: part(1), value: part(2), num_heads: heads };
    let first = cpu.prepare_first(&init).unwrap().unwrap();
    let longest = lens.iter().copied().max().unwrap_or(1);
    let mut out = cpu.rows(batch.num_tokens(), n).unwrap();
    let mut scratch = cpu.first_scratch(longest, &first).unwrap();
    cpu.first_attention(&hidden(cpu), &batch, &first, &mut scratch, &mut out);

    let wide = self::cpu(Isa::Portable, Dtype::F32);
    let all = LinearInit { weight: &weight, bias: &bias, n: 3 * n, k: width };
    let mut qkv = wide.rows(batch.num_tokens(), 3 * n).unwrap();
    let weight = wide.prepare_linear(&all).unwrap();
    wide.linear(&hidden(&wide), &weight, Epilogue::Bias, &mut qkv);
    let kind = AttentionKind::full(Queries::First, heads);
    let mut scratch = wide.scratch(longest, head_dim).unwrap();
    let mut expected = wide.rows(batch.num_tokens(), n).unwrap();
    wide.attention(&qkv, &batch, &kind, &mut scratch, &mut expected);
    [read(cpu, &out), read(&wide, &expected)]
}

fn windows() -> impl Strategy<Value = Window> {
    prop_oneof![
        Just(Window::CAUSAL),
        (0usize..90).prop_map(Window::around),
        (0usize..90).prop_map(|left| Window { left, right: 0 }),
    ]
}

proptest! {
    // The portable kernel takes its time for a million scores.
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn keys_that_come_in_several_chunks_give_the_reference(
        len in 500usize..1100, window in prop_oneof![windows(), Just(Window::ALL)],
        heads in (1usize..3, 1usize..3), seed in 0u64..1000,
    ) {
        for dtype in DTYPES {
            let kind = kind(Queries::All, heads, window);
            let expected = attention(&cpu(Isa::Portable, dtype), &[len, 20], &kind, 32, seed);
            for cpu in simd(dtype) {
                let got = attention(&cpu, &[len, 20], &kind, 32, seed);
                assert_close(&cpu, &got, &expected, 2.0 * tolerance(dtype));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_gives_the_reference_for_any_window_and_sharing_of_keys(
        lens in prop::collection::vec(1usize..150, 1..4), window in windows(),
        heads in (1usize..4, 1usize..3), dim in 1usize..7, seed in 0u64..1000,
        softcap in prop::option::of(0.5f32..8.0),
    ) {
        for dtype in DTYPES {
            for queries in [Queries::All, Queries::First] {
                let kind = AttentionKind { softcap, ..kind(queries, heads, window) };
                let expected = attention(&cpu(Isa::Portable, dtype), &lens, &kind, 8 * dim, seed);
                for cpu in simd(dtype) {
                    let got = attention(&cpu, &lens, &kind, 8 * dim, seed);
                    assert_close(&cpu, &got, &expected, 2.0 * tolerance(dtype));
                }
            }
        }
    }

    #[test]
    fn the_first_token_attends_without_keys_and_values_as_with_them(
        lens in prop::collection::vec(1usize..60, 1..20), heads in 1usize..18, dim in 1usize..7,
        width in 3usize..150,
    ) {
        for cpu in DTYPES.into_iter().flat_map(|dtype| Isa::distinct(dtype).map(move |isa| cpu(isa, dtype))) {
            let [got, expected] = first_attention(&cpu, &lens, heads, (width, 8 * dim));
            // f32, whatever the model's precision.
            assert_close(&cpu, &got, &expected, tolerance(Dtype::F32));
        }
    }

    #[test]
    fn scores_that_count_distances_give_the_reference(
        lens in prop::collection::vec(1usize..100, 1..4), num_heads in 1usize..3, dim in 1usize..7,
        num_buckets in 1usize..40, seed in 0u64..1000,
    ) {
        for dtype in DTYPES {
            for queries in [Queries::All, Queries::First] {
                let run = |cpu: &Cpu| {
                    relative_attention(cpu, &lens, queries, (num_heads, 8 * dim, num_buckets), seed)
                };
                let expected = run(&cpu(Isa::Portable, dtype));
                for cpu in simd(dtype) {
                    assert_close(&cpu, &run(&cpu), &expected, 2.0 * tolerance(dtype));
                }
            }
        }
    }

    #[test]
    fn a_gate_gives_the_reference_for_any_width(
        m in 1usize..6, width in 3usize..150, seed in 0u64..1000,
    ) {
        for dtype in DTYPES {
            for gate in [Gate::Gelu, Gate::GeluTanh, Gate::Silu, Gate::Relu] {
                let gated = |cpu: &Cpu| {
                    let mut out = cpu.rows(m, width).unwrap();
                    cpu.gated_activation(&product(cpu, m, 2 * width, seed), gate, &mut out);
                    read(cpu, &out)
                };
                let expected = gated(&cpu(Isa::Portable, dtype));
                for cpu in simd(dtype) {
                    assert_close(&cpu, &gated(&cpu), &expected, 4.0 * tolerance(dtype));
                }
            }
        }
    }

    #[test]
    fn rotation_gives_the_reference_for_any_heads(
        lens in prop::collection::vec(1usize..40, 1..4),
        heads in (1usize..4, 1usize..3), dim in 1usize..5, seed in 0u64..1000,
    ) {
        let (batch, dim) = (packed(&lens), 32 * dim);
        let kind = kind(Queries::All, heads, Window::ALL);
        for dtype in DTYPES {
            let rotated = |cpu: &Cpu| rotate(cpu, &batch, &kind, dim, seed);
            let expected = rotated(&cpu(Isa::Portable, dtype));
            for cpu in simd(dtype) {
                assert_close(&cpu, &rotated(&cpu), &expected, tolerance(dtype));
            }
        }
    }

    #[test]
    fn norms_of_heads_give_the_reference(
        m in 1usize..9, heads in (1usize..4, 1usize..3), dim in 1usize..5, seed in 0u64..1000,
    ) {
        let (kind, dim) = (kind(Queries::All, heads, Window::ALL), 32 * dim);
        let (queries, keys) = (values(seed + 5, dim), values(seed + 6, dim));
        for dtype in DTYPES {
            let normed = |cpu: &Cpu| {
                let norm = |gamma| NormInit { kind: NormKind::Rms, gamma, beta: &[], eps: 1e-6 };
                let mut qkv = product(cpu, m, kind.num_row_heads() * dim, seed);
                let norm = |gamma| cpu.prepare_norm(&norm(gamma)).unwrap();
                cpu.head_norm(&mut qkv, &norm(&queries), &norm(&keys), &kind);
                read(cpu, &qkv)
            };
            let expected = normed(&cpu(Isa::Portable, dtype));
            for cpu in simd(dtype) {
                assert_close(&cpu, &normed(&cpu), &expected, tolerance(dtype));
            }
            // Values stay, and a head of queries has the length that its gamma gives it.
            let cpu = cpu(Isa::Portable, dtype);
            let before = read(&cpu, &product(&cpu, m, kind.num_row_heads() * dim, seed));
            let values_at = (kind.num_heads + kind.num_kv_heads) * dim;
            prop_assert_eq!(&before[values_at..][..dim], &expected[values_at..][..dim]);
            let square = before[..dim].iter().map(|x| x * x).sum::<f32>() / dim as f32;
            let first = before[0] / (square + 1e-6).sqrt() * queries[0];
            prop_assert!((expected[0] - first).abs() <= tolerance(dtype));
        }
    }

    #[test]
    fn a_norm_before_a_layer_keeps_the_sum_and_gives_the_reference(
        m in 1usize..5, width in 5usize..200, seed in 0u64..1000, with_update: bool,
    ) {
        for dtype in DTYPES {
            for kind in [NormKind::Layer, NormKind::Rms] {
                let run = |cpu: &Cpu| {
                    let gamma = values(seed, width);
                    let init = NormInit { kind, gamma: &gamma, beta: &[], eps: 1e-5 };
                    let norm = cpu.prepare_norm(&init).unwrap();
                    let mut hidden = cpu.rows(m, width).unwrap();
                    hidden.set_rows(m);
                    for (i, row) in values(seed + 2, m * width).chunks_exact(width).enumerate() {
                        hidden.row_mut(i).copy_from_slice(row);
                    }
                    let update = product(cpu, m, width, seed + 3);
                    let mut out = cpu.rows(m, width).unwrap();
                    cpu.pre_norm(&mut hidden, with_update.then_some(&update), &norm, &mut out);
                    [read(cpu, &hidden), read(cpu, &out)]
                };
                let expected = run(&cpu(Isa::Portable, dtype));
                for cpu in simd(dtype) {
                    let got = run(&cpu);
                    assert_close(&cpu, &got[0], &expected[0], tolerance(dtype));
                    // Five values near one another have a small variance, which magnifies a rounding.
                    assert_close(&cpu, &got[1], &expected[1], 4.0 * tolerance(dtype));
                }
            }
        }
    }
}

fn frequencies(dim: usize) -> Vec<f64> {
    (0..dim / 2).map(|i| 100f64.powf(-2.0 * i as f64 / dim as f64)).collect()
}

fn rotate(cpu: &Cpu, batch: &Packed, kind: &AttentionKind, dim: usize, seed: u64) -> Vec<f32> {
    let init = RopeInit { inverse_frequencies: &frequencies(dim), max_positions: 64 };
    let mut qkv = product(cpu, batch.num_tokens(), kind.num_row_heads() * dim, seed);
    cpu.rotate(&mut qkv, batch, &cpu.prepare_rope(&init).unwrap(), kind);
    read(cpu, &qkv)
}

/// Against f64 and the definition, at the last position of a long and of a short sequence.
#[test]
fn the_portable_rotation_turns_queries_and_keys_by_their_positions() {
    let (dim, lens) = (32, [60, 3]);
    let (cpu, batch) = (cpu(Isa::Portable, Dtype::F32), packed(&lens));
    let kind = kind(Queries::All, (2, 1), Window::ALL);
    let width = kind.num_row_heads() * dim;
    let before = read(&cpu, &product(&cpu, batch.num_tokens(), width, 3));
    let after = rotate(&cpu, &batch, &kind, dim, 3);
    for (row, position) in [(59, 59.0), (62, 2.0)] {
        let (before, after) = (&before[row * width..][..width], &after[row * width..][..width]);
        for (i, frequency) in frequencies(dim).iter().enumerate() {
            let (sine, cosine) = (position * frequency).sin_cos();
            for head in 0..kind.num_row_heads() {
                let (low, high) = (head * dim + i, head * dim + i + dim / 2);
                let (x, y) = (f64::from(before[low]), f64::from(before[high]));
                // Values stay as they were.
                let is_value = head >= kind.num_heads + kind.num_kv_heads;
                let (sine, cosine) = if is_value { (0.0, 1.0) } else { (sine, cosine) };
                let expected = [x * cosine - y * sine, y * cosine + x * sine];
                let got = [f64::from(after[low]), f64::from(after[high])];
                assert!((got[0] - expected[0]).abs() < 1e-6, "row {row}, head {head}: {got:?}");
                assert!((got[1] - expected[1]).abs() < 1e-6, "row {row}, head {head}: {got:?}");
            }
        }
    }
}

/// Against a sum written out: what a window hides may not count, and heads take the keys of their group.
#[test]
fn the_portable_attention_sees_its_window_and_its_group_alone() {
    let (dim, len) = (8, 20);
    let cpu = cpu(Isa::Portable, Dtype::F32);
    let kind = kind(Queries::All, (3, 2), Window { left: 4, right: 1 });
    let width = kind.num_row_heads() * dim;
    let qkv = read(&cpu, &product(&cpu, len, width, 9));
    let of = |t: usize, head: usize| &qkv[t * width + head * dim..][..dim];
    let got = attention(&cpu, &[len], &kind, dim, 9);
    for t in 0..len {
        for head in 0..6 {
            let (key, value) = (6 + head / 3, 8 + head / 3);
            let seen: Vec<usize> = (0..len).filter(|s| *s + 4 >= t && *s <= t + 1).collect();
            let score = |s: &usize| -> f64 {
                let products = of(t, head).iter().zip(of(*s, key));
                products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let weights: Vec<f64> = seen.iter().map(|s| score(s).exp2()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let terms = seen.iter().zip(&weights);
                let sum: f64 = terms.map(|(s, w)| w / total * f64::from(of(*s, value)[d])).sum();
                let got = f64::from(got[t * 6 * dim + head * dim + d]);
                assert!((got - sum).abs() < 1e-5, "query {t} of head {head}: {got}, not {sum}");
            }
        }
    }
}

/// Against sums written out: both products with the vectors of a distance, and the cap of a score.
#[test]
fn the_portable_attention_counts_distances_and_caps_scores() {
    let (dim, len, num_heads, num_buckets) = (8, 20, 2, 7);
    let cpu = cpu(Isa::Portable, Dtype::F32);
    let width = 3 * num_heads * dim;
    let qkv = read(&cpu, &product(&cpu, len, width, 9));
    let of = |t: usize, head: usize| &qkv[t * width + head * dim..][..dim];
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let vectors = num_heads * num_buckets * dim;
    let (keys, queries) = (values(16, vectors), values(17, vectors));
    let vector = |vectors: &[f32], head: usize, t: usize, s: usize| {
        let bucket = bucket(t as isize - s as isize, num_buckets) as usize;
        vectors[(head * num_buckets + bucket) * dim..][..dim].to_vec()
    };
    let relative = relative_attention(&cpu, &[len], Queries::All, (num_heads, dim, num_buckets), 9);
    let cap = 0.7;
    let capped = AttentionKind {
        softcap: Some(cap as f32),
        ..kind(Queries::All, (1, num_heads), Window::ALL)
    };
    let capped = attention(&cpu, &[len], &capped, dim, 9);
    for (t, head) in (0..len).flat_map(|t| [(t, 0), (t, 1)]) {
        let (query, key) = (of(t, head), |s| of(s, num_heads + head));
        let distance = |s: usize| {
            dot(query, &vector(&keys, head, t, s)) + dot(key(s), &vector(&queries, head, t, s))
        };
        let by_distance = |s: usize| dot(query, key(s)) + distance(s);
        let by_cap = |s: usize| cap * (dot(query, key(s)) / cap).tanh();
        let expected = |score: &dyn Fn(usize) -> f64, d: usize| {
            let weights: Vec<f64> = (0..len).map(|s| score(s).exp2()).collect();
            let of_value = |s: usize| f64::from(of(s, 2 * num_heads + head)[d]);
            let sum: f64 = weights.iter().enumerate().map(|(s, w)| w * of_value(s)).sum();
            sum / weights.iter().sum::<f64>()
        };
        for d in 0..dim {
            let at = t * num_heads * dim + head * dim + d;
            let (got, sum) = (f64::from(relative[at]), expected(&by_distance, d));
            assert!((got - sum).abs() < 1e-5, "query {t} of head {head}: {got}, not {sum}");
            let (got, sum) = (f64::from(capped[at]), expected(&by_cap, d));
            assert!((got - sum).abs() < 1e-5, "capped query {t} of head {head}: {got}, not {sum}");
        }
    }
}

#[test]
fn pooling_takes_the_last_row_of_each_sequence() {
    let (cpu, batch) = (cpu(Isa::Portable, Dtype::F32), packed(&[3, 1, 5]));
    let hidden = product(&cpu, 9, 6, 1);
    let mut out = cpu.rows(9, 6).unwrap();
    cpu.pool(&hidden, &batch, Pooling::Last, &mut out);
    let (rows, got) = (read(&cpu, &hidden), read(&cpu, &out));
    for (i, last) in [2, 3, 8].into_iter().enumerate() {
        assert_eq!(got[i * 6..][..6], rows[last * 6..][..6], "sequence {i}");
    }
}
