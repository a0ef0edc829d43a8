//! Document vectors made ahead, of models of late interaction: found by the text, after any end of the server.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::*;
use crate::tenants::Keys;

fn colbert() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-colbert")
}

fn serve(args: &[&str]) -> Command {
    let mut command = rerankd();
    command.args(["serve", "--port", "0", "--threads", "2", "--model"]).arg(colbert()).args(args);
    command
}

fn start(args: &[&str]) -> Server {
    Server::spawn(serve(args)).when_ready()
}

fn with_file(file: &Path, more: &[&str]) -> Server {
    start(&[&["--matrix-file", file.to_str().unwrap()], more].concat())
}

fn documents() -> Vec<String> {
    (0..30).map(|i| format!("river {} market {}", "stone ".repeat(i), i * 7)).collect()
}

fn scores(answer: &Answer) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut results = answer.json()["results"].as_array().unwrap().clone();
    results.sort_by_key(|result| result["index"].as_u64());
    results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect()
}

fn rerank(server: &Server) -> Vec<f64> {
    scores(&server.post("/v2/rerank", &json!({"query": "stone river", "documents": documents()})))
}

fn precompute(server: &Server) -> Value {
    let answer = server.post("/v1/precompute", &json!({"documents": documents()}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Documents found in memory, found on disk, and made.
fn found(server: &Server) -> [f64; 3] {
    ["in_memory", "on_disk", "missed"]
        .map(|place| server.metric(&format!("rerank_matrices_{place}_total")))
}

#[test]
fn what_was_precomputed_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vectors");
    let expected = rerank(&start(&[]));
    let mut server = with_file(&file, &[]);
    let reply = precompute(&server);
    assert_eq!((&reply["documents"], &reply["computed"]), (&json!(30), &json!(30)));
    assert_eq!(precompute(&server)["computed"], 0);
    // Writing, when it is killed.
    for i in 0..5 {
        let documents: Vec<_> = (0..40).map(|k| format!("letter {i} garden {k}")).collect();
        server.post("/v2/rerank", &json!({"query": "winter", "documents": documents}));
    }
    server.signal(libc::SIGKILL);
    server.wait();

    let server = with_file(&file, &[]);
    assert_eq!(rerank(&server), expected, "a store changes no score");
    assert_eq!(found(&server), [0.0, 30.0, 0.0]);
    assert_eq!(rerank(&server), expected);
    assert_eq!(found(&server), [30.0, 30.0, 0.0]);
    assert!(server.metric("rerank_matrices_file_bytes") > 0.0);
}

#[test]
fn the_command_fills_a_file_that_a_server_finds() {
    let folder = tempfile::tempdir().unwrap();
    let (file, corpus) = (folder.path().join("vectors"), folder.path().join("corpus.jsonl"));
    let lines = documents().into_iter().map(|text| json!({"text": text}).to_string() + "\n");
    std::fs::write(&corpus, lines.collect::<String>()).unwrap();
    let run = || {
        let mut command = rerankd();
        command.arg("precompute").arg(&corpus).arg("--matrix-file").arg(&file);
        let output = command.arg("--model").arg(colbert()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run().starts_with("30 documents, 30 of them computed"));
    assert!(run().starts_with("30 documents, 0 of them computed"));
    let server = with_file(&file, &[]);
    rerank(&server);
    assert_eq!(found(&server), [0.0, 30.0, 0.0]);
    // Another format is another store in the same file.
    drop(server);
    let server = with_file(&file, &["--matrix-format", "bits2"]);
    rerank(&server);
    assert_eq!(found(&server), [0.0, 0.0, 30.0]);
}

#[test]
fn tenants_find_one_anothers_vectors_only_where_they_share() {
    for (args, expected) in
        [(&[][..], [0.0, 0.0, 60.0]), (&["--share-matrices"], [30.0, 0.0, 30.0])]
    {
        let keys = Keys::new();
        let (one, other) = (keys.tenant("one", ""), keys.tenant("other", ""));
        let path = keys.path();
        let server = start(&[&["--keys-file", path.to_str().unwrap()], args].concat());
        let body = json!({"query": "stone river", "documents": documents()}).to_string();
        let post = |key: &str| {
            let headers = [
                ("content-type", "application/json"),
                ("authorization", &*format!("Bearer {key}")),
            ];
            scores(&server.post_with("/v2/rerank", body.as_bytes(), &headers))
        };
        assert_eq!(post(&one), post(&other));
        assert_eq!(found(&server), expected);
    }
}

#[test]
fn a_model_that_keeps_no_vectors_says_so() {
    let server = Server::start(&[]);
    let answer = server.post("/v1/precompute", &json!({"documents": ["a"]}));
    assert_eq!(answer.status, 501);
    assert!(answer.text.contains("late interaction"), "{}", answer.text);
    let answer = start(&[]).post("/v1/precompute", &json!({"documents": []}));
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("documents"), "{}", answer.text);
}
