//! Late interaction: vectors made on the device, and compared there.

use std::path::{Path, PathBuf};

use rerankd::engine::cpu::Cpu;
use rerankd::engine::cuda::Cuda;
use rerankd::engine::packed::Packed;
use rerankd::engine::{Dtype, MaxSim, MaxSimError};
use rerankd::matrix_format::Format;
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
            let kept = Format::F32.encode(of(item.sequences.start), dim);
            let sums = devices[i].max_sim(query, dim, Format::F32, &[&kept]).unwrap();
            sums[0] / (query.len() / dim) as f32
        });
        assert!((sums[0] - sums[1]).abs() < TOLERANCE, "{name}: {sums:?}");
    }
}

#[test]
fn documents_are_compared_as_they_are_kept_and_what_was_not_kept_is_refused() {
    // One that is padded to the kernel's columns.
    const DIM: usize = 72;
    let device = Cuda::new(&emulator::gpus()[0], true).unwrap();
    let comparer = device.comparer(DIM).unwrap().expect("a kernel for narrow vectors");
    let unit = |seed: usize| {
        let row: Vec<f32> = (0..DIM).map(|d| ((d * seed * 37) % 23) as f32 - 11.0).collect();
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.into_iter().map(move |x| x / length)
    };
    let query: Vec<f32> = (1..6).flat_map(unit).collect();
    for format in [Format::F32, Format::F16, Format::Int8, Format::Bits2] {
        let document = |len: usize| (7..7 + len).flat_map(unit).collect::<Vec<f32>>();
        let kept = [5, 0, 1, 70].map(|len| format.encode(&document(len), DIM));
        let kept = kept.each_ref().map(Vec::as_slice);
        let expected = Cpu::new(Dtype::F32).max_sim(&query, DIM, format, &kept).unwrap();
        let got = comparer.max_sim(&query, DIM, format, &kept).unwrap();
        assert!(largest_difference(&expected, &got) < 5.0 * TOLERANCE, "{format:?}: {got:?}");
        let short = comparer.max_sim(&query, DIM, format, &[kept[0], &kept[3][..9]]);
        assert!(matches!(short, Err(MaxSimError::NotKept)), "{format:?}: {short:?}");
        let mut broken = kept[3].to_vec();
        // The upper bits of a number, of a scale, of a mean: no number.
        let (at, size) = match format {
            Format::F32 | Format::Int8 => {
                (3 * format.encode(&unit(1).collect::<Vec<_>>(), DIM).len(), 4)
            }
            Format::F16 | Format::Bits2 => (2 * (DIM - 1), 2),
        };
        broken[at..at + size].fill(0x7f);
        broken[at + size - 2] = 0xff;
        let got = comparer.max_sim(&query, DIM, format, &[kept[0], &broken]);
        assert!(matches!(got, Err(MaxSimError::NotKept)), "{format:?}: {got:?}");
    }
}

#[test]
fn vectors_that_no_kernel_takes_are_compared_on_the_cpu() {
    let device = Cuda::new(&emulator::gpus()[0], true).unwrap();
    assert!(device.comparer(128).unwrap().is_some());
    assert!(device.comparer(129).unwrap().is_none());
}
