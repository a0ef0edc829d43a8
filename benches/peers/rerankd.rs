//! Scores the sets of a workload for `benches/peers/run`; the protocol is told in `peer.py`.

mod score;

use rerankd::engine::Dtype;
use rerankd::engine::cuda::probe::probe;
use rerankd::model::loader::{Gpus, LoadOptions};
use rerankd::model::source::ModelFiles;
use rerankd::rerank::prepare;
use score::{GPU_BATCH_TOKENS, Request};
use serde::Deserialize;
use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Deserialize)]
struct Workload {
    sets: HashMap<String, Request>,
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
        let scores = set.score(&mut model, threads)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        println!("{}", serde_json::json!({"milliseconds": milliseconds, "scores": scores}));
    }
    Ok(())
}

/// f16 is the GPU, the others are the CPU.
fn options(dtype: &str, threads: NonZeroUsize) -> Result<LoadOptions, Box<dyn Error>> {
    let dtype = Dtype::named(dtype).ok_or("the precisions are f32, bf16, int8 and f16")?;
    let gpus = if dtype == Dtype::F16 {
        let mut devices = probe()?;
        devices.truncate(1);
        let (max_batch_tokens, timeout) = (GPU_BATCH_TOKENS, Duration::from_secs(30));
        Some(Gpus { devices, max_batch_tokens, batch_invariant: true, timeout })
    } else {
        None
    };
    Ok(LoadOptions { threads: Some(threads), dtype: Some(dtype), gpus, ..LoadOptions::default() })
}
