//! Tokens per second of one core, by an encoder and by the library under it: `cargo bench --bench tokenize`.
//!
//! The texts are this project's own documents, in pieces of about 128 tokens.

#[path = "measure/time.rs"]
mod time;

use rerankd::model::source::ModelFiles;
use rerankd::tokenize::{Encoder, Form, load};
use std::path::PathBuf;
use std::time::Duration;
use time::{best_cpu_time, best_time};

const RUNS: usize = 50;
const BYTES: usize = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let files = ModelFiles::open_folder(&root.join("models/default"))?;
    let loaded = load(&files, usize::MAX)?;
    let library = loaded.tokenizer.clone();
    let encoder = Encoder::new(loaded, Form::Pair, 512)?;
    let mut texts = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "benches/README.md"] {
        let text: Vec<char> = std::fs::read_to_string(root.join(name))?.chars().collect();
        texts.extend(text.chunks(BYTES).map(|piece| piece.iter().collect::<String>()));
    }
    let mut num_tokens = 0;
    for text in &texts {
        num_tokens += encoder.ids(text)?.len();
    }
    println!("{} texts, {num_tokens} tokens", texts.len());
    let report = |name: &str, encode: &dyn Fn(&str) -> usize| {
        let mut work = || assert_eq!(texts.iter().map(|t| encode(t)).sum::<usize>(), num_tokens);
        let millions = |time: Duration| num_tokens as f64 / time.as_secs_f64() / 1e6;
        let (wall, cpu) = (best_time(RUNS, &mut work), best_cpu_time(RUNS, &mut work));
        println!(
            "  {name:10} {:6.2} million tokens/s, {:6.2} by CPU time",
            millions(wall),
            millions(cpu)
        );
    };
    report("library", &|text| library.encode_fast(text, false).expect("plain text").len());
    report("encoder", &|text| encoder.ids(text).expect("plain text").len());
    Ok(())
}
