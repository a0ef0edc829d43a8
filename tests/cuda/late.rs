//! Late interaction: vectors made on the device, and compared there.

use std::path::{Path, PathBuf};

use rerankd::engine::cpu::Cpu;
use rerankd::engine::cuda::Cuda;
use rerankd::engine::packed::Packed;
use rerankd::engine::{Dtype, MaxSim};
use rerankd::model::Grain;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::prepare;
use serde_json::Value;

use crate::emulator;
use crate::support::*;

/// Of a number of a vector, and of a best product: two layers of f16 roundings.
const TOLERANCE: f32 = 3e-3;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn vectors_and_sums_are_those_of_the_cpu() {
    // The masks of the latter two's queries ask, and nobody asks them: one attends to all, one in windows too.
    for name in ["tiny-pylate-xlm", "tiny-jina-colbert", "tiny-colbert", "tiny-pylate"] {
        compare(name);
    }
}

fn compare(name: &str) {
    let folder = folder(name);
    let json = std::fs::read(folder.with_extension("json")).unwrap();
    let golden: Vec<Value> = serde_json::from_slice(&json).unwrap();
    let text = |pair: &Value, field: &str| pair[field].as_str().unwrap().to_owned();
    let pairs = golden.iter().take(12).map(|pair| (text(pair, "query"), text(pair, "document")));
    let files = ModelFiles::open_folder(&folder).unwrap();
    let fast = LoadOptions { dtype: Some(Dtype::F32), ..LoadOptions::default() };
    let encoder = prepare(&files, &fast).unwrap().encoder;
    let pairs = Inputs::Pairs(pairs.collect());
    let tokenized = encoder.tokenize(&pairs, &Truncation::default()).unwrap();
    let mut batch = Packed::with_capacity(0, 0);
    (0..tokenized.sequences.len()).for_each(|i| tokenized.sequences.pack(i, &mut batch));
    let seqlens = (0..batch.num_sequences()).map(|i| batch.rows(i).len());
    let has_masks = batch.key_lens.iter().zip(seqlens).any(|(keys, len)| (*keys as usize) < len);
    assert_eq!(has_masks, ["tiny-colbert", "tiny-pylate"].contains(&name), "{name}");

    let (mut cpu, mut gpu) = (on_cpu(&folder), on_gpus(&folder, 1024).remove(0));
    assert_eq!(gpu.grain(), Grain::Token);
    let dim = gpu.width();
    let mut vectors = [vec![0.0; batch.num_tokens() * dim], vec![0.0; batch.num_tokens() * dim]];
    cpu.score(&batch, &mut vectors[0]).unwrap();
    gpu.score(&batch, &mut vectors[1]).unwrap();
    let difference = largest_difference(&vectors[0], &vectors[1]);
    assert!(difference < TOLERANCE, "{name}: a number of a vector: {difference}");

    let device = Cuda::new(&emulator::gpus()[0], true).unwrap();
    let comparer = device.comparer(dim).unwrap().expect("a kernel for narrow vectors");
    let devices: [&dyn MaxSim; 2] = [&Cpu::new(Dtype::F32), &comparer];
    for item in &tokenized.items {
        let sums = [0, 1].map(|i| {
            let of = |sequence: usize| {
                let rows = batch.rows(sequence);
                &vectors[i][rows.start * dim..rows.end * dim]
            };
            let query = of(item.query_sequence.unwrap());
            let read = &mut |_: usize, out: &mut Vec<f32>| out.extend(of(item.sequences.start));
            devices[i].max_sim(query, dim, 1, read).unwrap()[0] / (query.len() / dim) as f32
        });
        assert!((sums[0] - sums[1]).abs() < TOLERANCE, "{name}: {sums:?}");
    }
}

#[test]
fn vectors_that_no_kernel_takes_are_compared_on_the_cpu() {
    let device = Cuda::new(&emulator::gpus()[0], true).unwrap();
    assert!(device.comparer(128).unwrap().is_some());
    assert!(device.comparer(129).unwrap().is_none());
}
