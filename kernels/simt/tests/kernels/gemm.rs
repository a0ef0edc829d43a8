//! The linear layer.

use crate::gpu::{Arg, Gpu, Mode, random};
use crate::reference::{gelu_erf, gelu_tanh};
use crate::tolerance::{Expected, F32, assert_f16};

/// A kernel, the edge of its square tile, and its launch.
#[derive(Debug, Clone, Copy)]
struct Tile {
    name: &'static str,
    edge: usize,
    threads: u32,
    smem_bytes: u32,
}

const LARGE: Tile =
    Tile { name: "gemm_f16_128x128x32_sm80", edge: 128, threads: 128, smem_bytes: 49_152 };
const SMALL: Tile = Tile { name: "gemm_f16_64x64x64_sm80", edge: 64, threads: 64, ..LARGE };
const TILES: [Tile; 2] = [LARGE, SMALL];
const NUM_EPILOGUES: i32 = 5;

/// One product with everything that its call may leave out.
#[derive(Debug, Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    epilogue: i32,
    bias: bool,
    residual: bool,
}

#[derive(Debug)]
struct Data {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Data {
    fn new(case: &Case) -> Self {
        let Case { m, n, k, .. } = *case;
        Self {
            x: random(1, m * k, 2.0),
            weight: random(2, n * k, 1.0 / (k as f32).sqrt()),
            bias: random(3, n, 1.0),
            residual: random(4, m * n, 2.0),
        }
    }
}

/// Rows begin at multiples of 16 bytes, with one vector more than they need.
fn stride(width: usize) -> usize {
    width.next_multiple_of(8) + 8
}

fn pad(rows: &[f32], width: usize) -> Vec<f32> {
    // NaN in the padding: a kernel that reads it shows it.
    let mut padded = Vec::new();
    for row in rows.chunks(width) {
        padded.extend_from_slice(row);
        padded.resize(padded.len() + stride(width) - width, f32::NAN);
    }
    padded
}

/// Runs the kernel and returns `[m, n]`; fails if it wrote behind a row.
fn run(mode: Mode, tile: Tile, case: &Case, data: &Data) -> Vec<f32> {
    let Case { m, n, k, .. } = *case;
    let mut gpu = Gpu::new(mode);
    let x = gpu.f16(&pad(&data.x, k));
    let weight = gpu.f16(&pad(&data.weight, k));
    let bias = gpu.f32(&data.bias);
    // The output holds the residual, as the model has it.
    let out = gpu.f16(&pad(&data.residual, n));
    let args = [
        Arg::Ptr(x),
        Arg::Ptr(weight),
        if case.bias { Arg::Ptr(bias) } else { Arg::Null },
        if case.residual { Arg::Ptr(out) } else { Arg::Null },
        Arg::Ptr(out),
        Arg::I32(m as i32),
        Arg::I32(n as i32),
        Arg::I32(k as i32),
        Arg::I32(stride(k) as i32),
        Arg::I32(stride(k) as i32),
        Arg::I32(stride(n) as i32),
        Arg::I32(stride(n) as i32),
        Arg::I32(case.epilogue),
    ];
    let grid = (n.div_ceil(tile.edge) as u32, m.div_ceil(tile.edge) as u32);
    gpu.launch_without_conflicts(tile.name, grid, tile.threads, tile.smem_bytes, &args);
    let mut result = Vec::new();
    for row in gpu.read_f16(out).chunks(stride(n)) {
        result.extend_from_slice(&row[..n]);
        assert!(row[n..].iter().all(|x| x.is_nan()), "{case:?}: written behind a row");
    }
    result
}

fn expected(case: &Case, data: &Data) -> Vec<Expected> {
    let Case { m, n, k, .. } = *case;
    let mut expected = Vec::with_capacity(m * n);
    for row in data.x.chunks(k) {
        for j in 0..n {
            let weights = &data.weight[j * k..][..k];
            let terms = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let bias = if case.bias { f64::from(data.bias[j]) } else { 0.0 };
            let sum = Expected::sum(terms).plus(bias);
            // Slopes: GELU's largest is 1.13, the others' 1. The error of 1 + erf is relative to x.
            let near = |f: fn(f64) -> f64| Expected {
                value: f(sum.value),
                error: sum.error * 1.13 + sum.value.abs() * F32 * 40.0,
            };
            let active = match case.epilogue {
                0 => sum,
                1 => near(gelu_erf),
                2 => near(gelu_tanh),
                3 => sum.map(|x| x.max(0.0), 1.0, 0.0),
                _ => sum.map(f64::tanh, 1.0, 4.0 * F32),
            };
            let residual = data.residual[expected.len()];
            expected.push(if case.residual { active.plus(f64::from(residual)) } else { active });
        }
    }
    expected
}

#[track_caller]
fn check(case: Case) {
    let data = Data::new(&case);
    let expected = expected(&case, &data);
    for mode in [Mode::Plain, Mode::Rough] {
        let [large, small] = TILES.map(|tile| {
            let out = run(mode, tile, &case, &data);
            assert_f16(&format!("{} {mode:?} {case:?}", tile.name), &out, &expected);
            out
        });
        if mode == Mode::Plain {
            assert_eq!(large, small, "{case:?}: the tile changes bits");
        }
    }
}

#[test]
fn linear_at_every_edge_of_the_tiles() {
    let mut epilogue = 0;
    for m in [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512] {
        for (n, k) in [(40, 72), (130, 64)] {
            check(Case { m, n, k, epilogue, bias: true, residual: m % 2 == 0 });
            epilogue = (epilogue + 1) % NUM_EPILOGUES;
        }
    }
}

#[test]
fn linear_with_n_and_k_that_fill_no_vector() {
    for n in [1, 7, 9, 63, 65, 129] {
        for k in [1, 8, 31, 33, 100] {
            check(Case { m: 5, n, k, epilogue: 0, bias: n % 2 == 1, residual: k % 2 == 1 });
        }
    }
}

#[test]
fn linear_through_a_long_pipeline_with_each_epilogue() {
    for epilogue in 0..NUM_EPILOGUES {
        for k in [128, 384, 392, 968] {
            // Main loops of none to several rounds, with every remainder of tiles behind them.
            let k = k + 64 * epilogue as usize;
            check(Case { m: 20, n: 72, k, epilogue, bias: true, residual: epilogue == 0 });
        }
    }
}

#[test]
fn gelu_is_right_far_from_zero() {
    for epilogue in [1, 2] {
        let case = Case { m: 16, n: 64, k: 16, epilogue, bias: true, residual: false };
        let mut data = Data::new(&case);
        data.bias = (0..64).map(|i| (i as f32 - 32.0) * 0.5).collect();
        let out = run(Mode::Rough, LARGE, &case, &data);
        assert_f16(&format!("{case:?}"), &out, &expected(&case, &data));
    }
}

#[test]
fn a_linear_row_does_not_depend_on_the_rows_around_it() {
    let case = Case { m: 129, n: 72, k: 136, epilogue: 1, bias: true, residual: true };
    let data = Data::new(&case);
    for tile in TILES {
        let whole = run(Mode::Plain, tile, &case, &data);
        for row in [0, 63, 100, 128] {
            let alone = Data {
                x: data.x[row * case.k..][..case.k].to_vec(),
                weight: data.weight.clone(),
                bias: data.bias.clone(),
                residual: data.residual[row * case.n..][..case.n].to_vec(),
            };
            let out = run(Mode::Plain, tile, &Case { m: 1, ..case }, &alone);
            assert_eq!(out, whole[row * case.n..][..case.n], "{}: row {row}", tile.name);
        }
    }
}
