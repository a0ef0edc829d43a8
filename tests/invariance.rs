//! The same pair gives the same bits: alone, twice, and among any mates, through the real batcher.

// `allow-unwrap-in-tests` sees test functions only, not what they share.
#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rerankd::batch::Limits;
use rerankd::clock;
use rerankd::engine::Dtype;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, RerankRequest, Stamps, Truncation};
use rerankd::rerank::{Host, Options, Service, prepare};
use rerankd::score::MatrixOptions;
use rerankd::tenant::Tenant;

fn service(max_batch_tokens: usize, threads: usize) -> Service {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let files = ModelFiles::open_folder(&folder).unwrap();
    let options = LoadOptions {
        threads: NonZeroUsize::new(threads),
        dtype: Some(Dtype::F32),
        ..LoadOptions::default()
    };
    let host = Host::default();
    host.health.started();
    Service::start(
        "tiny".into(),
        prepare(&files, &options).unwrap(),
        &Options {
            limits: Limits {
                max_batch_tokens,
                max_batch_sequences: 64,
                max_queue_delay: Duration::from_micros(200),
            },
            max_backlog_tokens: None,
            max_requests: 100,
            tokenizer_threads: 2,
            default_timeout: Duration::from_secs(60),
            max_timeout: Duration::from_secs(60),
            device_timeout: Duration::from_secs(60),
            score_cache_bytes: 0,
            matrices: MatrixOptions::default(),
        },
        &host,
    )
    .unwrap()
}

async fn bits(service: &Service, query: &str, documents: &[String]) -> Vec<u32> {
    let request = RerankRequest {
        id: String::new(),
        model: None,
        inputs: Inputs::OneQuery { query: query.into(), documents: documents.to_vec() },
        truncation: Truncation::default(),
        timeout: None,
        priority: 0,
        may_cache: true,
    };
    let stamps = Stamps::at(clock::now());
    let response = service.rerank(request, stamps, &Tenant::anonymous()).await.unwrap();
    response.label_logits.iter().map(|logit| logit.to_bits()).collect()
}

fn text() -> impl Strategy<Value = String> {
    let word =
        prop::sample::select(vec!["a", "b", "cd", "the", "한국", "🙂", "x1", "zz", ",", "é"]);
    let words = prop_oneof![3 => 0..40usize, 1 => 0..600usize];
    words.prop_flat_map(move |n| prop::collection::vec(word.clone(), n)).prop_map(|w| w.join(" "))
}

proptest! {
    // Each case scores hundreds of sequences through several batches.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn scores_do_not_depend_on_batch_mates(
        query in text(),
        documents in prop::collection::vec(text(), 1..8),
        mates in prop::collection::vec((text(), prop::collection::vec(text(), 1..8)), 1..5),
        max_batch_tokens in 512usize..4096,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let one_thread = service(512, 1);
        let service = service(max_batch_tokens, 2);
        let alone: Vec<u32> = documents
            .iter()
            .flat_map(|document| {
                runtime.block_on(bits(&one_thread, &query, std::slice::from_ref(document)))
            })
            .collect();
        prop_assert_eq!(&runtime.block_on(bits(&service, &query, &documents)), &alone);
        let (again, _) = runtime.block_on(async {
            let mates = async {
                let all = mates.iter().map(|(query, documents)| bits(&service, query, documents));
                let mut running: Vec<_> = all.map(Box::pin).collect();
                // All are begun before the first is waited for, so that their pairs share batches.
                std::future::poll_fn(|context| {
                    running.retain_mut(|mate| mate.as_mut().poll(context).is_pending());
                    if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
            };
            tokio::join!(bits(&service, &query, &documents), mates)
        });
        prop_assert_eq!(&again, &alone);
    }
}
