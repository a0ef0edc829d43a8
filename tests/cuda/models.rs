//! Whole forward passes.

use std::path::{Path, PathBuf};

use rerankd::engine::Dtype;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::{Prepared, prepare};
use serde_json::Value;

use crate::fixtures::tiny_model;
use crate::sharing;
use crate::support::*;

/// Of the tiny model: three layers of f16 roundings, whose sum moves a logit by a part in a thousand.
const TINY_TOLERANCE: f32 = 5e-3;
const TINY_VOCAB: usize = 293;
/// Two to four layers of f16 roundings.
const FAMILY_TOLERANCE: f32 = 3e-3;
const ENCODERS: [&str; 9] = [
    "tiny-xlm-roberta",
    "tiny-roberta",
    "tiny-distilbert",
    "tiny-electra",
    "tiny-modernbert",
    "tiny-modernbert-cls",
    "tiny-gte-new",
    "tiny-jina-reranker",
    "tiny-ettin",
];
const DECODERS: [&str; 6] = [
    "tiny-qwen3-reranker",
    "tiny-qwen3-score",
    "tiny-qwen2",
    "tiny-llama",
    "tiny-bge-reranker-v2-gemma",
    "tiny-gemma-score",
];
/// Scores that count distances, soft-capped ones, and those of heads of 256.
const OWN_KERNELS: [&str; 3] = ["tiny-deberta-v3", "tiny-gemma2", "tiny-gemma2-wide"];

#[test]
fn a_model_gives_the_logits_of_the_cpu_at_every_length() {
    let folder = tiny_model();
    let (mut cpu, mut gpu) = (on_cpu(folder.path()), on_gpus(folder.path(), 2048).remove(0));
    for lens in [
        &[1][..],
        &[15, 16, 17],
        &[63, 64, 65, 1],
        &[127, 128, 129],
        &[511, 512],
        &[512, 1, 2, 3, 1, 1, 7, 1, 1, 1],
    ] {
        let batch = packed(lens, TINY_VOCAB, 5);
        let (expected, got) = (score(&mut *cpu, &batch), score(&mut *gpu, &batch));
        let difference = largest_difference(&expected, &got);
        assert!(difference < TINY_TOLERANCE, "{lens:?}: {difference}");
    }
}

/// All of these fill one bucket of tokens.
#[test]
fn batches_of_one_size_and_other_numbers_of_sequences_do_not_share_a_graph() {
    let folder = tiny_model();
    let (mut cpu, mut gpu) = (on_cpu(folder.path()), on_gpus(folder.path(), 512).remove(0));
    for lens in [&[60][..], &[20, 20, 20], &[9; 7], &[61], &[31, 31]] {
        let batch = packed(lens, TINY_VOCAB, 3);
        let (expected, got) = (score(&mut *cpu, &batch), score(&mut *gpu, &batch));
        let difference = largest_difference(&expected, &got);
        assert!(difference < TINY_TOLERANCE, "{lens:?}: {difference}");
    }
}

#[test]
fn a_pair_has_the_same_bits_alone_and_among_mates() {
    let folder = tiny_model();
    let mut gpu = on_gpus(folder.path(), 2048).remove(0);
    let lens = [70, 3, 129, 64, 1, 200, 33];
    let together = packed(&lens, TINY_VOCAB, 9);
    let expected = score(&mut *gpu, &together);
    for (i, expected) in expected.chunks(2).enumerate() {
        let mut alone = packed(&[], TINY_VOCAB, 0);
        alone.push_sequence(&together, i);
        let got = score(&mut *gpu, &alone);
        assert_eq!(
            got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            "sequence {i}"
        );
    }
}

#[test]
fn batches_begun_ahead_give_what_they_give_alone() {
    let folder = tiny_model();
    let mut gpu = on_gpus(folder.path(), 1024).remove(0);
    let batches: Vec<_> = (0..6).map(|i| packed(&[20 + i * 9, 64, 5], TINY_VOCAB, i)).collect();
    let alone: Vec<_> = batches.iter().map(|batch| score(&mut *gpu, batch)).collect();
    gpu.begin(&batches[0]);
    for i in 0..batches.len() {
        if let Some(next) = batches.get(i + 1) {
            gpu.begin(next);
        }
        assert_eq!(score(&mut *gpu, &batches[i]), alone[i], "batch {i}");
    }
    assert_eq!(gpu.num_begun(), 0);
}

#[test]
fn a_batch_beyond_the_arena_is_refused_and_the_next_is_served() {
    let folder = tiny_model();
    let mut gpu = on_gpus(folder.path(), 512).remove(0);
    let large = packed(&[512, 512], TINY_VOCAB, 1);
    let error = gpu.score(&large, &mut [0.0; 4]).unwrap_err();
    assert!(error.to_string().contains("1024 tokens") && !error.lost, "{error}");
    let small = packed(&[8], TINY_VOCAB, 1);
    assert!(gpu.score(&small, &mut [0.0; 2]).is_ok());
}

fn default_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/default")
}

/// A batch of a model's inputs, through its tokenizer.
fn tokenized(folder: &Path, inputs: &Inputs) -> Packed {
    let files = ModelFiles::open_folder(folder).unwrap();
    let fast = LoadOptions { dtype: Some(Dtype::F32), ..LoadOptions::default() };
    let Prepared { encoder, .. } = prepare(&files, &fast).unwrap();
    pack(&encoder.tokenize(inputs, &Truncation::default()).unwrap().sequences)
}

/// A model's logits on both engines.
fn logits(folder: &Path, inputs: &Inputs) -> (Vec<f32>, Vec<f32>) {
    let batch = tokenized(folder, inputs);
    let on_gpu = score(&mut *on_gpus(folder, 8192).remove(0), &batch);
    (score(&mut *on_cpu(folder), &batch), on_gpu)
}

/// The golden pairs in a file: their texts, and their logits one after another.
fn golden(file: &Path) -> (Vec<(String, String)>, Vec<f32>) {
    let golden: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |pair: &Value, key: &str| pair[key].as_str().unwrap().to_owned();
    let logits = |pair: &Value| -> Vec<f32> {
        let logits = pair["logits"].as_array().unwrap().iter();
        logits.map(|logit| logit.as_f64().unwrap() as f32).collect()
    };
    (
        golden.iter().map(|pair| (text(pair, "query"), text(pair, "document"))).collect(),
        golden.iter().flat_map(logits).collect(),
    )
}

/// The tiny model of a family, against transformers, with pairs that overflow the windows and lengths, `num_long` of
/// them long.
fn check_family(name: &str, num_long: usize) -> Box<dyn Scorer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let (pairs, expected) = golden(&folder.with_extension("json"));
    let num_labels = expected.len() / pairs.len();
    // A sample: the emulator takes its time. It begins with the long ones, which follow the odd ones.
    let sample: Vec<usize> = (28..28 + num_long).chain((0..pairs.len()).step_by(9)).collect();
    let inputs = Inputs::Pairs(sample.iter().map(|i| pairs[*i].clone()).collect());
    let mut gpu = on_gpus(&folder, 8192).remove(0);
    let got = score(&mut *gpu, &tokenized(&folder, &inputs));
    let expected = sample.iter().flat_map(|i| &expected[i * num_labels..][..num_labels]);
    let expected: Vec<f32> = expected.copied().collect();
    let difference = largest_difference(&got, &expected);
    println!("{name}: largest difference {difference:e} of {} logits", got.len());
    assert!(difference < FAMILY_TOLERANCE, "{name}: {difference}");
    gpu
}

#[test]
fn every_family_of_encoders_gives_the_reference_logits() {
    for name in ENCODERS {
        check_family(name, 12);
    }
}

#[test]
fn every_family_of_decoders_gives_the_reference_logits() {
    for name in DECODERS {
        check_family(name, 12);
    }
}

#[test]
fn every_family_with_its_own_kernels_gives_the_reference_logits_alone_and_among_mates() {
    for name in OWN_KERNELS {
        let mut gpu = check_family(name, 3);
        let together = packed(&[70, 3, 33], 180, 9);
        let expected = score(&mut *gpu, &together);
        let width = gpu.width();
        for (i, expected) in expected.chunks(width).enumerate() {
            let mut alone = packed(&[], 1, 0);
            alone.push_sequence(&together, i);
            assert_eq!(score(&mut *gpu, &alone), expected, "{name}: sequence {i}");
        }
        if name == "tiny-gemma2" {
            // Capped scores, and windows shorter than the prefix.
            sharing::check(name, &mut *gpu);
        }
    }
}

/// A size of heads that no kernel has: that is said at load, not in a ranking.
#[test]
fn a_model_without_a_kernel_is_refused_at_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let files = ModelFiles::open_folder(&folder).unwrap();
    let error = load(&files, &gpu_options(512)).unwrap_err().to_string();
    assert!(error.contains("heads of 16 are not supported on GPUs"), "{error}");
}

/// Six real layers, logits of -5.4 to 0.4.
#[test]
fn the_golden_pairs_of_the_default_model_keep_their_logits() {
    let (pairs, _) = golden(&default_model().join("golden.json"));
    let (expected, got) = logits(&default_model(), &Inputs::Pairs(pairs));
    // f16 rows carry a noise into these logits: the largest of a few lies well above its mean.
    let squares: f32 = expected.iter().zip(&got).map(|(a, b)| (a - b) * (a - b)).sum();
    let deviation = (squares / expected.len() as f32).sqrt();
    assert!(deviation < 8e-4, "{deviation}: {got:?}, not {expected:?}");
    assert!(largest_difference(&expected, &got) < 2e-3, "{got:?}, not {expected:?}");
}

#[test]
fn documents_come_in_the_order_of_the_cpu() {
    let documents = [
        "Bananas are yellow.",
        "Berlin is the capital of Germany.",
        "Lyon lies in the east of France.",
        "Paris is the capital of France.",
    ];
    let query = "what is the capital of France?".to_owned();
    let documents = documents.map(str::to_owned).to_vec();
    let (expected, got) = logits(&default_model(), &Inputs::OneQuery { query, documents });
    let order = |logits: &[f32]| {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order
    };
    assert_eq!(order(&got), order(&expected), "{got:?}, not {expected:?}");
    assert!(largest_difference(&expected, &got) < 2e-3, "{got:?}, not {expected:?}");
}
