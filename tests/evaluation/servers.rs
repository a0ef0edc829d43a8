//! Servers of all kinds: those that are busy, those that want a key, and those that answer nonsense.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::fake::{Fake, ranked};
use crate::{complaint, eval, here, report};

#[test]
fn a_busy_server_is_asked_again() {
    let asked = AtomicUsize::new(0);
    let busy = Fake::start(move |body| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => (429, "retry-after: 0\r\n", Value::Null),
        1 => (503, "retry-after: 0\r\n", Value::Null),
        _ => (200, "", ranked(body)),
    });
    let graded = here().join("graded");
    let after = |url: &str| report(&graded, &["--server", url])["mean"]["after"]["ndcg@10"].clone();
    assert_eq!(after(&busy.url), after(&Fake::honest().url));
}

#[test]
fn the_key_and_the_name_of_the_model_are_sent() {
    let server = Fake::honest();
    let args = ["--server", &server.url, "--server-model", "large", "--api-key", "s3cret"];
    let report = report(&here().join("graded"), &args);
    assert_eq!(report["rankings"][1]["model"], format!("large at {}/v1/rerank", server.url));
    let requests = server.requests.lock().unwrap();
    // Of 13 judged queries two have no candidates.
    assert_eq!(requests.len(), 11);
    for (head, body) in &*requests {
        assert!(head.starts_with("post /v1/rerank http/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: bearer s3cret\r\n"), "{head}");
        assert_eq!(body["model"], "large");
        assert_eq!(body["top_n"], body["documents"].as_array().unwrap().len());
    }
}

#[test]
fn no_request_has_more_than_a_thousand_documents() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, lines: Vec<String>| {
        std::fs::write(folder.path().join(file), lines.join("\n")).unwrap();
    };
    let ids = || 0..1005;
    write("queries.tsv", vec!["q\tweight 1".into()]);
    // Scores are taken modulo 1009: the last document is the best.
    let document = |i| json!({"id": i, "text": format!("worth {i}")}).to_string();
    write("corpus.jsonl", ids().map(document).collect());
    write("candidates.tsv", ids().map(|i| format!("q\t{i}\t{}", i + 1)).collect());
    write("qrels.tsv", vec!["q\t1004\t1".into()]);
    let server = Fake::honest();
    let report = report(folder.path(), &["--server", &server.url, "--top-k", "2000"]);
    let requests = server.requests.lock().unwrap();
    let sizes: Vec<_> =
        requests.iter().map(|(_, body)| body["documents"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 5]);
    assert_eq!(report["mean"]["before"]["mrr@10"], 0.0);
    assert_eq!(report["mean"]["after"]["mrr@10"], 1.0);
}

#[test]
fn a_server_that_does_not_rerank_is_told_with_its_url() {
    let answers: [(u16, Value, &str); 6] = [
        (200, json!({"results": []}), "every document"),
        (200, json!({"results": [{"index": 99, "relevance_score": 1}]}), "index 99"),
        (
            200,
            json!({"results": [{"index": 0, "relevance_score": 1}, {"index": 0, "relevance_score": 1}]}),
            "index 0",
        ),
        (200, json!([0.5]), "not Cohere's"),
        (404, json!({"detail": "no such model"}), "no such model"),
        (301, json!("moved"), "301"),
    ];
    for (status, answer, part) in answers {
        let server = Fake::start(move |_| (status, "", answer.clone()));
        let told = complaint(&here().join("graded"), &["--server", &server.url], 1);
        assert!(told.contains(&server.url) && told.contains(part), "{told}");
    }
    let told = complaint(&here().join("graded"), &["--server", "http://127.0.0.1:9"], 1);
    assert!(told.contains("127.0.0.1:9"), "{told}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_any_work() {
    let cases: [(&[&str], &str); 5] = [
        (&["--model", "a", "--model", "b", "--server", "http://c"], "at most two"),
        (&["--server", "localhost:8080"], "http://"),
        (&["--model", "a/b", "--revision", "1", "--revision", "2"], "--revision"),
        (&["--threads", "0"], "threads"),
        (&["--top-k", "0"], "top-k"),
    ];
    for (args, part) in cases {
        let output = eval(&here(), args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_no_measurement() {
    let server = Fake::honest();
    let args = ["--server", &server.url, "--plot", "/no/such/folder/plot.svg"];
    assert!(complaint(&here(), &args, 1).contains("/no/such/folder/plot.svg"));
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn help_names_the_files_of_a_collection() {
    let output = crate::program::rerankd().args(["eval", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for part in ["queries.tsv", "qrels.tsv", "candidates.tsv", "minrel", "randomisation"] {
        assert!(help.contains(part), "{part}");
    }
}
