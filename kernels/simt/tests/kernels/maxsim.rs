//! Late interaction.

use crate::gpu::{Arg, Gpu, Mode, cu_seqlens, random};
use crate::tolerance::{Expected, assert_f32};

const QUERY_LENS: [usize; 7] = [32, 1, 0, 15, 33, 64, 65];
const DOC_LENS: [usize; 13] = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512];
const DIMS: [usize; 3] = [64, 96, 128];

/// Rows of document tokens, one after another.
#[derive(Debug, Clone)]
enum Docs {
    Half(Vec<f32>),
    /// With a scale for each row.
    Byte {
        rows: Vec<i8>,
        scales: Vec<f32>,
    },
}

impl Docs {
    /// Each row's largest magnitude becomes 127.
    fn quantise(values: &[f32], dim: usize) -> Self {
        let scales: Vec<f32> = values
            .chunks(dim)
            .map(|row| row.iter().fold(0.0f32, |max, x| max.max(x.abs())) / 127.0)
            .collect();
        let rows = values
            .chunks(dim)
            .zip(&scales)
            .flat_map(|(row, scale)| row.iter().map(move |x| (x / scale).round_ties_even() as i8))
            .collect();
        Self::Byte { rows, scales }
    }

    /// What the kernel multiplies: exact in f64.
    fn values(&self, dim: usize) -> Vec<f64> {
        match self {
            Self::Half(values) => values.iter().map(|x| f64::from(*x)).collect(),
            Self::Byte { rows, scales } => rows
                .chunks(dim)
                .zip(scales)
                .flat_map(|(row, scale)| row.iter().map(|x| f64::from(*x) * f64::from(*scale)))
                .collect(),
        }
    }

    fn slice(&self, rows: std::ops::Range<usize>, dim: usize) -> Self {
        let elements = rows.start * dim..rows.end * dim;
        match self {
            Self::Half(values) => Self::Half(values[elements].to_vec()),
            Self::Byte { rows: all, scales } => {
                Self::Byte { rows: all[elements].to_vec(), scales: scales[rows].to_vec() }
            }
        }
    }

    /// Both ways of storing the same random vectors.
    fn random_pair(seed: u64, num_rows: usize, dim: usize) -> [Self; 2] {
        let values = random(seed, num_rows * dim, 0.3);
        [Self::quantise(&values, dim), Self::Half(values)]
    }
}

fn run(
    dim: usize,
    queries: &[f32],
    cu_queries: &[u32],
    docs: &Docs,
    cu_docs: &[u32],
    pairs: &[u32],
) -> Vec<f32> {
    let mut gpu = Gpu::new(Mode::Plain);
    let queries = gpu.f16(queries);
    let (cu_queries, cu_docs) = (gpu.u32(cu_queries), gpu.u32(cu_docs));
    let (pairs_at, scores) = (gpu.u32(pairs), gpu.f32(&vec![f32::NAN; pairs.len() / 2]));
    let mut args = vec![Arg::Ptr(queries), Arg::Ptr(cu_queries)];
    // Two stages of 64 tokens, and where documents are halves 32 queries.
    let (dtype, smem_bytes) = match docs {
        Docs::Half(values) => {
            args.push(Arg::Ptr(gpu.f16(values)));
            ("f16", (2 * 64 + 32) * 2 * dim)
        }
        Docs::Byte { rows, scales } => {
            args.extend([Arg::Ptr(gpu.i8(rows)), Arg::Ptr(gpu.f32(scales))]);
            ("i8", 2 * 64 * dim)
        }
    };
    args.extend([Arg::Ptr(cu_docs), Arg::Ptr(pairs_at), Arg::Ptr(scores)]);
    let kernel = format!("maxsim_{dtype}_d{dim}_sm80");
    let grid = (pairs.len() / 2) as u32;
    gpu.launch_without_conflicts(&kernel, grid, 128, smem_bytes as u32, &args);
    gpu.read_f32(scores)
}

fn rows(packed: &[f64], cu: &[u32], i: usize, dim: usize) -> Vec<Vec<f64>> {
    packed[cu[i] as usize * dim..cu[i + 1] as usize * dim]
        .chunks(dim)
        .map(<[f64]>::to_vec)
        .collect()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
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
    let (cu_queries, cu_docs) = (cu_seqlens(&QUERY_LENS), cu_seqlens(&DOC_LENS));
    for dim in DIMS {
        let queries = random(1, QUERY_LENS.iter().sum::<usize>() * dim, 0.3);
        for docs in Docs::random_pair(2, DOC_LENS.iter().sum(), dim) {
            let mut pairs = Vec::new();
            let mut want = Vec::new();
            for query in 0..QUERY_LENS.len() {
                for doc in 0..DOC_LENS.len() {
                    pairs.extend([query as u32, doc as u32]);
                    want.push(expected(
                        &rows(&widen(&queries), &cu_queries, query, dim),
                        &rows(&docs.values(dim), &cu_docs, doc, dim),
                    ));
                }
            }
            let scores = run(dim, &queries, &cu_queries, &docs, &cu_docs, &pairs);
            assert_f32(&format!("dim {dim}"), &scores, &want);
        }
    }
}

#[test]
fn int8_documents_cost_no_more_than_their_rounding() {
    for dim in DIMS {
        let (num_queries, num_docs) = (32, 100);
        let queries = random(3, num_queries * dim, 0.3);
        let [bytes, halves] = Docs::random_pair(4, num_docs, dim);
        let Docs::Byte { scales, .. } = &bytes else { unreachable!("quantised") };
        let largest = f64::from(scales.iter().fold(0.0f32, |max, x| max.max(*x)));
        // A similarity is off by at most half a step in each column.
        let bound = queries.iter().map(|q| f64::from(q.abs())).sum::<f64>() * largest / 2.0;
        let score = |docs| {
            let scores = run(dim, &queries, &[0, 32], docs, &[0, num_docs as u32], &[0, 0]);
            f64::from(scores[0])
        };
        let off = (score(&bytes) - score(&halves)).abs();
        assert!(off > 0.0 && off <= bound, "dim {dim}: off by {off}, bound {bound}");
    }
}

#[test]
fn zeros_behind_a_document_are_no_similarities() {
    // Every similarity is negative, so a padded zero would win.
    let (dim, len) = (64, 70);
    let queries = vec![-0.5; 3 * dim];
    let bytes = Docs::Byte { rows: vec![64; len * dim], scales: vec![0.25 / 64.0; len] };
    for docs in [Docs::Half(vec![0.25; len * dim]), bytes] {
        let scores = run(dim, &queries, &[0, 3], &docs, &[0, len as u32], &[0, 0]);
        assert_eq!(scores, [-0.125 * dim as f32 * 3.0]);
    }
}

#[test]
fn a_maxsim_score_does_not_depend_on_batch_mates() {
    let (dim, lens) = (96, [5, 130, 64]);
    let queries = random(1, 33 * dim, 0.3);
    let cu = cu_seqlens(&lens);
    for docs in Docs::random_pair(2, lens.iter().sum(), dim) {
        let together = run(dim, &queries, &[0, 33], &docs, &cu, &[0, 2, 0, 1, u32::MAX, 0, 0, 0]);
        assert!(together[2].is_nan(), "the unused block wrote a score");
        for (i, score) in [(2, together[0]), (1, together[1]), (0, together[3])] {
            let doc = docs.slice(cu[i] as usize..cu[i + 1] as usize, dim);
            let alone = run(dim, &queries, &[0, 33], &doc, &[0, lens[i] as u32], &[0, 0]);
            assert_eq!(alone[0].to_bits(), score.to_bits(), "document {i}");
        }
    }
}

#[test]
fn one_huge_document_among_many_tiny_ones() {
    let dim = 64;
    let lens = [1, 2, 1, 2000, 3, 1, 1];
    let cu = cu_seqlens(&lens);
    let queries = random(5, 40 * dim, 0.3);
    let pairs: Vec<u32> = (0..lens.len() as u32).flat_map(|doc| [0, doc]).collect();
    for docs in Docs::random_pair(6, lens.iter().sum(), dim) {
        let scores = run(dim, &queries, &[0, 40], &docs, &cu, &pairs);
        let query = rows(&widen(&queries), &[0, 40], 0, dim);
        let want: Vec<Expected> = (0..lens.len())
            .map(|doc| expected(&query, &rows(&docs.values(dim), &cu, doc, dim)))
            .collect();
        assert_f32("huge and tiny", &scores, &want);
    }
}
