//! What sequences begin with alike is computed once, and changes no bit.

use std::path::Path;

use rerankd::engine::packed::Packed;
use rerankd::model::Scorer;

use crate::support::*;

const VOCAB: usize = 180;
/// What all that is asked begins with, and then each query.
const INSTRUCTION: usize = 20;
const QUERY: usize = 24;

fn ids(len: usize, salt: usize) -> Vec<u32> {
    (0..len).map(|t| ((t * 31 + salt * 17 + t * t * (salt % 7 + 1)) % VOCAB) as u32).collect()
}

/// Two requests that met in one batch, with documents of these lengths, and a sequence that shares nothing.
fn met() -> Packed {
    let mut batch = Packed::with_capacity(0, 0);
    for (query, documents) in [(1, &[5, 1][..]), (2, &[2, 17])] {
        for (i, len) in documents.iter().enumerate() {
            let parts = [ids(INSTRUCTION, 0), ids(QUERY, query), ids(*len, 10 * query + i)];
            batch.push(&parts.concat(), INSTRUCTION + QUERY);
        }
    }
    batch.push(&ids(20, 99), 20);
    batch
}

/// Whether each sequence has the same bits alone and after what it shares.
pub fn check(name: &str, gpu: &mut dyn Scorer) {
    let together = met();
    let alone = |i: usize| {
        let mut alone = Packed::with_capacity(0, 1);
        alone.push_sequence(&together, i);
        alone
    };
    let lens: Vec<_> = (0..together.num_sequences()).map(|i| together.rows(i).len()).collect();
    let apart = packed(&lens, VOCAB, 3);
    assert_eq!(gpu.padding_tokens(&apart), 256 - (4 * 44 + 25 + 20));
    // The instruction once, each query once, the documents, and what shares nothing.
    assert_eq!(gpu.padding_tokens(&together), 128 - (20 + 2 * 24 + 25 + 20));
    // Then the slot has a graph for as many tokens, all of them computed.
    score(gpu, &apart);
    let first = score(gpu, &alone(0));
    let expected = score(gpu, &together);
    assert_eq!(first, expected[..gpu.width()], "{name}: the first sequence");
    for (i, expected) in expected.chunks(gpu.width()).enumerate().skip(1) {
        assert_eq!(score(gpu, &alone(i)), expected, "{name}: sequence {i}");
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_after_a_shared_prefix() {
    let name = "tiny-qwen3-reranker";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    check(name, &mut *on_gpus(&folder, 512).remove(0));
}
