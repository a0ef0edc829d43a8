//! Each kernel at MiniLM's sizes on one core, against the measured peak of that core in the precision.
//!
//! `cargo bench --bench kernels [-- f32|bf16|int8 [INSTRUCTION_SET]]`; all of them otherwise. Times are CPU
//! time, the best of many runs.

mod measure;

use measure::{best_cpu_time, gflops, peak_gflops, peak_with_numbers};
use rerankd::engine::cpu::{Cpu, Isa, Linear, Rows};
use rerankd::engine::packed::Packed;
use rerankd::engine::table::Table;
use rerankd::engine::{
    AttentionKind, Backend, Dtype, EmbeddingsInit, Epilogue, LinearInit, MaxSim, NormInit,
    NormKind, Queries,
};
use rerankd::matrix_format::Format;

const ROWS: usize = 128;
const HIDDEN: usize = 384;
const HEADS: usize = 12;
const RUNS: usize = 400;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |i: usize, name: &str| arguments.get(i).is_none_or(|wanted| wanted == name);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        for isa in Isa::distinct(dtype) {
            if wanted(0, dtype.name()) && wanted(1, isa.name()) {
                measure(isa, dtype);
            }
        }
    }
}

fn measure(isa: Isa, dtype: Dtype) {
    let Some(cpu) = Cpu::with_isa(isa, dtype) else { return };
    // Plain Rust is there to be right.
    let runs = if isa == Isa::Portable { 2 } else { RUNS };
    let peak = peak_gflops(isa, dtype);
    println!("{} in {}: peak of one core {peak:.0} GFLOP/s", isa.name(), dtype.name());
    let report = |name: &str, flops: f64, work: &mut dyn FnMut()| {
        let speed = gflops(flops, best_cpu_time(runs, work));
        println!("  {name:28} {speed:7.1} GFLOP/s  {:5.1}% of peak", 100.0 * speed / peak);
    };
    for (name, n, k, epilogue) in [
        ("qkv 1152x384", 3 * HIDDEN, HIDDEN, Epilogue::Bias),
        ("attention output 384x384", HIDDEN, HIDDEN, Epilogue::Bias),
        ("intermediate 1536x384, RELU", 4 * HIDDEN, HIDDEN, Epilogue::BiasRelu),
        ("intermediate with GELU", 4 * HIDDEN, HIDDEN, Epilogue::BiasGelu),
        ("output 384x1536", HIDDEN, 4 * HIDDEN, Epilogue::Bias),
        ("BERT-base's 768x3072", 768, 3072, Epilogue::Bias),
    ] {
        let w = linear(&cpu, n, k);
        let x = rows(&cpu, ROWS, k);
        let mut out = cpu.rows(ROWS, n).expect("memory");
        report(name, (2 * ROWS * n * k) as f64, &mut || cpu.linear(&x, &w, epilogue, &mut out));
    }
    for len in [32, 128, 512] {
        let num_rows = len.max(ROWS);
        let mut qkv = cpu.rows(num_rows, 3 * HIDDEN).expect("memory");
        let x = rows(&cpu, num_rows, HIDDEN);
        cpu.linear(&x, &linear(&cpu, 3 * HIDDEN, HIDDEN), Epilogue::Bias, &mut qkv);
        let mut out = cpu.rows(num_rows, HIDDEN).expect("memory");
        let mut batch = Packed::with_capacity(num_rows, num_rows / len);
        (0..num_rows / len).for_each(|_| batch.push(&vec![0; len], len));
        let mut scratch = cpu.scratch(len, HIDDEN / HEADS).expect("memory");
        let flops = (4 * num_rows * len * HIDDEN) as f64;
        report(&format!("attention, {len} tokens"), flops, &mut || {
            cpu.attention(
                &qkv,
                &batch,
                &AttentionKind::full(Queries::All, HEADS),
                &mut scratch,
                &mut out,
            );
        });
    }
    let mut hidden = rows(&cpu, ROWS, HIDDEN);
    let mut update = cpu.rows(ROWS, HIDDEN).expect("memory");
    cpu.linear(&hidden, &linear(&cpu, HIDDEN, HIDDEN), Epilogue::Bias, &mut update);
    let ones = vec![1.0; HIDDEN];
    let norm = cpu
        .prepare_norm(&NormInit { kind: NormKind::Layer, gamma: &ones, beta: &ones, eps: 1e-12 })
        .expect("memory");
    let time = best_cpu_time(runs, || cpu.residual_norm(&mut hidden, &update, &norm));
    let per_element = time.as_secs_f64() * 1e9 / (ROWS * HIDDEN) as f64;
    println!("  residual norm                {per_element:7.3} ns/element");
    late_interaction(&cpu, runs / 10 + 1, peak);
}

/// A query of 32 vectors and 1,000 documents of 180, all of 128 numbers, from the bytes that a store keeps: ten documents
/// over and over, and all one after another in memory, larger than the caches.
fn late_interaction(cpu: &Cpu, runs: usize, peak: f64) {
    const DIM: usize = 128;
    const QUERY: usize = 32;
    const DOCUMENT: usize = 180;
    const GROUP: usize = 10;
    if cpu.dtype() != Dtype::F32 && !cpu.compares_bf16() {
        return;
    }
    let num_documents = if runs == 1 { 10 } else { 1000 };
    let values = |seed: usize, num: usize| -> Vec<f32> {
        (0..num * DIM).map(|i| ((i * 31 + seed * 7 + i / DIM) % 23) as f32 * 0.01 - 0.1).collect()
    };
    let query = values(1, QUERY);
    let flops = (2 * num_documents * DOCUMENT * QUERY * DIM) as f64;
    let numbers = peak_with_numbers(cpu.isa(), cpu.dtype());
    let report = |name: &str, format: Format, documents: &[&[u8]]| {
        let time = best_cpu_time(runs, || {
            std::hint::black_box(cpu.max_sim(&query, DIM, format, documents).expect("sums"));
        });
        let (speed, ms) = (gflops(flops, time), time.as_secs_f64() * 1e3);
        let of_numbers = numbers.map(|peak| format!(", {:.1}% with numbers", 100.0 * speed / peak));
        let (share, of_numbers) = (100.0 * speed / peak, of_numbers.unwrap_or_default());
        let name = format!("late interaction, {name} {}", format.name());
        println!("  {name:30} {speed:7.1} GFLOP/s  {share:5.1}% of peak{of_numbers}, {ms:.2} ms");
    };
    for format in [Format::F32, Format::F16, Format::Int8, Format::Bits2] {
        let kept = |i: usize| format.encode(&values(i, DOCUMENT), DIM);
        let kept: Vec<Vec<u8>> = (0..num_documents).map(kept).collect();
        let near: Vec<&[u8]> = (0..num_documents).map(|i| &*kept[i % GROUP]).collect();
        report("cache", format, &near);
        report("memory", format, &kept.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
}

fn linear(cpu: &Cpu, n: usize, k: usize) -> Linear {
    let weight: Vec<f32> = (0..n * k).map(|i| (i % 17) as f32 * 0.01 - 0.08).collect();
    cpu.prepare_linear(&LinearInit { weight: &weight, bias: &vec![0.1; n], n, k }).expect("memory")
}

/// Rows as a norm leaves them, in the form that products read.
fn rows(cpu: &Cpu, num_rows: usize, width: usize) -> Rows {
    let words: Vec<f32> =
        (0..num_rows * width).map(|i| ((i * 31 + i / width * 7) % 23) as f32 * 0.1).collect();
    let init = EmbeddingsInit {
        words: Table::of(&words, width),
        types: vec![0.0; 2 * width],
        positions: vec![0.0; num_rows * width],
        hidden_size: width,
    };
    let embeddings = cpu.prepare_embeddings(init).expect("memory");
    let ones = vec![1.0; width];
    let norm = cpu
        .prepare_norm(&NormInit { kind: NormKind::Layer, gamma: &ones, beta: &ones, eps: 1e-12 })
        .expect("memory");
    let mut group = Packed::with_capacity(num_rows, 1);
    group.push(&(0..num_rows as u32).collect::<Vec<_>>(), num_rows);
    let mut rows = cpu.rows(num_rows, width).expect("memory");
    cpu.embed_norm(&group, &embeddings, &norm, &mut rows);
    rows
}
