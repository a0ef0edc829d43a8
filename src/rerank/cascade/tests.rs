//! A cascade over fake devices: what it gives, and what it does when time is short.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::batch::Limits;
use crate::engine::Dtype;
use crate::engine::packed::Packed;
use crate::error::DeviceError;
use crate::model::Scorer;
use crate::model::loader::LoadOptions;
use crate::model::source::ModelFiles;
use crate::request::Truncation;
use crate::rerank::models::{Scoring, Serving};
use crate::rerank::{Host, Options, Prepared, prepare};
use crate::score::MatrixOptions;

/// Gives every sequence `sign` times the hash of its tokens; counts what it was asked.
struct Device {
    sign: f32,
    num_asked: Arc<AtomicUsize>,
    /// A device that hangs until the sender is gone.
    hangs: Option<Receiver<()>>,
}

impl Scorer for Device {
    fn width(&self) -> usize {
        1
    }

    fn score(&mut self, batch: &Packed, out: &mut [f32]) -> Result<(), DeviceError> {
        if let Some(hangs) = &self.hangs {
            // Ends with the sender.
            let _ = hangs.recv();
        }
        // An idle device is asked for a sequence of zeros now and then.
        if batch.input_ids.iter().any(|&id| id > 0) {
            self.num_asked.fetch_add(batch.num_sequences(), Ordering::Relaxed);
        }
        for (i, row) in out.iter_mut().enumerate() {
            let ids = &batch.input_ids[batch.rows(i)];
            let hash = ids.iter().fold(7u32, |h, &id| h.wrapping_mul(31).wrapping_add(id) % 101);
            *row = self.sign * (hash as f32 / 20.0 - 2.5);
        }
        Ok(())
    }
}

/// Two models, `cheap` and `strong`, and what the strong one was asked.
struct Bench {
    /// Dropped before the models, whose threads may hang for it.
    _release: Sender<()>,
    models: Models,
    num_asked: Arc<AtomicUsize>,
}

fn facts(name: &str) -> ModelFacts {
    ModelFacts {
        name: name.into(),
        aliases: Vec::new(),
        architecture: String::new(),
        labels: Vec::new(),
        vectors: None,
        max_length: 64,
        dtype: "float32".into(),
        revision: None,
        created_unix_seconds: 0,
    }
}

fn serving(name: &str, device: Device, tokens_per_second: f64, host: &Host) -> Serving {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-bert");
    let files = ModelFiles::open_folder(&folder).unwrap();
    let load = LoadOptions {
        threads: NonZeroUsize::new(1),
        dtype: Some(Dtype::F32),
        ..LoadOptions::default()
    };
    let prepared = prepare(&files, &load).unwrap();
    let prepared = Prepared { scorers: vec![Box::new(device)], tokens_per_second, ..prepared };
    let options = Options {
        limits: Limits {
            max_batch_tokens: 4096,
            max_batch_sequences: 64,
            max_queue_delay: Duration::ZERO,
        },
        max_backlog_tokens: None,
        max_requests: 100,
        tokenizer_threads: 1,
        default_timeout: Duration::from_secs(60),
        max_timeout: Duration::from_secs(60),
        device_timeout: Duration::from_secs(60),
        score_cache_bytes: 0,
        matrices: MatrixOptions::default(),
    };
    let service = Service::start(name.into(), prepared, &options, host).unwrap();
    Serving::new(Scoring::Model(Box::new(service)), facts(name), None)
}

impl Bench {
    fn new(strong_tokens_per_second: f64, hangs: bool) -> Self {
        let host = Host::default();
        host.health.started();
        let models = Models::new(false, Arc::clone(&host.metrics));
        let num_asked = Arc::<AtomicUsize>::default();
        let (release, hung) = channel();
        let cheap = Device { sign: 1.0, num_asked: Arc::default(), hangs: None };
        let strong =
            Device { sign: -1.0, num_asked: Arc::clone(&num_asked), hangs: hangs.then_some(hung) };
        models.put_at(0, serving("cheap", cheap, 1e6, &host)).unwrap();
        models.put_at(1, serving("strong", strong, strong_tokens_per_second, &host)).unwrap();
        let cascade = Cascade { first: "cheap".into(), second: "strong".into(), k: 4 };
        let both = Serving::new(Scoring::Cascade(cascade), facts("both"), None);
        models.put_at(2, both).unwrap();
        Self { _release: release, models, num_asked }
    }

    async fn ask(&self, model: &str, timeout: Duration) -> RerankResponse {
        let documents = (0..10).map(|i| format!("{} c d", ["a", "b", "e"][i % 3].repeat(i + 1)));
        let request = RerankRequest {
            id: "id".into(),
            model: Some(model.into()),
            inputs: Inputs::OneQuery { query: "a b".into(), documents: documents.collect() },
            truncation: Truncation::default(),
            timeout: Some(timeout),
            priority: 0,
            may_cache: false,
        };
        let stamps = Stamps::at(clock::now());
        self.models.rerank(request, stamps, &Tenant::anonymous()).await.unwrap()
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_strong_model_is_asked_for_the_best_alone_and_both_are_charged() {
    let bench = Bench::new(1e6, false);
    let cheap = bench.ask("cheap", LONG).await;
    let both = bench.ask("both", LONG).await;
    assert!(!both.is_degraded);
    assert_eq!(bench.num_asked.load(Ordering::Relaxed), 4);
    assert_eq!(both.model, "both");
    let chosen = best(&cheap.results, 4);
    let tokens: usize = chosen.iter().map(|&i| cheap.results[i].tokens).sum();
    assert_eq!(both.prompt_tokens, cheap.prompt_tokens + tokens);
    for &i in &chosen {
        // The strong model is the cheap one with its sign turned.
        assert_eq!(both.results[i].score.raw, -cheap.results[i].score.raw);
    }
    let stages: Duration = both.stamps.stages().iter().map(|(_, took)| *took).sum();
    assert_eq!(stages, both.stamps.scored - both.stamps.received);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_time_for_the_strong_model_the_cheap_order_is_the_answer_and_says_so() {
    let bench = Bench::new(1.0, false);
    let cheap = bench.ask("cheap", LONG).await;
    let both = bench.ask("both", Duration::from_secs(5)).await;
    assert!(both.is_degraded);
    assert_eq!(bench.num_asked.load(Ordering::Relaxed), 0, "it was not even tried");
    assert_eq!(both.results, cheap.results);
    assert_eq!(both.prompt_tokens, cheap.prompt_tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_model_that_is_late_after_all_costs_no_answer() {
    let bench = Bench::new(1e9, true);
    let cheap = bench.ask("cheap", LONG).await;
    let both = bench.ask("both", Duration::from_millis(400)).await;
    assert!(both.is_degraded);
    assert_eq!(both.results, cheap.results);
}

fn scored(raw: f32) -> Scored {
    let probability = 1.0 / (1.0 + (-raw).exp());
    let score = Score { raw, activated: probability, probability };
    Scored { score, tokens: 10, truncated_tokens: 0, chunks: 1 }
}

fn response(raws: &[f32]) -> RerankResponse {
    RerankResponse {
        id: "id".into(),
        model: "m".into(),
        results: raws.iter().map(|&raw| scored(raw)).collect(),
        label_logits: Vec::new(),
        labels: Vec::new(),
        prompt_tokens: 10 * raws.len(),
        num_chars: 0,
        num_precomputed: 0,
        is_degraded: false,
        stamps: Stamps::at(clock::now()),
    }
}

#[test]
fn the_best_have_the_strong_scores_and_the_rest_follow_in_the_cheap_order() {
    // Splitmix-like numbers, fixed; logits of both models over a wide range.
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / 1e6 - 8.0
    };
    for round in 0..200 {
        let all = response(&(0..12).map(|_| next()).collect::<Vec<_>>());
        let chosen = best(&all.results, 5);
        let strong = response(&(0..5).map(|_| next() * 0.3).collect::<Vec<_>>());
        let merged = merge(&all, &strong, &chosen);
        for (&i, strong) in chosen.iter().zip(&strong.results) {
            assert_eq!(merged[i].score, strong.score, "round {round}");
            assert_eq!(merged[i].tokens, 20, "both are charged");
        }
        let order = best(&all.results, 12);
        let mut last = strong.results.iter().map(|scored| scored.score.raw).reduce(f32::min);
        let mut last_probability = f32::INFINITY;
        for &i in &order[5..] {
            let Score { raw, activated, probability } = merged[i].score;
            assert!(raw <= last.unwrap() && probability <= last_probability, "round {round}");
            assert!((0.0..=1.0).contains(&probability) && activated == probability);
            (last, last_probability) = (Some(raw), probability);
        }
    }
}

#[test]
fn a_score_that_is_no_probability_is_moved_below() {
    let score = |raw, activated, probability| Score { raw, activated, probability };
    let (floor, edge) = (score(-2.0, -2.0, 0.1), score(3.0, 3.0, 0.9));
    let moved = below(floor, edge, score(1.0, 1.0, 0.45));
    assert_eq!((moved.raw, moved.activated), (-4.0, -4.0));
    assert!((moved.probability - 0.05).abs() < 1e-6);
}

#[test]
fn of_no_more_than_k_all_are_scored_by_the_strong_one() {
    let all = response(&[1.0, 3.0, 2.0]);
    assert_eq!(best(&all.results, 50), [1, 2, 0]);
    let strong = response(&[0.1, 0.2, 0.3]);
    let merged = merge(&all, &strong, &[1, 2, 0]);
    let raws: Vec<_> = merged.iter().map(|scored| scored.score.raw).collect();
    assert_eq!(raws, [0.3, 0.1, 0.2]);
}
