//! The forward pass over mixes of lengths: tokens and useful GFLOP per second, and the share of
//! the measured peak of the precision.
//!
//! `cargo bench --bench engine [-- f32|bf16|int8 [MODEL_FOLDER [ISA]]]`, of a BERT; the default model and the fastest
//! instruction set otherwise.

mod measure;

use measure::{best_cpu_time, best_time, gflops, peak_gflops, peak_with_numbers};
use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::config::Config;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use std::num::NonZeroUsize;
use std::path::PathBuf;

const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let dtype = arguments.next().unwrap_or("f32".into());
    let dtype = Dtype::named(&dtype).ok_or("the precisions are f32, bf16 and int8")?;
    let folder = arguments.next();
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default").to_owned();
    let files = ModelFiles::open_folder(&PathBuf::from(folder.unwrap_or(default)))?;
    let config = Config::read(&files)?;
    let isa = match arguments.next() {
        None => Isa::detect(),
        Some(name) => Isa::available().find(|isa| isa.name() == name).ok_or("no such set here")?,
    };
    let peak = peak_gflops(isa, dtype);
    for threads in [1, std::thread::available_parallelism()?.get()] {
        let options = LoadOptions {
            threads: NonZeroUsize::new(threads),
            dtype: Some(dtype),
            isa: Some(isa),
            ..LoadOptions::default()
        };
        let mut model = load(&files, &options)?;
        let scorer = &mut model.scorers[0];
        println!("{}, {}: peak {:.0} GFLOP/s", model.device, dtype.name(), peak * threads as f64);
        if let Some(peak) = peak_with_numbers(isa, dtype) {
            println!("  with numbers in the tiles {:.0}", peak * threads as f64);
        }
        for (name, lens) in mixes() {
            let mut batch = Packed::with_capacity(0, 0);
            for len in &lens {
                let ids: Vec<u32> =
                    (0..*len).map(|t| ((t * 37 + len) % model.vocab_size) as u32).collect();
                batch.push(&ids, len / 8);
            }
            let mut out = vec![0.0; lens.len() * model.width];
            let mut score = || {
                scorer.score(&batch, &mut out).expect("the bench's batch is valid");
            };
            let time = best_time(RUNS, &mut score);
            let cpu_time = best_cpu_time(RUNS, &mut score);
            let flops = lens.iter().map(|len| useful_flops(&config, *len)).sum();
            let speed = gflops(flops, time);
            println!(
                "  {name:10} {:8.2} ms {:7.0} tokens/s {speed:6.1} GFLOP/s {:5.1}% of peak; \
                 {:6.1} GFLOP/s by CPU time, {:5.1}%",
                time.as_secs_f64() * 1e3,
                batch.num_tokens() as f64 / time.as_secs_f64(),
                100.0 * speed / (peak * threads as f64),
                gflops(flops, cpu_time),
                100.0 * gflops(flops, cpu_time) / peak,
            );
        }
    }
    Ok(())
}

fn mixes() -> [(&'static str, Vec<usize>); 4] {
    let mixed = (0..100).map(|i| 30 + (i * i * 7) % 230 + if i % 10 == 0 { 250 } else { 0 });
    [
        ("1 x 32", vec![32]),
        ("20 x 128", vec![128; 20]),
        ("100 mixed", mixed.collect()),
        ("20 x 512", vec![512; 20]),
    ]
}

/// The whole of a BERT's products, those that the engine saves in its last layer included.
fn useful_flops(config: &Config, len: usize) -> f64 {
    let size = |field| config.fields.size(field, usize::MAX).expect("a BERT has it") as f64;
    let (h, i, t) = (size("hidden_size"), size("intermediate_size"), len as f64);
    size("num_hidden_layers") * (2.0 * t * (4.0 * h * h + 2.0 * h * i) + 4.0 * t * t * h)
        + 2.0 * h * h
}
