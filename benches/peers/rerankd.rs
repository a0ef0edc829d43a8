//! Scores the sets of a workload for `benches/peers/run`; the protocol is told in `peer.py`.

use rerankd::engine::Dtype;
use rerankd::engine::packed::Packed;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::{Prepared, prepare};
use serde::Deserialize;
use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

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
    let dtype = match dtype.as_str() {
        "f32" => Dtype::F32,
        "bf16" => Dtype::Bf16,
        "int8" => Dtype::Int8,
        other => return Err(format!("'{other}' is not f32, bf16 or int8").into()),
    };
    let options =
        LoadOptions { threads: Some(threads), dtype: Some(dtype), ..LoadOptions::default() };
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

    let mut batch = Packed::with_capacity(0, 0);
    for i in 0..tokenized.sequences.len() {
        let (input_ids, first_segment_len) = tokenized.sequences.get(i);
        batch.push(input_ids, first_segment_len);
    }
    let mut logits = vec![0.0; batch.num_sequences()];
    model.scorers[0].score(&batch, &mut logits)?;
    Ok(logits)
}
