//! What vectors computed ahead save: a query with 20 documents by late interaction, and the same by a cross-encoder
//! of the same encoder.
//!
//! `cargo bench --bench late [-- CROSS_ENCODER_FOLDER]`; the default model otherwise. The encoder is the
//! cross-encoder's own, read as one that gives vectors. Wall time, the best of many runs, in f32 and in the
//! fastest precision of the machine; and the CPU time of all threads, which is blind to other programs.

#[path = "measure/time.rs"]
mod time;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rerankd::batch::Limits;
use rerankd::clock;
use rerankd::engine::Dtype;
use rerankd::engine::cpu::Isa;
use rerankd::model::loader::LoadOptions;
use rerankd::model::source::ModelFiles;
use rerankd::request::{Inputs, RerankRequest, Stamps, Truncation};
use rerankd::rerank::{Host, Options, Service, prepare};
use rerankd::score::MatrixOptions;
use rerankd::tenant::Tenant;
use time::{best_cpu_time, best_time};

const DOCUMENTS: usize = 20;
const RUNS: usize = 15;
const TIMEOUT: Duration = Duration::from_secs(600);

fn main() {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/default");
    let folder = named.map_or_else(default, PathBuf::from);
    let encoder = as_encoder(&folder);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let fastest = Isa::detect().fastest_dtypes(usize::MAX)[0];
    for dtype in [Dtype::F32, fastest] {
        let cross = service(&folder, dtype, false);
        let late = service(encoder.path(), dtype, true);
        println!("{}: {DOCUMENTS} documents of about 120 words", dtype.name());
        let report = |name: &str, service: &Service, may_cache: bool| {
            let run = || runtime.block_on(score(service, may_cache));
            let wall = best_time(RUNS, run).as_secs_f64();
            let cpu = best_cpu_time(RUNS, run).as_secs_f64();
            println!("  {name:48} {:8.2} ms, CPU {:8.2} ms", wall * 1e3, cpu * 1e3);
            [wall, cpu]
        };
        let whole = report("cross-encoder", &cross, false);
        report("late interaction, documents computed", &late, false);
        let kept = report("late interaction, documents computed ahead", &late, true);
        let [wall, cpu] = [0, 1].map(|i| whole[i] / kept[i]);
        println!("  {wall:.1} times as fast as the cross-encoder, {cpu:.1} by CPU time");
    }
}

/// The cross-encoder's folder with a configuration that asks for its encoder alone.
fn as_encoder(folder: &Path) -> tempfile::TempDir {
    let encoder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder).expect("the folder").flatten() {
        let name = entry.file_name();
        if entry.path().is_file() && name != "golden.json" && name != "config.json" {
            std::fs::copy(entry.path(), encoder.path().join(name)).expect("room for a copy");
        }
    }
    let json = std::fs::read(folder.join("config.json")).expect("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let headed = config["architectures"][0].as_str().expect("an architecture").to_owned();
    config["architectures"][0] = headed.replace("ForSequenceClassification", "Model").into();
    let json = serde_json::to_vec(&config).expect("JSON");
    std::fs::write(encoder.path().join("config.json"), json).expect("room for a file");
    encoder
}

fn service(folder: &Path, dtype: Dtype, late_interaction: bool) -> Service {
    let files = ModelFiles::open_folder(folder).expect("the folder");
    let load = LoadOptions { dtype: Some(dtype), late_interaction, ..LoadOptions::default() };
    let options = Options {
        limits: Limits {
            max_batch_tokens: 4096,
            max_batch_sequences: 512,
            max_queue_delay: Duration::ZERO,
        },
        max_backlog_tokens: None,
        max_requests: 1,
        tokenizer_threads: 2,
        default_timeout: TIMEOUT,
        max_timeout: TIMEOUT,
        device_timeout: TIMEOUT,
        score_cache_bytes: 0,
        matrices: MatrixOptions::default(),
    };
    let host = Host::default();
    host.health.started();
    let prepared = prepare(&files, &load).expect("a model");
    Service::start("model".into(), prepared, &options, &host).expect("threads")
}

async fn score(service: &Service, may_cache: bool) {
    const WORDS: [&str; 9] =
        ["river", "market", "winter", "engine", "letter", "garden", "silver", "planet", "signal"];
    let text = |seed: usize, num: usize| {
        let words = (0..num).map(|i| WORDS[(i * 7 + seed * 5 + i * seed) % WORDS.len()]);
        // No two alike.
        format!("{seed} {}", words.collect::<Vec<_>>().join(" "))
    };
    let request = RerankRequest {
        id: String::new(),
        model: None,
        inputs: Inputs::OneQuery {
            query: text(3, 12),
            documents: (0..DOCUMENTS).map(|i| text(i + 11, 120)).collect(),
        },
        truncation: Truncation::default(),
        timeout: None,
        priority: 0,
        may_cache,
    };
    let tenant = Tenant::anonymous();
    let response = service.rerank(request, Stamps::at(clock::now()), &tenant);
    assert_eq!(response.await.expect("scores").results.len(), DOCUMENTS);
}
