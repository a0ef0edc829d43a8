//! Each kernel at MiniLM's sizes on one core, against the measured FMA peak of that core.

mod measure;

use measure::{best_time, gflops, peak_gflops};
use rerankd::engine::cpu::{Cpu, Isa};
use rerankd::engine::packed::Packed;
use rerankd::engine::{Backend, Epilogue, LinearInit, NormInit, Queries};

const ROWS: usize = 256;
const HIDDEN: usize = 384;
const HEADS: usize = 12;
const RUNS: usize = 30;

fn main() {
    let peak = peak_gflops();
    println!("peak of one core: {peak:.0} GFLOP/s");
    let report = |name: &str, flops: f64, work: &mut dyn FnMut()| {
        let speed = gflops(flops, best_time(RUNS, work));
        println!("  {name:28} {speed:7.1} GFLOP/s  {:5.1}% of peak", 100.0 * speed / peak);
    };
    for isa in Isa::available() {
        let Some(cpu) = Cpu::with_isa(isa) else { continue };
        println!("{}", isa.name());
        for (name, n, k, epilogue) in [
            ("qkv 1152x384", 3 * HIDDEN, HIDDEN, Epilogue::Bias),
            ("attention output 384x384", HIDDEN, HIDDEN, Epilogue::Bias),
            ("intermediate 1536x384", 4 * HIDDEN, HIDDEN, Epilogue::Bias),
            ("intermediate with GELU", 4 * HIDDEN, HIDDEN, Epilogue::BiasGelu),
            ("output 384x1536", HIDDEN, 4 * HIDDEN, Epilogue::Bias),
        ] {
            let weight: Vec<f32> = (0..n * k).map(|i| (i % 17) as f32 * 0.01 - 0.08).collect();
            let init = LinearInit { weight: &weight, bias: &vec![0.1; n], n, k };
            let w = cpu.prepare_linear(&init).expect("memory");
            let [mut x, mut out] = [k, n].map(|width| cpu.rows(ROWS, width).expect("memory"));
            fill(&mut x);
            report(name, (2 * ROWS * n * k) as f64, &mut || cpu.linear(&x, &w, epilogue, &mut out));
        }
        for len in [32, 128, 512] {
            let rows = ROWS.max(len);
            let [mut qkv, mut out] =
                [3 * HIDDEN, HIDDEN].map(|width| cpu.rows(rows, width).expect("memory"));
            qkv.set_rows(rows);
            let mut batch = Packed::with_capacity(rows, rows / len);
            (0..rows / len).for_each(|_| batch.push(&vec![0; len], len));
            let mut scratch = cpu.scratch(512, HIDDEN / HEADS).expect("memory");
            report(
                &format!("attention, {len} tokens"),
                (4 * rows * len * HIDDEN) as f64,
                &mut || {
                    cpu.attention(&qkv, &batch, Queries::All, HEADS, &mut scratch, &mut out);
                },
            );
        }
        let [mut hidden, mut update] =
            [HIDDEN; 2].map(|width| cpu.rows(ROWS, width).expect("memory"));
        fill(&mut hidden);
        fill(&mut update);
        let ones = vec![1.0; HIDDEN];
        let init = NormInit { gamma: &ones, beta: &ones, eps: 1e-12 };
        let norm = cpu.prepare_norm(&init).expect("memory");
        let time = best_time(RUNS, || cpu.residual_norm(&mut hidden, &update, &norm));
        println!(
            "  residual norm                {:7.2} ns/element",
            time.as_secs_f64() * 1e9 / (ROWS * HIDDEN) as f64
        );
    }
}

fn fill(rows: &mut rerankd::engine::cpu::Rows) {
    rows.set_rows(ROWS);
    for i in 0..ROWS {
        for (j, x) in rows.row_mut(i).iter_mut().enumerate() {
            *x = ((i * 31 + j * 7) % 23) as f32 * 0.1 - 1.1;
        }
    }
}
