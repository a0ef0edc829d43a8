//! Late interaction.

use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random};
use crate::tolerance::{Expected, assert_f32};

const QUERY_LENS: [usize; 7] = [32, 1, 0, 15, 33, 64, 65];
const DOC_LENS: [usize; 11] = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129];

fn run(
    dim: usize,
    queries: &[f32],
    cu_queries: &[u32],
    docs: &[f32],
    cu_docs: &[u32],
    pairs: &[u32],
) -> Vec<f32> {
    let mut gpu = Gpu::new(Mode::Plain);
    let (queries, docs) = (gpu.f16(queries), gpu.f16(docs));
    let (cu_queries, cu_docs) = (gpu.u32(cu_queries), gpu.u32(cu_docs));
    let (pairs_at, scores) = (gpu.u32(pairs), gpu.f32(&vec![f32::NAN; pairs.len() / 2]));
    let args = [
        Arg::Ptr(queries),
        Arg::Ptr(cu_queries),
        Arg::Ptr(docs),
        Arg::Ptr(cu_docs),
        Arg::Ptr(pairs_at),
        Arg::Ptr(scores),
    ];
    let kernel = format!("maxsim_f16_d{dim}_sm80");
    gpu.launch_without_conflicts(&kernel, (pairs.len() / 2) as u32, 128, (320 * dim) as u32, &args);
    gpu.read_f32(scores)
}

fn rows(packed: &[f32], cu: &[u32], i: usize, dim: usize) -> Vec<Vec<f64>> {
    packed[cu[i] as usize * dim..cu[i + 1] as usize * dim]
        .chunks(dim)
        .map(|row| row.iter().map(|x| f64::from(*x)).collect())
        .collect()
}

fn expected(query: &[Vec<f64>], doc: &[Vec<f64>]) -> Expected {
    if doc.is_empty() {
        return Expected::exact(0.0);
    }
    let maxima: Vec<Expected> = query
        .iter()
        .map(|q| {
            let similarities =
                doc.iter().map(|d| Expected::sum(q.iter().zip(d).map(|(a, b)| a * b)));
            // The winner may be another one that is as near as the errors.
            let all: Vec<Expected> = similarities.collect();
            let error = all.iter().map(|e| e.error).fold(0.0, f64::max);
            let value = all.iter().map(|e| e.value).fold(f64::NEG_INFINITY, f64::max);
            Expected { value, error }
        })
        .collect();
    let sum = Expected::sum(maxima.iter().map(|m| m.value));
    Expected { error: sum.error + maxima.iter().map(|m| m.error).sum::<f64>(), ..sum }
}

#[test]
fn maxsim_of_every_query_with_every_document() {
    for dim in [64, 96, 128] {
        let (cu_queries, cu_docs) = (cu_seqlens(&QUERY_LENS), cu_seqlens(&DOC_LENS));
        let queries = random(1, QUERY_LENS.iter().sum::<usize>() * dim, 0.3);
        let docs = random(2, DOC_LENS.iter().sum::<usize>() * dim, 0.3);
        let mut pairs = Vec::new();
        let mut want = Vec::new();
        for query in 0..QUERY_LENS.len() {
            for doc in 0..DOC_LENS.len() {
                pairs.extend([query as u32, doc as u32]);
                want.push(expected(
                    &rows(&queries, &cu_queries, query, dim),
                    &rows(&docs, &cu_docs, doc, dim),
                ));
            }
        }
        let scores = run(dim, &queries, &cu_queries, &docs, &cu_docs, &pairs);
        assert_f32(&format!("dim {dim}"), &scores, &want);
    }
}

#[test]
fn zeros_behind_a_document_are_no_similarities() {
    // Every similarity is negative, so a padded zero would win.
    let (dim, len) = (64, 70);
    let queries = vec![-0.5; 3 * dim];
    let docs = vec![0.25; len * dim];
    let scores = run(dim, &queries, &[0, 3], &docs, &[0, len as u32], &[0, 0]);
    assert_eq!(scores, [-0.125 * dim as f32 * 3.0]);
}

#[test]
fn a_maxsim_score_does_not_depend_on_batch_mates() {
    let (dim, lens) = (96, [5, 130, 64]);
    let queries = random(1, 33 * dim, 0.3);
    let docs = random(2, lens.iter().sum::<usize>() * dim, 0.3);
    let cu = cu_seqlens(&lens);
    let together = run(dim, &queries, &[0, 33], &docs, &cu, &[0, 2, 0, 1, u32::MAX, 0, 0, 0]);
    assert!(together[2].is_nan(), "the unused block wrote a score");
    for (i, score) in [(2, together[0]), (1, together[1]), (0, together[3])] {
        let doc = &docs[cu[i] as usize * dim..cu[i + 1] as usize * dim];
        let alone = run(dim, &queries, &[0, 33], doc, &[0, lens[i] as u32], &[0, 0]);
        assert_eq!(alone[0].to_bits(), score.to_bits(), "document {i}");
    }
}
