//! Models and batches for both engines.

use std::path::Path;
use std::time::Duration;

use rerankd::batch::Sequences;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::model::loader::{Gpus, LoadOptions, load};
use rerankd::model::source::ModelFiles;

use crate::emulator;

/// Long enough for a batch on an emulator on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// All emulated GPUs.
pub fn gpu_options(max_batch_tokens: usize) -> LoadOptions {
    let gpus = Gpus {
        devices: emulator::gpus(),
        max_batch_tokens,
        batch_invariant: true,
        timeout: TIMEOUT,
    };
    LoadOptions { gpus: Some(gpus), ..LoadOptions::default() }
}

/// One scorer for each emulated GPU.
pub fn on_gpus(folder: &Path, max_batch_tokens: usize) -> Vec<Box<dyn Scorer>> {
    scorers(folder, &gpu_options(max_batch_tokens))
}

pub fn on_cpu(folder: &Path) -> Box<dyn Scorer> {
    scorers(folder, &LoadOptions::default()).remove(0)
}

fn scorers(folder: &Path, options: &LoadOptions) -> Vec<Box<dyn Scorer>> {
    load(&ModelFiles::open_folder(folder).unwrap(), options).unwrap().scorers
}

/// Sequences of these lengths, of ids below `vocab_size` that depend on `seed` alone.
pub fn packed(lens: &[usize], vocab_size: usize, seed: usize) -> Packed {
    let mut batch = Packed::with_capacity(0, lens.len());
    for (i, len) in lens.iter().enumerate() {
        let salt = seed * 131 + i * 17;
        let id = |t: usize| ((t * 31 + salt + t * t * (salt % 7 + 1)) % vocab_size) as u32;
        batch.push(&(0..*len).map(id).collect::<Vec<_>>(), len / 3);
    }
    batch
}

pub fn pack(sequences: &Sequences) -> Packed {
    let mut batch = Packed::with_capacity(0, sequences.len());
    for i in 0..sequences.len() {
        let (input_ids, first_segment_len) = sequences.get(i);
        batch.push(input_ids, first_segment_len);
    }
    batch
}

pub fn score(scorer: &mut dyn Scorer, batch: &Packed) -> Vec<f32> {
    let mut out = vec![0.0; batch.num_sequences() * scorer.width()];
    scorer.score(batch, &mut out).unwrap();
    out
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
