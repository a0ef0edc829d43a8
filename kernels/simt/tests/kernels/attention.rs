//! Attention over packed sequences.

use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random};
use crate::tolerance::{Expected, F16, F32, assert_f16};

/// No bound on that side of a query.
const ALL: i32 = 1 << 30;
const TILE: usize = 64;
/// Every length at which a tile of keys or queries ends or begins.
const LENS: [usize; 13] = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 2, 0];

#[derive(Debug, Clone, Copy)]
struct Case {
    head_dim: usize,
    num_heads: usize,
    num_kv_heads: usize,
    left: i32,
    right: i32,
    first_only: bool,
    /// Rows at a sequence's end that are no keys, as far as it has more.
    num_asking: usize,
    cap: Option<f32>,
}

impl Case {
    fn full(head_dim: usize) -> Self {
        Self {
            head_dim,
            num_heads: 2,
            num_kv_heads: 2,
            left: ALL,
            right: ALL,
            first_only: false,
            num_asking: 0,
            cap: None,
        }
    }

    fn capped(head_dim: usize, cap: f32) -> Self {
        Self { cap: Some(cap), ..Self::full(head_dim) }
    }

    fn num_keys(&self, len: usize) -> usize {
        len.saturating_sub(self.num_asking).max(1).min(len)
    }

    fn qkv_width(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Queries, keys and values of a tile each: 64 rows, of keys and values of 128 halves and more 32.
    fn smem_bytes(&self) -> u32 {
        let rows = if self.head_dim >= 128 { 64 + 2 * 32 } else { 3 * 64 };
        (rows * self.head_dim * 2) as u32
    }

    fn threads(&self) -> u32 {
        let widest = if self.cap.is_some() { 96 } else { 128 };
        if self.head_dim > widest { 128 } else { 64 }
    }

    fn kernel(&self) -> String {
        let name = if self.cap.is_some() { "attention_softcap" } else { "attention" };
        format!("{name}_f16_d{}_sm80", self.head_dim)
    }
}

/// Queries as a model makes them: scores in base 2 of a few units.
fn qkv(case: &Case, num_tokens: usize) -> Vec<f32> {
    random(case.head_dim as u64, num_tokens * case.qkv_width(), 2.0)
        .chunks(case.head_dim)
        .enumerate()
        .flat_map(|(chunk, values)| {
            let heads = case.num_heads + 2 * case.num_kv_heads;
            let scale = if chunk % heads < case.num_heads { 0.25 } else { 1.0 };
            values.iter().map(move |x| x * scale).collect::<Vec<_>>()
        })
        .collect()
}

/// The work items: every tile of queries of every sequence, and two that a captured graph would leave over.
pub fn items(first_only: bool, lens: &[usize]) -> Vec<u32> {
    let mut items = Vec::new();
    for (sequence, len) in lens.iter().enumerate() {
        let queries = if first_only { (*len).min(1) } else { *len };
        for tile in 0..queries.div_ceil(TILE) {
            items.extend([sequence as u32, tile as u32]);
        }
    }
    items.extend([u32::MAX, 0, u32::MAX, 0]);
    items
}

fn run(mode: Mode, case: &Case, lens: &[usize], qkv: &[f32]) -> Vec<f32> {
    let mut gpu = Gpu::new(mode);
    let cu = cu_seqlens(lens);
    let items = items(case.first_only, lens);
    let out_rows = if case.first_only { lens.len() } else { cu[lens.len()] as usize };
    let width = case.num_heads * case.head_dim;
    let key_lens: Vec<u32> = lens.iter().map(|len| case.num_keys(*len) as u32).collect();
    let (qkv_at, cu_at, items_at) = (gpu.f16(qkv), gpu.u32(&cu), gpu.u32(&items));
    let key_lens_at = gpu.u32(&key_lens);
    let out = gpu.f16(&vec![f32::NAN; out_rows * width]);
    let mut args = vec![
        Arg::Ptr(qkv_at),
        Arg::Ptr(cu_at),
        Arg::Ptr(items_at),
        Arg::Ptr(out),
        Arg::I32(case.num_heads as i32),
        Arg::I32(case.num_kv_heads as i32),
        Arg::I32(case.qkv_width() as i32),
        Arg::I32(width as i32),
        Arg::I32(case.left),
        Arg::I32(case.right),
        Arg::I32(i32::from(case.first_only)),
        Arg::Ptr(key_lens_at),
    ];
    args.extend(case.cap.map(Arg::F32));
    let grid = (items.len() / 2 * case.num_heads) as u32;
    gpu.launch_without_conflicts(&case.kernel(), grid, case.threads(), case.smem_bytes(), &args);
    gpu.read_f16(out)
}

/// The products that make a score.
pub fn products<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = f64> + Clone + 'a {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b))
}

/// What capping makes of a score. It is a difference of the cap and of twice as much at most, which an exponential, a
/// reciprocal and their roundings move by 16 units together.
fn cap(score: Expected, cap: Option<f32>) -> Expected {
    let Some(cap) = cap.map(f64::from) else { return score };
    let value = cap * (score.value / cap).tanh();
    Expected { value, error: score.error + 16.0 * cap * F32 }
}

/// One head of one query: the values of the keys that it sees, by their scores.
pub fn attend(head_dim: usize, scores: &[Expected], seen: &[&[f32]]) -> Vec<Expected> {
    let max = scores.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s.value - max).exp2()).collect();
    let sum: f64 = weights.iter().sum();
    // The error of a weight: that of its score, twice because its sum starts from the reference, which is about
    // as large; the exponential's 2 ulp; and the rounding to f16 for the second product, below 2^-14 to a
    // multiple of 2^-24, where the reference is never above the maximum.
    let error = |i: usize| {
        let relative = scores[i].error * 2.0 * std::f64::consts::LN_2 + F16 + 40.0 * F32;
        weights[i] * relative + F32
    };
    (0..head_dim)
        .map(|column| {
            let values = || seen.iter().map(|value| f64::from(value[column]));
            let mixed: f64 = values().zip(&weights).map(|(v, w)| v * w).sum();
            let magnitude: f64 = values().zip(&weights).map(|(v, w)| v.abs() * w).sum();
            let steps = seen.len() as f64 + 8.0;
            let value = if seen.is_empty() { 0.0 } else { mixed / sum };
            // The sum that divides is that of the same rounded weights.
            let bound: f64 = values().enumerate().map(|(i, v)| (v - value).abs() * error(i)).sum();
            let error = if seen.is_empty() { 0.0 } else { (bound + magnitude * F32 * steps) / sum };
            Expected { value, error: error + value.abs() * F32 * steps }
        })
        .collect()
}

fn expected(case: &Case, lens: &[usize], qkv: &[f32]) -> Vec<Expected> {
    let cu = cu_seqlens(lens);
    let group = case.num_heads / case.num_kv_heads;
    let mut expected = Vec::new();
    for (sequence, &len) in lens.iter().enumerate() {
        let part = |token: usize, head: usize| {
            let row = &qkv[(cu[sequence] as usize + token) * case.qkv_width()..];
            &row[head * case.head_dim..][..case.head_dim]
        };
        let queries = if case.first_only { len.min(1) } else { len };
        for token in 0..queries {
            for head in 0..case.num_heads {
                let key_head = case.num_heads + head / group;
                let num_keys = case.num_keys(len) as i32;
                let first = (token as i32 - case.left).min(num_keys - 1);
                let (scores, seen): (Vec<_>, Vec<_>) = (0..num_keys)
                    .filter(|key| (first..=token as i32 + case.right).contains(key))
                    .map(|key| key as usize)
                    .map(|key| {
                        let score = Expected::sum(products(part(token, head), part(key, key_head)));
                        (cap(score, case.cap), part(key, key_head + case.num_kv_heads))
                    })
                    .unzip();
                expected.extend(attend(case.head_dim, &scores, &seen));
            }
        }
        if case.first_only && len == 0 {
            // No query wrote this row.
            let width = case.num_heads * case.head_dim;
            expected.extend(vec![Expected::exact(0.0); width]);
        }
    }
    expected
}

#[track_caller]
fn check(case: Case, lens: &[usize]) {
    let qkv = qkv(&case, lens.iter().sum());
    let mut out = run(Mode::Rough, &case, lens, &qkv);
    if case.first_only {
        let width = case.num_heads * case.head_dim;
        for (row, _) in lens.iter().enumerate().filter(|(_, len)| **len == 0) {
            let row = &mut out[row * width..][..width];
            assert!(row.iter().all(|x| x.is_nan()), "{case:?}: wrote for an empty sequence");
            row.fill(0.0);
        }
    }
    assert_f16(&format!("{case:?}"), &out, &expected(&case, lens, &qkv));
}

#[test]
fn attention_with_every_head_size_and_edge_length() {
    for head_dim in [32, 64, 96, 128] {
        check(Case::full(head_dim), &LENS);
    }
    check(Case { num_heads: 1, num_kv_heads: 1, ..Case::full(256) }, &LENS);
}

#[test]
fn capped_scores_with_every_head_size_and_edge_length() {
    check(Case::capped(32, 4.0), &LENS);
    for head_dim in [128, 256] {
        check(Case { num_heads: 1, num_kv_heads: 1, ..Case::capped(head_dim, 3.0) }, &LENS[1..8]);
    }
}

#[test]
fn capped_scores_through_many_tiles_in_windows_and_for_few_key_heads() {
    let causal = Case { right: 0, ..Case::capped(32, 4.0) };
    check(Case { num_kv_heads: 1, ..causal }, &[200, 3]);
    check(Case { left: 20, ..causal }, &[130]);
    for head_dim in [128, 256] {
        let causal = Case { right: 0, ..Case::capped(head_dim, 3.0) };
        check(Case { num_kv_heads: 1, left: 50, ..causal }, &[129]);
    }
}

#[test]
fn attention_through_many_tiles_of_keys() {
    for head_dim in [32, 64, 96, 128] {
        let one_head = Case { num_heads: 1, num_kv_heads: 1, ..Case::full(head_dim) };
        check(one_head, &[511, 3]);
        check(Case { right: 0, ..one_head }, &[512]);
        check(Case { left: 150, right: 130, ..one_head }, &[512]);
    }
    let two_for_one = Case { num_kv_heads: 1, ..Case::full(256) };
    check(Case { right: 0, ..two_for_one }, &[200]);
    check(Case { left: 50, right: 30, num_asking: 20, ..two_for_one }, &[150]);
}

#[test]
fn causal_attention_sees_no_later_key() {
    for head_dim in [32, 64, 96, 128] {
        check(Case { right: 0, ..Case::full(head_dim) }, &LENS);
    }
}

#[test]
fn a_sliding_window_sees_its_neighbours_only() {
    // Windows that end within a tile, at its edge, and that leave whole tiles out.
    for (left, right) in [(0, 0), (3, 3), (64, 64), (16, 0), (1, 70)] {
        check(Case { left, right, ..Case::full(32) }, &LENS);
    }
    check(Case { left: 20, right: 20, ..Case::full(64) }, &[300, 5]);
}

#[test]
fn rows_that_are_no_keys_ask_all_the_same() {
    for head_dim in [32, 64, 96, 128] {
        check(Case { num_asking: 20, ..Case::full(head_dim) }, &LENS);
    }
    // Whole tiles of queries without keys of their own, and queries from beyond their window.
    check(Case { num_asking: 130, ..Case::full(64) }, &[300, 131, 5]);
    check(Case { num_asking: 90, left: 20, right: 20, ..Case::full(32) }, &[100, 200, 7]);
}

#[test]
fn the_first_token_alone_may_ask() {
    for head_dim in [32, 64, 96, 128] {
        check(Case { first_only: true, ..Case::full(head_dim) }, &LENS);
    }
    check(Case { first_only: true, ..Case::full(256) }, &[70, 1, 0, 33]);
}

#[test]
fn query_heads_share_key_heads() {
    check(Case { num_heads: 6, num_kv_heads: 2, ..Case::full(32) }, &[70, 3]);
}

#[test]
fn one_long_sequence_among_many_tiny_ones() {
    let case = Case { num_heads: 1, num_kv_heads: 1, ..Case::full(64) };
    check(case, &[1, 2, 3, 1100, 1, 1, 4]);
}

#[test]
fn attention_does_not_depend_on_batch_mates() {
    let lens = [7, 129, 1, 64];
    let wide = Case { num_heads: 1, num_kv_heads: 1, right: 0, ..Case::capped(256, 3.0) };
    for case in [Case::full(64), Case { left: 30, right: 30, ..Case::full(64) }, wide] {
        let qkv = qkv(&case, lens.iter().sum());
        let together = run(Mode::Plain, &case, &lens, &qkv);
        let cu = cu_seqlens(&lens);
        for (i, len) in lens.into_iter().enumerate() {
            let rows = |width: usize| cu[i] as usize * width..cu[i + 1] as usize * width;
            let alone = run(Mode::Plain, &case, &[len], &qkv[rows(case.qkv_width())]);
            assert_eq!(alone, together[rows(case.num_heads * case.head_dim)], "sequence {i}");
        }
    }
}

#[test]
fn the_first_query_gets_the_same_bits_alone() {
    let lens = [70, 1, 400];
    let case = Case::full(64);
    let mut qkv = qkv(&case, lens.iter().sum());
    // Scores so large that other rows of its warp take new references in between.
    for row in qkv.chunks_mut(case.qkv_width()).skip(1) {
        row[..128].iter_mut().for_each(|q| *q *= 8.0);
    }
    let all = run(Mode::Plain, &case, &lens, &qkv);
    let first = run(Mode::Plain, &Case { first_only: true, ..case }, &lens, &qkv);
    let width = case.num_heads * case.head_dim;
    for (i, begin) in cu_seqlens(&lens)[..lens.len()].iter().enumerate() {
        assert_eq!(first[i * width..][..width], all[*begin as usize * width..][..width]);
    }
}

#[test]
fn scores_far_from_the_rest_do_not_overflow() {
    // Capped far from where it would matter, and where the farthest are cut off.
    let wide = [Case::full(256), Case::capped(128, 300.0), Case::capped(32, 40.0)];
    for case in [32, 64, 96, 128].map(Case::full).into_iter().chain(wide) {
        let case = Case { num_heads: 1, num_kv_heads: 1, ..case };
        let (head_dim, len) = (case.head_dim, 500);
        let mut qkv = qkv(&case, len);
        for row in qkv.chunks_mut(case.qkv_width()) {
            row[..head_dim].iter_mut().for_each(|q| *q = q.abs().max(0.125) * 20.0);
        }
        // The first tile's scores lie far below zero. Each later key wins over all before it, by tens to
        // thousands: new references in the main loop.
        for key in 0..64 {
            qkv[key * case.qkv_width()..][head_dim..2 * head_dim].fill(-3.0);
        }
        for (key, size) in [(70, 1.0), (200, 8.0), (201, 9.0), (330, 9.25), (499, 30.0)] {
            qkv[key * case.qkv_width()..][head_dim..2 * head_dim].fill(size);
        }
        let qkv: Vec<f32> = qkv.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
        let out = run(Mode::Plain, &case, &[len], &qkv);
        assert_f16(&format!("{case:?}"), &out, &expected(&case, &[len], &qkv));
    }
}
