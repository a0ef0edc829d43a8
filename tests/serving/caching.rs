//! Pairs that were scored before, or are being scored: no second pass, the same bits, and no one's neighbour's.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::*;

/// Documents of tokens that the tiny model knows, no two alike.
fn documents(range: std::ops::Range<usize>) -> Vec<String> {
    let letter = |digit: usize| ["a ", "b ", "c ", "d ", "e ", "f "][digit % 6];
    let document = |i: usize| -> String { (0..6).map(|k| letter(i / 6_usize.pow(k))).collect() };
    range.map(document).collect()
}

fn request(range: std::ops::Range<usize>) -> Value {
    json!({"query": "a b", "documents": documents(range), "return_documents": false})
}

/// The scores by document.
fn scores(answer: &Answer) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let reply = answer.json();
    let mut results = reply["results"].as_array().unwrap().clone();
    results.sort_by_key(|result| result["index"].as_u64());
    results.iter().map(|result| result["relevance_score"].as_f64().unwrap()).collect()
}

/// Waits until the device has scored so many sequences in all; never more.
#[track_caller]
fn assert_scored(server: &Server, expected: usize) {
    // A server that scored nothing has no such line.
    let scored = || {
        let page = server.get("/metrics").text;
        let line = page.lines().find(|line| line.starts_with("rerank_batch_sequences_sum"));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    // An answer goes out before its batch is counted.
    eventually("the device scored as many", || scored() >= expected as f64);
    assert_eq!(scored(), expected as f64);
}

#[test]
fn a_pair_that_is_known_costs_no_pass_and_has_the_same_bits() {
    let server = Server::start(&[]);
    let without = Server::start(&["--score-cache-bytes", "0"]);
    let expected = scores(&without.post("/v2/rerank", &request(0..60)));
    assert_eq!(scores(&server.post("/v2/rerank", &request(0..20))), expected[..20]);
    assert_scored(&server, 20);
    assert_eq!(scores(&server.post("/v2/rerank", &request(0..20))), expected[..20]);
    assert_scored(&server, 20);
    assert_eq!(scores(&server.post("/v2/rerank", &request(10..60))), expected[10..60]);
    assert_scored(&server, 60);
    assert_eq!(server.metric("rerank_cached_sequences_total"), 30.0);
    assert_eq!(server.metric("rerank_missed_sequences_total"), 60.0);
    assert!(server.metric("rerank_cache_bytes") > 0.0);

    // The same document twice in one request is one pass, too.
    let twice = json!({"query": "f e d", "documents": ["a b", "c", "a b"]});
    let got = scores(&server.post("/v2/rerank", &twice));
    assert_scored(&server, 62);
    assert_eq!(got, scores(&without.post("/v2/rerank", &twice)));
    assert_eq!(got[0], got[2]);
    // Another dialect's pairs are the same pairs.
    let texts = json!({"query": "a b", "texts": documents(0..20)});
    assert_eq!(server.post("/rerank", &texts).status, 200);
    assert_scored(&server, 62);
}

#[test]
fn no_store_neither_takes_nor_leaves_anything() {
    let server = Server::start(&[]);
    let body = request(0..5).to_string();
    let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
    let post = || scores(&server.post_with("/v2/rerank", body.as_bytes(), &headers));
    let first = post();
    assert_scored(&server, 5);
    assert_eq!(scores(&server.post("/v2/rerank", &request(0..5))), first);
    assert_scored(&server, 10);
    assert_eq!(post(), first);
    assert_scored(&server, 15);
}

#[test]
fn equal_requests_at_one_time_are_scored_once() {
    let server = Server::start(&["--threads", "1"]);
    let expected = scores(&server.post("/v2/rerank", &request(0..1)));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| scores(&server.post("/v2/rerank", &request(0..2000)))))
            .collect();
        let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(answers.iter().all(|scores| *scores == answers[0]));
        assert_eq!(answers[0][..1], expected);
    });
    let found = |name: &str| server.metric(&format!("rerank_{name}_sequences_total"));
    assert_eq!(found("cached") + found("joined") + found("missed"), 8.0 * 2000.0 + 1.0);
    assert_scored(&server, found("missed") as usize);
}

#[test]
fn a_client_that_leaves_takes_no_follower_with_it() {
    let server = Server::start(&["--threads", "1"]);
    let expected =
        scores(&Server::start(&["--score-cache-bytes", "0"]).post("/v2/rerank", &request(0..3000)));
    let body = request(0..3000).to_string();
    for _ in 0..5 {
        let mut leader = TcpStream::connect(server.address()).unwrap();
        let head = format!(
            "POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        leader.write_all(head.as_bytes()).unwrap();
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| scores(&server.post("/v2/rerank", &request(0..3000))));
            drop(leader);
            assert_eq!(follower.join().unwrap(), expected);
        });
    }
}
