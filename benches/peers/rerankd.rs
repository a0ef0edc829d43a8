//! Scores the sets of a workload for `benches/peers/run`; the protocol is told in `peer.py`.

use rerankd::engine::Dtype;
use rerankd::engine::cuda::probe::probe;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::model::loader::{Gpus, LoadOptions};
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::{Prepared, prepare};
use serde::Deserialize;
use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the server takes by default on a GPU.
const GPU_BATCH_TOKENS: usize = 16_384;

#[derive(Deserialize)]
struct Workload {
    sets: HashMap<String, Set>,
}

#[derive(Deserialize)]
struct Set {
    query: String,
    documents: Vec<String>,
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, workload, threads, dtype] = &arguments[..] else {
        return Err("usage: peer_rerankd MODEL_FOLDER WORKLOAD_JSON THREADS DTYPE".into());
    };
    let workload: Workload = serde_json::from_slice(&std::fs::read(workload)?)?;
    let files = ModelFiles::open_folder(Path::new(folder))?;
    let threads: NonZeroUsize = threads.parse()?;
    let options = options(dtype, threads)?;
    let mut model = prepare(&files, &options)?;
    println!("[\"default\"]");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let name = line.split_whitespace().next().unwrap_or_default();
        let set = workload.sets.get(name).ok_or("no such set")?;
        let start = Instant::now();
        let scores = score(&mut model, set, threads)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        println!("{}", serde_json::json!({"milliseconds": milliseconds, "scores": scores}));
    }
    Ok(())
}

/// f16 is the GPU, the others are the CPU.
fn options(dtype: &str, threads: NonZeroUsize) -> Result<LoadOptions, Box<dyn Error>> {
    let (dtype, gpus) = match dtype {
        "f32" => (Dtype::F32, None),
        "bf16" => (Dtype::Bf16, None),
        "int8" => (Dtype::Int8, None),
        "f16" => {
            let mut devices = probe()?;
            devices.truncate(1);
            let (max_batch_tokens, timeout) = (GPU_BATCH_TOKENS, Duration::from_secs(30));
            (Dtype::F16, Some(Gpus { devices, max_batch_tokens, batch_invariant: true, timeout }))
        }
        other => return Err(format!("'{other}' is not f32, bf16, int8 or f16").into()),
    };
    Ok(LoadOptions { threads: Some(threads), dtype: Some(dtype), gpus, ..LoadOptions::default() })
}

fn score(
    model: &mut Prepared,
    set: &Set,
    threads: NonZeroUsize,
) -> Result<Vec<f32>, Box<dyn Error>> {
    let encoder = &model.encoder;
    let texts: Vec<&str> =
        std::iter::once(&set.query).chain(&set.documents).map(String::as_str).collect();
    let parts: Vec<Result<Vec<_>, _>> = std::thread::scope(|scope| {
        let parts = texts.chunks(texts.len().div_ceil(threads.get()));
        let parts: Vec<_> = parts
            .map(|part| scope.spawn(|| part.iter().map(|text| encoder.ids(text)).collect()))
            .collect();
        parts.into_iter().map(|part| part.join().expect("no panic in a tokenizer")).collect()
    });
    let ids = parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let inputs = Inputs::OneQuery { query: set.query.clone(), documents: set.documents.clone() };
    let tokenized = encoder.assemble(&inputs, &ids, &Truncation::default())?;

    let mut batches = vec![Packed::with_capacity(0, 0)];
    let most = if model.dtype == Dtype::F16 { GPU_BATCH_TOKENS } else { usize::MAX };
    for i in 0..tokenized.sequences.len() {
        let (input_ids, first_segment_len) = tokenized.sequences.get(i);
        if batches.last().is_some_and(|batch| batch.num_tokens() + input_ids.len() > most) {
            batches.push(Packed::with_capacity(0, 0));
        }
        let batch = batches.last_mut().ok_or("no batch")?;
        batch.push(input_ids, first_segment_len);
    }
    forward(&mut *model.scorers[0], &batches)
}

/// Each batch is begun while the one before it computes, as the server does.
fn forward(scorer: &mut dyn Scorer, batches: &[Packed]) -> Result<Vec<f32>, Box<dyn Error>> {
    let mut logits = vec![0.0; batches.iter().map(Packed::num_sequences).sum()];
    let mut rest = &mut logits[..];
    scorer.begin(&batches[0]);
    for (i, batch) in batches.iter().enumerate() {
        if let Some(next) = batches.get(i + 1) {
            scorer.begin(next);
        }
        let out;
        (out, rest) = rest.split_at_mut(batch.num_sequences());
        scorer.score(batch, out)?;
    }
    Ok(logits)
}
