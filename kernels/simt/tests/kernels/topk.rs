//! The best scores of each query.

use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random};

const COUNTS: [usize; 16] =
    [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1024, 3000];
const NONE: (u32, f32) = (u32::MAX, f32::NEG_INFINITY);

fn run(scores: &[f32], counts: &[usize], k: usize) -> Vec<(u32, f32)> {
    let mut gpu = Gpu::new(Mode::Plain);
    let places = counts.len() * k;
    let (scores, cu) = (gpu.f32(scores), gpu.u32(&cu_seqlens(counts)));
    let (indices, values) = (gpu.u32(&vec![7; places]), gpu.f32(&vec![7.0; places]));
    let args =
        [Arg::Ptr(scores), Arg::Ptr(cu), Arg::Ptr(indices), Arg::Ptr(values), Arg::I32(k as i32)];
    gpu.launch("topk_f32_sm80", counts.len() as u32, 512, 0, &args);
    gpu.read_u32(indices).into_iter().zip(gpu.read_f32(values)).collect()
}

/// A stable sort, so equal scores stay in the order of their positions; without NaN.
fn expected(scores: &[f32], counts: &[usize], k: usize) -> Vec<(u32, f32)> {
    let cu = cu_seqlens(counts);
    let mut expected = Vec::new();
    for (i, count) in counts.iter().enumerate() {
        let own = &scores[cu[i] as usize..][..*count];
        let mut ranked: Vec<_> = own.iter().enumerate().map(|(j, x)| (j as u32, *x)).collect();
        ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN"));
        ranked.resize(k.max(ranked.len()), NONE);
        expected.extend(&ranked[..k]);
    }
    expected
}

#[test]
fn topk_of_every_count_and_k() {
    let scores = random(1, COUNTS.iter().sum(), 8.0);
    for k in [1, 10, 100, 512] {
        assert_eq!(run(&scores, &COUNTS, k), expected(&scores, &COUNTS, k), "k {k}");
    }
}

#[test]
fn equal_scores_come_in_the_order_of_their_positions() {
    // Seven different scores among thousands, with both zeros.
    let scores: Vec<f32> =
        random(2, COUNTS.iter().sum(), 3.4).iter().map(|x| x.round_ties_even()).collect();
    assert!(scores.iter().any(|x| x.to_bits() == (-0.0f32).to_bits()), "no -0");
    assert_eq!(run(&scores, &COUNTS, 200), expected(&scores, &COUNTS, 200));
}

#[test]
fn the_best_may_come_in_any_order() {
    let up: Vec<f32> = (0..2000u16).map(f32::from).collect();
    let down: Vec<f32> = up.iter().rev().copied().collect();
    for scores in [up, down] {
        assert_eq!(run(&scores, &[2000], 300), expected(&scores, &[2000], 300));
    }
}

#[test]
fn nan_ranks_below_every_number() {
    let scores = [f32::NAN, 1.0, f32::NEG_INFINITY, -f32::NAN, f32::INFINITY];
    let ranked = run(&scores, &[5], 6);
    let indices: Vec<u32> = ranked.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [4, 1, 2, 0, 3, u32::MAX]);
    assert!(ranked[3].1.is_nan() && ranked[4].1.is_nan());
    assert_eq!(ranked[5], NONE);
}
