//! How long a model takes from its files to its first score.
//!
//! `cargo bench --bench load [-- MODEL_FOLDER]`; the default model otherwise.

#[path = "measure/time.rs"]
mod time;

use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use std::path::PathBuf;
use time::{best_cpu_time, best_time};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/models/default").to_owned();
    let files = ModelFiles::open_folder(&PathBuf::from(folder.unwrap_or(default)))?;
    let mut open =
        || drop(load(&files, &LoadOptions::default()).expect("the model was read before"));
    load(&files, &LoadOptions::default())?;
    println!("load: {:.0} ms", best_time(5, &mut open).as_secs_f64() * 1e3);
    println!("      {:.0} ms of CPU time", best_cpu_time(5, &mut open).as_secs_f64() * 1e3);
    Ok(())
}
