//! Starting, draining, deadlines, clients that leave, overload.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::*;

fn large(num_documents: usize) -> Value {
    let documents: Vec<_> =
        (0..num_documents).map(|i| format!("{i} {}", "a b c d ".repeat(60))).collect();
    json!({"query": "a b", "documents": documents})
}

fn request(body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

#[test]
fn probes_tell_loading_from_ready() {
    let server = Server::start_loading(&[]);
    assert_eq!(server.get("/live").status, 200);
    eventually("the server is ready", || server.get("/ready").status == 200);
    for (path, status) in [
        ("/health", 200),
        ("/ping", 200),
        ("/v2/health/ready", 200),
        ("/.well-known/ready", 204),
        ("/v1/health/ready", 200),
        ("/", 200),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    assert_eq!(server.metric("rerank_ready"), 1.0);
}

#[test]
fn a_client_that_leaves_costs_nothing_further() {
    let server = Server::start(&["--threads", "1", "--score-cache-bytes", "0"]);
    let mut leaver = TcpStream::connect(server.address()).unwrap();
    leaver.write_all(&request(&large(5000))).unwrap();
    eventually("the request is admitted", || server.metric("rerank_backlog_tokens") > 0.0);
    drop(leaver);
    eventually("the backlog is gone", || server.metric("rerank_backlog_tokens") == 0.0);
    assert_eq!(server.metric("rerank_cancelled_requests_total"), 1.0);
    assert_eq!(server.post("/v2/rerank", &large(2)).status, 200);
}

#[test]
fn a_deadline_that_passes_is_answered_504() {
    let server = Server::start(&["--threads", "1", "--score-cache-bytes", "0"]);
    let body = large(5000).to_string();
    let headers = [("content-type", "application/json"), ("x-request-timeout-ms", "60")];
    let answer = server.post_with("/v2/rerank", body.as_bytes(), &headers);
    assert_eq!(answer.status, 504, "{}", answer.text);
    eventually("its work is gone", || server.metric("rerank_backlog_tokens") == 0.0);
}

#[test]
fn overload_is_refused_at_once_with_the_time_to_come_back() {
    let server = Server::start(&[
        "--threads",
        "1",
        "--score-cache-bytes",
        "0",
        "--max-backlog-tokens",
        "1000",
    ]);
    let mut first = TcpStream::connect(server.address()).unwrap();
    first.write_all(&request(&large(3000))).unwrap();
    eventually("the first is admitted", || server.metric("rerank_backlog_tokens") > 0.0);
    let refused = server.post("/v2/rerank", &large(10));
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let refused = server.post("/rerank", &json!({"query": "q", "texts": ["a"]}));
    assert_eq!(refused.json(), json!({"error": "Model is overloaded", "error_type": "Overloaded"}));
    assert_eq!(server.metric("rerank_refusals_total{reason=\"overloaded\"}"), 2.0);
    assert_eq!(server.metric("rerank_refusal_seconds_count"), 2.0);
}

#[test]
fn a_drain_answers_what_was_admitted_and_exits_0() {
    let mut server = Server::start(&["--threads", "1", "--score-cache-bytes", "0"]);
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(&request(&large(800))).unwrap();
    eventually("the request is admitted", || server.metric("rerank_backlog_tokens") > 0.0);
    server.signal(libc::SIGTERM);
    eventually("probes see the drain", || server.get("/ready").status == 503);
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a whole reply, then the end of the connection");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply:.200}");
    assert_eq!(server.wait().code(), Some(0));
    server.logs("stopped");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut server = Server::start(&["--threads", "1", "--score-cache-bytes", "0"]);
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.write_all(&request(&large(5000))).unwrap();
    eventually("the request is admitted", || server.metric("rerank_backlog_tokens") > 0.0);
    server.signal(libc::SIGTERM);
    eventually("probes see the drain", || server.get("/ready").status == 503);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(1));
}
