//! Products of bf16 rows that are made of 16-bit integers.

use super::*;

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
