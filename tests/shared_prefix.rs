//! What the documents of a request have before them alike, prompt and query, is computed once, and changes no bit.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, Truncation};
use rerankd::rerank::prepare;

fn files(name: &str) -> ModelFiles {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    ModelFiles::open_folder(&folder).unwrap()
}

/// One query and documents of many lengths, one of them empty and two the same.
fn request(name: &str) -> Packed {
    let lens = [40, 0, 3, 90, 1, 17, 64, 17, 33, 5, 150, 2];
    let document = |len: &usize| vec!["river stone market"; *len].join(" ");
    let inputs = Inputs::OneQuery {
        query: "which stone lies in the river?".to_owned(),
        documents: lens.iter().map(document).collect(),
    };
    let options = LoadOptions { threads: NonZeroUsize::new(1), ..LoadOptions::default() };
    let encoder = prepare(&files(name), &options).unwrap().encoder;
    let sequences = encoder.tokenize(&inputs, &Truncation::default()).unwrap().sequences;
    let mut batch = Packed::with_capacity(0, 0);
    for i in 0..sequences.len() {
        let (input_ids, first_segment_len) = sequences.get(i);
        batch.push(input_ids, first_segment_len);
    }
    batch
}

fn score(scorer: &mut dyn Scorer, batch: &Packed) -> Vec<u32> {
    let mut out = vec![0.0; batch.num_sequences() * scorer.width()];
    scorer.score(batch, &mut out).unwrap();
    out.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_document_has_the_same_bits_alone_and_after_a_shared_prefix() {
    for name in ["tiny-qwen3-reranker", "tiny-llama"] {
        let batch = request(name);
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            for isa in Isa::distinct(dtype) {
                let threads = NonZeroUsize::new(1);
                let (isa, dtype) = (Some(isa), Some(dtype));
                let options = LoadOptions { threads, isa, dtype, ..LoadOptions::default() };
                let scorer = &mut *load(&files(name), &options).unwrap().scorers[0];
                let together = score(scorer, &batch);
                for (i, together) in together.chunks_exact(scorer.width()).enumerate() {
                    let mut alone = Packed::with_capacity(0, 1);
                    alone.push_sequence(&batch, i);
                    let alone = score(scorer, &alone);
                    assert_eq!(alone, together, "document {i} of {name}, {isa:?}, {dtype:?}");
                }
            }
        }
    }
}

#[test]
fn a_trunk_is_what_all_sequences_begin_with_and_leaves_each_a_token() {
    let mut batch = Packed::with_capacity(0, 0);
    for ids in [&[7, 8, 9, 1, 2][..], &[7, 8, 9, 3], &[7, 8, 9], &[5, 8]] {
        batch.push(ids, ids.len());
    }
    assert_eq!(batch.common_prefix(&[0, 1]), 3);
    assert_eq!(batch.common_prefix(&[0, 1, 2]), 2);
    assert_eq!(batch.common_prefix(&[0, 3]), 0);
    assert_eq!(batch.common_prefix(&[2]), 2);
    assert_eq!(batch.common_prefix(&[]), 0);

    let mut group = Packed::with_capacity(0, 0);
    group.begin_with_trunk(&batch, 1, 2);
    group.push_sequence(&batch, 1);
    group.push_sequence(&batch, 2);
    assert_eq!(group.input_ids, [7, 8, 9, 3, 9]);
    assert_eq!(group.position_ids, [0, 1, 2, 3, 2]);
    assert_eq!((group.cu_seqlens.as_slice(), group.trunk_len), (&[2, 4, 5][..], 2));
    assert_eq!(group.num_sequences(), 2);
    group.clear();
    assert_eq!((group.cu_seqlens.as_slice(), group.trunk_len), (&[0][..], 0));
}

/// The rows that a request's forward pass has are fewer by all but one of its prefixes.
#[test]
fn a_request_shares_its_prompt_and_query() {
    let batch = request("tiny-qwen3-reranker");
    let members: Vec<u32> = (0..batch.num_sequences() as u32).collect();
    let prefix = batch.common_prefix(&members);
    assert!(prefix > 60, "prompt and query are {prefix} tokens");
}
