//! Tokenizers of real models give here the ids that the Python package gives. They lie outside of this repository: a
//! folder with `golden.json.gz` and, for each tokenizer that it names, a folder with `tokenizer.json.gz`.
//!
//!     RERANKD_TOKENIZERS=folder cargo test --test tokenizer_parity -- --nocapture

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::tokenize::{self, Encoder, Form};
use serde::Deserialize;

/// Far above the longest of the texts: nothing is cut.
const MAX_LENGTH: usize = 1 << 16;
/// Of the tokenizers in this folder every family of models here has one.
const FAMILIES: [&str; 5] = ["bert", "xlm-roberta", "modernbert", "qwen3", "unigram"];

#[derive(Deserialize)]
struct Golden {
    single: Vec<Single>,
    pair: Vec<Pair>,
    vocab: usize,
}

#[derive(Deserialize)]
struct Single {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Pair {
    a: String,
    b: String,
    ids: Vec<u32>,
    type_ids: Vec<u32>,
}

fn unpack(path: &Path) -> Option<Vec<u8>> {
    let packed = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

/// The tokenizer as a model's folder would have it, out of one of its files.
fn encoder(folder: &Path, file: &str, vocab_size: usize, form: Form) -> Option<Encoder> {
    let bytes = unpack(&folder.join(format!("{file}.gz")))?;
    let model = tempfile::tempdir().unwrap();
    std::fs::write(model.path().join(file), bytes).unwrap();
    let files = ModelFiles::open_folder(model.path()).unwrap();
    let loaded = tokenize::load(&files, vocab_size).unwrap();
    Some(Encoder::new(loaded, form, MAX_LENGTH).unwrap())
}

/// How many of the texts and pairs came out otherwise, each told.
fn differences(name: &str, golden: &Golden, single: &Encoder, pair: &Encoder) -> usize {
    let mut different = 0;
    let mut compare = |what: &str, expected: &[u32], got: &[u32]| {
        if expected != got {
            println!("{name}: {what:?} gives {got:?}, not {expected:?}");
            different += 1;
        }
    };
    for Single { text, ids } in &golden.single {
        let inputs = Inputs::Texts(vec![text.clone()]);
        let tokenized = single.tokenize(&inputs, &Truncation::default()).unwrap();
        compare(text, ids, tokenized.sequences.get(0).0);
    }
    for Pair { a, b, ids, type_ids } in &golden.pair {
        let inputs = Inputs::Pairs(vec![(a.clone(), b.clone())]);
        let tokenized = pair.tokenize(&inputs, &Truncation::default()).unwrap();
        let (got, first_segment_len) = tokenized.sequences.get(0);
        let types: Vec<u32> = (0..got.len()).map(|i| u32::from(i >= first_segment_len)).collect();
        compare(&format!("{a} | {b}"), ids, got);
        compare(&format!("types of {a} | {b}"), type_ids, &types);
    }
    different
}

#[test]
fn tokenizers_give_the_ids_of_the_reference() {
    let folder = std::env::var_os("RERANKD_TOKENIZERS").map(PathBuf::from);
    let folder = folder.expect("RERANKD_TOKENIZERS names the folder of tokenizers");
    let golden = unpack(&folder.join("golden.json.gz")).expect("golden.json.gz");
    let golden: BTreeMap<String, Golden> = serde_json::from_slice(&golden).unwrap();
    for family in FAMILIES {
        assert!(golden.keys().any(|name| name.contains(family)), "a tokenizer of {family}");
    }
    let (mut total, mut worst) = (0, 0);
    for (name, golden) in &golden {
        for file in ["tokenizer.json", "vocab.txt"] {
            let of = |form| encoder(&folder.join(name), file, golden.vocab, form);
            let (Some(single), Some(pair)) = (of(Form::Single), of(Form::Pair)) else { continue };
            let different = differences(name, golden, &single, &pair);
            let (texts, pairs) = (golden.single.len(), golden.pair.len());
            println!("{name}, {file}: {texts} texts, {pairs} pairs, {different} different");
            total += texts + pairs;
            worst += different;
        }
    }
    assert!(total >= 200, "{total} cases");
    assert_eq!(worst, 0, "of {total} cases");
}
