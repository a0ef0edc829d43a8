//! What a shared prefix saves: the forward pass of a request whose documents follow one prompt and query, beside that
//! of as many tokens that share nothing.
//!
//! `cargo bench --bench prefix [-- f32|bf16|int8]`; random weights of Qwen3-Reranker-0.6B's layers.

#[path = "measure/time.rs"]
mod time;

use rerankd::engine::Dtype;
use rerankd::engine::packed::Packed;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use safetensors::Dtype as Stored;
use safetensors::tensor::{TensorView, serialize_to_file};
use std::path::Path;
use time::{best_cpu_time, best_time};

type Failure = Box<dyn std::error::Error>;

const RUNS: usize = 2;
const PREFIX: usize = 60;
const DOCUMENTS: usize = 20;
/// Tokens of a document and of what follows it.
const LENS: [usize; 2] = [64, 128];

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 3072;
const QUERIES: usize = 16 * 128;
const KEYS: usize = 8 * 128;
const LAYERS: usize = 28;
/// Words cost a copy of a row, however many there are.
const VOCAB: usize = 1000;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let dtype = arguments.next().unwrap_or("bf16".into());
    let dtype = Dtype::named(&dtype).ok_or("the precisions are f32, bf16 and int8")?;
    let folder = tempfile::tempdir()?;
    write_model(folder.path())?;
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    let mut model = load(&ModelFiles::open_folder(folder.path())?, &options)?;
    let scorer = &mut model.scorers[0];
    println!("{}, {}: {DOCUMENTS} documents, prefix of {PREFIX}", model.device, dtype.name());
    for len in LENS {
        let mut time = |shared| {
            let batch = request(len, shared);
            let mut out = vec![0.0; DOCUMENTS];
            let mut score = || scorer.score(&batch, &mut out).expect("the bench's batch is valid");
            let wall = best_time(RUNS, &mut score);
            [wall, best_cpu_time(RUNS, &mut score)]
        };
        let (alone, shared) = (time(false), time(true));
        for (clock, (alone, shared)) in ["wall", "CPU"].iter().zip(alone.into_iter().zip(shared)) {
            let saved = 100.0 * (1.0 - shared.as_secs_f64() / alone.as_secs_f64());
            let [alone, shared] = [alone, shared].map(|time| time.as_secs_f64() * 1e3);
            println!(
                "  {len} tokens each: {alone:.0} ms, shared {shared:.0} ms of {clock} time, \
                 {saved:.0}% less"
            );
        }
    }
    Ok(())
}

/// Sequences that begin alike, or each with a token of its own.
fn request(len: usize, shared: bool) -> Packed {
    let mut batch = Packed::with_capacity(DOCUMENTS * (PREFIX + len), DOCUMENTS);
    for document in 0..DOCUMENTS {
        let first = if shared { 1 } else { document };
        let prefix = std::iter::once(first).chain((1..PREFIX).map(|t| t * 7 % VOCAB));
        let own = (0..len).map(|t| (t * 13 + document * 31) % VOCAB);
        let ids: Vec<u32> = prefix.chain(own).map(|id| id as u32).collect();
        batch.push(&ids, ids.len());
    }
    batch
}

fn write_model(folder: &Path) -> Result<(), Failure> {
    let config = format!(
        r#"{{"architectures": ["Qwen3ForSequenceClassification"], "model_type": "qwen3", "hidden_size": {HIDDEN},
        "intermediate_size": {INTERMEDIATE}, "num_hidden_layers": {LAYERS}, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": {VOCAB}, "max_position_embeddings": 40960,
        "rope_theta": 1000000, "num_labels": 1}}"#
    );
    std::fs::write(folder.join("config.json"), config)?;
    let prompt = "[prompt]\nquery = '{query}'\ndocument = ' {document}'\n";
    std::fs::write(folder.join("model.toml"), prompt)?;

    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("score.weight".to_owned(), vec![1, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![QUERIES, HIDDEN]),
            ("self_attn.k_proj", vec![KEYS, HIDDEN]),
            ("self_attn.v_proj", vec![KEYS, HIDDEN]),
            ("self_attn.q_norm", vec![128]),
            ("self_attn.k_norm", vec![128]),
            ("self_attn.o_proj", vec![HIDDEN, QUERIES]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            shapes.push((format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    // One block of numbers for all: what they are changes no time.
    let numbers: Vec<u8> = (0..INTERMEDIATE * HIDDEN)
        .flat_map(|i| {
            half::bf16::from_f32((i * 7919 % 1021) as f32 / 20_000.0 - 0.025).to_le_bytes()
        })
        .collect();
    let views: Result<Vec<_>, Failure> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes = 2 * shape.iter().product::<usize>();
            Ok((name, TensorView::new(Stored::BF16, shape, &numbers[..bytes])?))
        })
        .collect();
    serialize_to_file(views?, None, &folder.join("model.safetensors"))?;
    Ok(())
}
