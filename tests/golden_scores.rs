//! The models in the repository give the scores that transformers gives, on every instruction set of this
//! machine, through the tokenizer and truncation that requests go through.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

mod late;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::head::cosine;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, PromptChoice, Truncation};
use rerankd::rerank::{Prepared, prepare};
use rerankd::tokenize::Item;
use serde::Deserialize;

/// Reference logits are written with six decimals; sums over 1,536 products in another order move the
/// sixth significant digit of logits around 10.
const TOLERANCE: f32 = 2e-4;

/// A pair and what `tests/golden/make.py` got for it.
#[derive(Deserialize)]
struct Golden {
    query: String,
    document: String,
    #[serde(default)]
    logits: Vec<f32>,
    #[serde(default)]
    cosine: f32,
}

/// The golden pairs of one model as its requests would be scored.
struct Scored {
    golden: Vec<Golden>,
    items: Vec<Item>,
    rows: Vec<f32>,
    width: usize,
}

impl Scored {
    fn row(&self, sequence: usize) -> &[f32] {
        &self.rows[sequence * self.width..(sequence + 1) * self.width]
    }
}

/// A text behind one of the model's prompts, and the vector that `tests/golden/make.py` got for it.
#[derive(Deserialize)]
struct GoldenVector {
    text: String,
    prompt: Option<String>,
    vector: Vec<f32>,
    num_tokens: usize,
}

fn score(name: &str, folder: &str, isa: Isa, dtype: Dtype) -> Scored {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let json = std::fs::read(root.join(format!("tests/golden/{name}.json"))).unwrap();
    let mut golden: Vec<Golden> = serde_json::from_slice(&json).unwrap();
    if folder == "models/default" {
        // Six real layers take plain Rust a minute for all pairs in f32, and many in what it must take apart; a
        // sample shows as much, of short pairs there, since the tiny models give all their pairs to it.
        if isa == Isa::Portable && dtype != Dtype::F32 {
            golden.retain(|pair| pair.query.len() + pair.document.len() < 150);
        }
        let step = match (isa, dtype) {
            (Isa::Portable, Dtype::F32) => 25,
            (Isa::Portable, _) => 20,
            (_, Dtype::F32) => 1,
            _ => 3,
        };
        golden = golden.into_iter().step_by(step).collect();
    }
    let files = ModelFiles::open_folder(&root.join(folder)).unwrap();
    let options = LoadOptions {
        isa: Some(isa),
        threads: NonZeroUsize::new(2),
        dtype: Some(dtype),
        ..LoadOptions::default()
    };
    // Loaded without what `prepare` adds: on plain Rust its timing takes longer than the pairs.
    let scorer = &mut load(&files, &options).unwrap().scorers[0];
    let fast = LoadOptions { dtype: Some(Dtype::F32), ..LoadOptions::default() };
    let Prepared { encoder, .. } = prepare(&files, &fast).unwrap();
    let pairs = golden.iter().map(|g| (g.query.clone(), g.document.clone())).collect();
    let tokenized = encoder.tokenize(&Inputs::Pairs(pairs), &Truncation::default()).unwrap();
    let mut packed = Packed::with_capacity(0, 0);
    for i in 0..tokenized.sequences.len() {
        let (input_ids, first_segment_len) = tokenized.sequences.get(i);
        packed.push(input_ids, first_segment_len);
    }
    let width = scorer.width();
    let mut rows = vec![0.0; packed.num_sequences() * width];
    scorer.score(&packed, &mut rows).unwrap();
    Scored { golden, items: tokenized.items, rows, width }
}

/// The tolerances of the narrow precisions are twice what was measured: they are to catch a defect. What the
/// rounding costs in quality, collections tell.
fn check_logits(name: &str, folder: &str, dtype: Dtype, tolerance: f32) {
    for isa in Isa::distinct(dtype) {
        let scored = score(name, folder, isa, dtype);
        let mut worst = 0f32;
        assert!(scored.golden.len() > 3, "enough pairs to mean something");
        for (i, (golden, item)) in scored.golden.iter().zip(&scored.items).enumerate() {
            let got = scored.row(item.sequences.start);
            assert_eq!(got.len(), golden.logits.len());
            for (got, expected) in got.iter().zip(&golden.logits) {
                let difference = (got - expected).abs();
                assert!(difference <= tolerance, "{isa:?} pair {i}: {got}, not {expected}");
                worst = worst.max(difference);
            }
        }
        println!("{name} on {isa:?} in {dtype:?}: largest difference {worst:e}");
    }
}

/// A family's tiny model, in all precisions, with the bounds of the narrow ones.
fn check_family(name: &str, bf16: f32, int8: f32) {
    let folder = format!("tests/golden/{name}");
    check_logits(name, &folder, Dtype::F32, TOLERANCE);
    check_logits(name, &folder, Dtype::Bf16, bf16);
    check_logits(name, &folder, Dtype::Int8, int8);
}

#[test]
fn roberta_and_its_kin_give_the_reference_logits() {
    check_family("tiny-xlm-roberta", 5e-3, 1.3e-2);
    check_family("tiny-roberta", 6e-3, 2.5e-2);
}

#[test]
fn distilbert_gives_the_reference_logits() {
    check_family("tiny-distilbert", 4e-3, 1.7e-2);
}

#[test]
fn electra_gives_the_reference_logits() {
    check_family("tiny-electra", 4.5e-3, 1.4e-2);
}

#[test]
fn qwen3_gives_the_reference_logits() {
    check_family("tiny-qwen3-reranker", 9e-2, 1.8e-1);
    check_family("tiny-qwen3-score", 6.5e-2, 1.7e-1);
}

#[test]
fn qwen2_and_llama_give_the_reference_logits() {
    check_family("tiny-qwen2", 3.5e-2, 9e-2);
    check_family("tiny-llama", 4.5e-2, 1.6e-1);
}

#[test]
fn gemma_gives_the_reference_logits() {
    check_family("tiny-bge-reranker-v2-gemma", 1.4e-2, 3.3e-2);
    check_family("tiny-gemma-score", 9.5e-3, 4.8e-2);
    check_family("tiny-gemma2", 3e-2, 9.6e-2);
    check_family("tiny-gemma2-wide", 4e-2, 1.35e-1);
}

#[test]
fn deberta_gives_the_reference_logits() {
    check_family("tiny-deberta-v3", 2.8e-3, 7e-3);
}

#[test]
fn gte_gives_the_reference_logits() {
    check_family("tiny-gte-new", 4.5e-3, 2.2e-2);
}

#[test]
fn jinas_layout_gives_the_reference_logits() {
    check_family("tiny-jina-reranker", 4e-3, 1.1e-2);
}

#[test]
fn an_encoder_with_modules_for_its_head_gives_the_reference_logits() {
    check_family("tiny-ettin", 1.3e-2, 3.5e-2);
}

#[test]
fn modernbert_gives_the_reference_logits() {
    check_family("tiny-modernbert", 1.3e-2, 5e-2);
    check_family("tiny-modernbert-cls", 2.5e-2, 3.2e-2);
}

#[test]
fn the_default_model_gives_the_reference_logits() {
    check_logits("default", "models/default", Dtype::F32, TOLERANCE);
    check_logits("default", "models/default", Dtype::Bf16, 8e-2);
    check_logits("default", "models/default", Dtype::Int8, 6e-1);
}

#[test]
fn a_model_with_two_labels_gives_the_reference_logits() {
    check_logits("tiny-bert", "tests/golden/tiny-bert", Dtype::F32, TOLERANCE);
    check_logits("tiny-bert", "tests/golden/tiny-bert", Dtype::Bf16, 4e-2);
    check_logits("tiny-bert", "tests/golden/tiny-bert", Dtype::Int8, 1.5e-1);
}

#[test]
fn an_encoder_gives_the_reference_cosines() {
    for isa in Isa::distinct(Dtype::F32) {
        let scored = score("tiny-encoder", "tests/golden/tiny-encoder", isa, Dtype::F32);
        for (i, (golden, item)) in scored.golden.iter().zip(&scored.items).enumerate() {
            let query = scored.row(item.query_sequence.unwrap());
            let got = cosine(query, scored.row(item.sequences.start)).raw;
            let expected = golden.cosine;
            assert!((got - expected).abs() <= TOLERANCE, "{isa:?} pair {i}: {got}, not {expected}");
        }
    }
}

/// An encoder's vectors, with its prompts, cut to its length where they are too long.
fn check_vectors(name: &str) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let json = std::fs::read(root.join(format!("{name}-vectors.json"))).unwrap();
    let golden: Vec<GoldenVector> = serde_json::from_slice(&json).unwrap();
    let files = ModelFiles::open_folder(&root.join(name)).unwrap();
    for isa in Isa::distinct(Dtype::F32) {
        let options = LoadOptions {
            isa: Some(isa),
            threads: NonZeroUsize::new(2),
            dtype: Some(Dtype::F32),
            ..LoadOptions::default()
        };
        let Prepared { encoder, mut scorers, .. } = prepare(&files, &options).unwrap();
        let texts = golden.iter().map(|golden| {
            let named = golden.prompt.clone().map(PromptChoice::Named);
            let prompt = named.map_or("", |choice| encoder.prompts().choose(&choice).unwrap());
            format!("{prompt}{}", golden.text)
        });
        let inputs = Inputs::Texts(texts.collect());
        let tokenized = encoder.tokenize(&inputs, &Truncation::default()).unwrap();
        let mut packed = Packed::with_capacity(0, 0);
        for (i, golden) in golden.iter().enumerate() {
            let (input_ids, first_segment_len) = tokenized.sequences.get(i);
            packed.push(input_ids, first_segment_len);
            assert_eq!(input_ids.len(), golden.num_tokens, "{name} text {i}");
        }
        let width = scorers[0].width();
        let mut rows = vec![0.0; packed.num_sequences() * width];
        scorers[0].score(&packed, &mut rows).unwrap();
        let mut worst = 0f32;
        for (i, (row, golden)) in rows.chunks(width).zip(&golden).enumerate() {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert_eq!(golden.vector.len(), width);
            for (got, expected) in row.iter().map(|x| x / length).zip(&golden.vector) {
                let difference = (got - expected).abs();
                assert!(
                    difference <= TOLERANCE,
                    "{name} on {isa:?}, text {i}: {got}, not {expected}"
                );
                worst = worst.max(difference);
            }
        }
        println!("{name} on {isa:?}: largest difference {worst:e}");
    }
}

#[test]
fn encoders_give_the_reference_vectors_behind_their_prompts() {
    for name in ["tiny-encoder", "tiny-e5", "tiny-modernbert-embed", "tiny-distilbert-embed"] {
        check_vectors(name);
    }
}
