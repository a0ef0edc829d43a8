//! Lists the default model's files for `model::source::embedded`.
//!
//! `include_bytes!` cannot say "if it is there", and a model folder need not have every file. A
//! build without the folder compiles too; its embedded model then answers that it has no files.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

/// Only these are embedded: a model card or a training log in the folder must not grow the binary.
const FILES: [&str; 8] = [
    "config.json",
    "golden.json",
    "model.safetensors",
    "model.toml",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=models/default");
    println!("cargo::rerun-if-changed=build.rs");
    let mut list = String::from("&[\n");
    for name in FILES {
        if Path::new("models/default").join(name).is_file() {
            // The path is resolved when the crate compiles, so a moved checkout stays right.
            let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/models/default/{name}\")");
            let _ = writeln!(list, "    (\"{name}\", aligned!({path})),");
        }
    }
    list.push_str("]\n");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(Path::new(&out).join("embedded.rs"), list)
}
