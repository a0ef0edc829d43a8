//! Models of late interaction give the vectors and the sums that ColBERT's definition gives, by itself and through
//! the service: whatever the batch, whatever is kept.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use rerankd::batch::Limits;
use rerankd::clock;
use rerankd::engine::cpu::{Cpu, Isa};
use rerankd::engine::packed::Packed;
use rerankd::engine::{Dtype, MaxSim};
use rerankd::matrix_format::Format;
use rerankd::metrics::Load;
use rerankd::model::Grain;
use rerankd::model::loader::{LoadOptions, load};
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, RerankRequest, Stamps, Truncation};
use rerankd::rerank::{Host, Options, Service, prepare};
use rerankd::score::MatrixOptions;
use rerankd::tenant::Tenant;
use serde::Deserialize;

/// As for the other families: the sixth digit of sums over a few layers.
const TOLERANCE: f32 = 2e-4;
const MODELS: [&str; 4] = ["tiny-colbert", "tiny-pylate", "tiny-pylate-xlm", "tiny-jina-colbert"];

/// A pair and what `tests/golden/late.py` got for it.
#[derive(Deserialize)]
struct Golden {
    query: String,
    document: String,
    max_sim: f32,
    #[serde(default)]
    query_vectors: Vec<Vec<f32>>,
    #[serde(default)]
    document_vectors: Vec<Vec<f32>>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden(name: &str) -> Vec<Golden> {
    let json = std::fs::read(root().join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn options(isa: Isa, dtype: Dtype) -> LoadOptions {
    LoadOptions {
        isa: Some(isa),
        threads: NonZeroUsize::new(2),
        dtype: Some(dtype),
        ..LoadOptions::default()
    }
}

/// The largest differences of a vector's numbers and of a sum from the reference.
fn differences(name: &str, isa: Isa, dtype: Dtype) -> (f32, f32) {
    let files = ModelFiles::open_folder(&root().join(name)).unwrap();
    let scorer = &mut load(&files, &options(isa, dtype)).unwrap().scorers[0];
    let fast = options(Isa::detect(), Dtype::F32);
    let encoder = prepare(&files, &fast).unwrap().encoder;
    let golden = golden(name);
    let pairs = golden.iter().map(|g| (g.query.clone(), g.document.clone())).collect();
    let tokenized = encoder.tokenize(&Inputs::Pairs(pairs), &Truncation::default()).unwrap();
    let sequences = &tokenized.sequences;
    let mut packed = Packed::with_capacity(0, 0);
    (0..sequences.len()).for_each(|i| sequences.pack(i, &mut packed));
    assert_eq!(scorer.grain(), Grain::Token);
    let dim = scorer.width();
    let mut rows = vec![0.0; packed.num_tokens() * dim];
    scorer.score(&packed, &mut rows).unwrap();
    let vectors = |i: usize| rows[packed.rows(i).start * dim..packed.rows(i).end * dim].chunks(dim);
    let cpu = Cpu::with_isa(isa, dtype).unwrap();
    let (mut worst, mut worst_sum) = (0f32, 0f32);
    let mut compare = |got: &[&[f32]], expected: &[Vec<f32>]| {
        assert!(expected.is_empty() || got.len() == expected.len(), "{name}: vectors of a text");
        for (got, expected) in got.iter().zip(expected) {
            let off = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            worst = worst.max(off);
        }
    };
    for (golden, item) in golden.iter().zip(&tokenized.items) {
        let query: Vec<&[f32]> = vectors(item.query_sequence.unwrap()).collect();
        let document = item.sequences.start;
        let (ids, _) = sequences.get(document);
        let kept = vectors(document).zip(ids).filter(|(_, id)| !encoder.skiplist().contains(id));
        let document: Vec<&[f32]> = kept.map(|(vector, _)| vector).collect();
        compare(&query, &golden.query_vectors);
        compare(&document, &golden.document_vectors);
        let kept = Format::F32.encode(&document.concat(), dim);
        let sum = cpu.max_sim(&query.concat(), dim, Format::F32, &[&kept]).unwrap()[0];
        worst_sum = worst_sum.max((sum - golden.max_sim).abs());
    }
    println!("{name} on {isa:?} in {dtype:?}: {worst:e} of a number, {worst_sum:e} of a sum");
    (worst, worst_sum)
}

#[test]
fn vectors_and_sums_are_the_references() {
    for name in MODELS {
        for isa in Isa::distinct(Dtype::F32) {
            let (vectors, sums) = differences(name, isa, Dtype::F32);
            assert!(vectors <= TOLERANCE && sums <= TOLERANCE, "{name} on {isa:?}");
        }
    }
}

/// Bounds of a number and of a sum of fourteen: twice what was measured.
#[test]
fn narrow_precisions_stay_near() {
    for (name, bf16, int8) in [
        (MODELS[0], (6e-3, 3.4e-2), (1.9e-2, 5.2e-2)),
        (MODELS[1], (8.5e-3, 5.8e-2), (3e-2, 1.9e-1)),
        (MODELS[2], (4.3e-3, 2.6e-2), (1.6e-2, 8e-2)),
        (MODELS[3], (5.8e-3, 3.6e-2), (1.5e-2, 7.4e-2)),
    ] {
        for (dtype, (vectors, sums)) in [(Dtype::Bf16, bf16), (Dtype::Int8, int8)] {
            for isa in Isa::distinct(dtype) {
                let off = differences(name, isa, dtype);
                assert!(
                    off.0 <= vectors && off.1 <= sums,
                    "{name} on {isa:?} in {dtype:?}: {off:?}"
                );
            }
        }
    }
}

fn service(name: &str, matrices: MatrixOptions, max_batch_tokens: usize, late: bool) -> Service {
    service_on(&Host::default(), name, matrices, max_batch_tokens, late)
}

fn service_on(
    host: &Host,
    name: &str,
    matrices: MatrixOptions,
    max_batch_tokens: usize,
    late: bool,
) -> Service {
    let files = ModelFiles::open_folder(&root().join(name)).unwrap();
    let load = LoadOptions { late_interaction: late, ..options(Isa::detect(), Dtype::F32) };
    host.health.started();
    let options = Options {
        limits: Limits {
            max_batch_tokens,
            max_batch_sequences: 64,
            max_queue_delay: Duration::ZERO,
        },
        max_backlog_tokens: None,
        max_requests: 100,
        tokenizer_threads: 2,
        default_timeout: Duration::from_secs(60),
        max_timeout: Duration::from_secs(60),
        device_timeout: Duration::from_secs(60),
        score_cache_bytes: 0,
        matrices,
    };
    let prepared = prepare(&files, &load).unwrap();
    Service::start("tiny".into(), prepared, &options, host).unwrap()
}

fn exact() -> MatrixOptions {
    MatrixOptions { format: Format::F32, ..MatrixOptions::default() }
}

async fn score(service: &Service, query: &str, documents: &[String], may_cache: bool) -> Vec<f32> {
    let request = RerankRequest {
        id: String::new(),
        model: None,
        inputs: Inputs::OneQuery { query: query.to_owned(), documents: documents.to_vec() },
        truncation: Truncation::default(),
        timeout: None,
        priority: 0,
        may_cache,
    };
    let tenant = Tenant::anonymous();
    let response = service.rerank(request, Stamps::at(clock::now()), &tenant);
    response.await.unwrap().results.iter().map(|scored| scored.score.raw).collect()
}

#[tokio::test]
async fn requests_get_the_reference_sums_whatever_their_batch_mates_are() {
    for name in MODELS {
        let golden = golden(name);
        let (large, small) =
            (service(name, exact(), 2048, false), service(name, exact(), 64, false));
        let documents: Vec<String> = golden.iter().map(|g| g.document.clone()).collect();
        for golden in &golden[..8] {
            let together = score(&large, &golden.query, &documents, false).await;
            let apart = score(&small, &golden.query, &documents, false).await;
            let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&together), bits(&apart), "{name}");
            let own = documents.iter().position(|document| *document == golden.document).unwrap();
            assert!((together[own] - golden.max_sim).abs() <= TOLERANCE, "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_kept_changes_no_score_and_saves_the_documents_tokens() {
    let documents: Vec<String> = golden(MODELS[0]).into_iter().map(|g| g.document).collect();
    for format in [Format::F32, Format::F16, Format::Int8, Format::Bits2] {
        let options = MatrixOptions { format, ..MatrixOptions::default() };
        let service = service(MODELS[0], options, 2048, false);
        let first = score(&service, "which river", &documents, true).await;
        let again = score(&service, "which river", &documents, true).await;
        let uncached = score(&service, "which river", &documents, false).await;
        assert_eq!(first, again, "{format:?}");
        assert_eq!(first, uncached, "{format:?}");
    }
}

/// Tokens that the device has computed.
fn computed_tokens(host: &Host) -> usize {
    let text = host.metrics.render(Load::default(), true);
    let sum = text.lines().find_map(|line| line.strip_prefix("rerank_batch_tokens_sum "));
    sum.map_or(0, |sum| sum.parse::<f64>().unwrap() as usize)
}

#[tokio::test]
async fn a_document_that_two_requests_want_at_a_time_is_made_once() {
    let documents: Vec<String> = golden(MODELS[0]).into_iter().map(|g| g.document).collect();
    let (alone, beside) = (Host::default(), Host::default());
    let service = service_on(&alone, MODELS[0], exact(), 2048, false);
    let expected = score(&service, "which river", &documents, true).await;
    let service = service_on(&beside, MODELS[0], exact(), 2048, false);
    let ask = || score(&service, "which river", &documents, true);
    let (first, second, third) = tokio::join!(ask(), ask(), ask());
    assert!([first, second, third].iter().all(|sums| *sums == expected));
    let (one, three) = (computed_tokens(&alone), computed_tokens(&beside));
    // Two more queries, and nothing else.
    assert!(one > 0 && three - one < one / 4, "{three} for {one}");
}

#[tokio::test]
async fn an_encoder_runs_by_late_interaction_when_asked() {
    let service = service("tiny-encoder", exact(), 2048, true);
    let documents = ["river stone market".to_owned(), "winter engine".to_owned()];
    let sums = score(&service, "river stone market", &documents, true).await;
    // Of a text with itself: as many vectors of length one, three words and two special tokens.
    assert!((sums[0] - 5.0).abs() < 1e-4 && sums[1] < sums[0], "{sums:?}");
}

#[test]
fn a_cross_encoder_is_not_run_by_late_interaction() {
    let files = ModelFiles::open_folder(&root().join("tiny-bert")).unwrap();
    let options = LoadOptions { late_interaction: true, ..LoadOptions::default() };
    let error = load(&files, &options).unwrap_err().to_string();
    assert!(
        error.contains("BertForSequenceClassification") && error.contains("token vectors"),
        "{error}"
    );
}
