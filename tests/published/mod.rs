//! Models of published sizes with weights made up, so that they need no download.

use std::num::NonZeroUsize;

use rerankd::clock;
use rerankd::engine::Dtype;
use rerankd::engine::packed::Packed;
use rerankd::model::loader::{LoadOptions, LoadedModel, load_with};
use rerankd::model::source::ModelFiles;
use rerankd::model::weights::Weights;
use serde_json::Value;

/// Tokens of the pair that is scored: a short passage.
const NUM_TOKENS: u32 = 128;

/// Loads a model as `config` describes it and scores a pair: its logits, and a row of a table about it.
pub fn run(name: &str, config: &Value, dtype: Dtype) -> (Vec<f32>, String) {
    let parent = tempfile::tempdir().unwrap();
    // Prompts are known by the name; others are written, with answers that the tokenizer knows.
    let folder = parent.path().join(name.replace('/', "_"));
    std::fs::create_dir(&folder).unwrap();
    let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).unwrap();
    write("config.json", &config.to_string());
    write("tokenizer.json", r#"{"model": {"vocab": {"no": 0, "yes": 1, "Yes": 2}}}"#);
    if config["architectures"][0].as_str().unwrap().ends_with("ForCausalLM") {
        write("model.toml", "[prompt]\nquery = '{query}'\ndocument = '{document}'\n");
    }
    let weights = Weights::made_up();
    let options =
        LoadOptions { threads: NonZeroUsize::new(2), dtype: Some(dtype), ..LoadOptions::default() };
    let begin = clock::now();
    let files = ModelFiles::open_folder(&folder).unwrap();
    let loaded = load_with(&files, &weights, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let load = begin.elapsed();
    let LoadedModel { architecture, mut scorers, vocab_size, .. } = loaded;
    let mut batch = Packed::with_capacity(NUM_TOKENS as usize, 1);
    let ids: Vec<u32> = (0..NUM_TOKENS).map(|i| i * 7919 % vocab_size as u32).collect();
    batch.push(&ids, ids.len() / 2);
    let mut logits = vec![0.0; scorers[0].width()];
    let begin = clock::now();
    scorers[0].score(&batch, &mut logits).unwrap();
    let (load, score) = (load.as_secs_f64(), begin.elapsed().as_secs_f64() * 1e3);
    let millions = weights.num_parameters() as f64 / 1e6;
    let row = format!("| {name} | {architecture} | {millions:.1} M | {load:.1} | {score:.0} |");
    (logits, row)
}
