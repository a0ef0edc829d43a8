//! Every published configuration runs: its layer sizes with weights made up, and one pair of 128 tokens. Takes minutes
//! and gigabytes; the smallest ones run in `model_files` too.
//!
//!     cargo test --test published_models -- --nocapture
//!
//! Models above RERANKD_MAX_PARAMETERS (700 million unless it is set) are listed as left out.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

#[path = "published/mod.rs"]
mod published;

use rerankd::engine::Dtype;
use serde_json::Value;

/// About: the table of words, and of each layer four matrices of attention and three of a feed-forward part.
fn num_parameters(config: &Value) -> f64 {
    let size = |names: [&str; 2]| names.iter().find_map(|name| config[name].as_f64()).unwrap();
    let (hidden, inner) = (size(["hidden_size", "dim"]), size(["intermediate_size", "hidden_dim"]));
    let layers = size(["num_hidden_layers", "n_layers"]);
    size(["vocab_size", ""]) * hidden + layers * (4.0 * hidden * hidden + 3.0 * hidden * inner)
}

#[test]
fn published_models_run() {
    let most = std::env::var("RERANKD_MAX_PARAMETERS").map_or(7e8, |most| most.parse().unwrap());
    let configs: Value = serde_json::from_str(include_str!("published_configs.json")).unwrap();
    println!("| model | architecture | parameters | load s | score ms |\n|---|---|---|---|---|");
    for (name, config) in configs.as_object().unwrap() {
        if num_parameters(config) > most {
            println!("| {name} | {} | left out | | |", config["architectures"][0]);
            continue;
        }
        let (logits, row) = published::run(name, config, Dtype::Bf16);
        println!("{row}");
        assert!(logits.iter().all(|logit| logit.is_finite()), "{name}: {logits:?}");
    }
}
