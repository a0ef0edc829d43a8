//! Overload at the door: refused at once, for the price of a look, and within bounded memory.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::*;

/// Sends the head of a request for a body of this length, and `sent` of it.
fn begin(server: &Server, length: usize, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!(
        "POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    stream
}

fn body(bytes: usize) -> Value {
    json!({"query": "q", "documents": ["x ".repeat(bytes / 2)]})
}

#[test]
fn refusals_do_not_wait_for_the_tokenizer() {
    let args = ["--threads", "1", "--tokenizer-threads", "1", "--max-requests", "1"];
    let server = Server::start(&args);
    // Seconds of work for the one tokenizer thread.
    let documents = vec!["a quick brown fox ".repeat(160); 10_000];
    let large = json!({"query": "q", "documents": documents}).to_string();
    let mut first = begin(&server, large.len(), large.as_bytes());
    eventually("it is inside", || server.metric("rerank_backlog_tokens") > 0.0);
    for _ in 0..20 {
        let refused = server.post("/v2/rerank", &body(10_000));
        assert_eq!(refused.status, 429, "{}", refused.text);
        assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    // A deadline that has no chance.
    let headers = [("content-type", "application/json"), ("x-request-timeout-ms", "1")];
    let refused = server.post_with("/v2/rerank", body(100).to_string().as_bytes(), &headers);
    assert_eq!(refused.status, 429, "{}", refused.text);
    first.set_nonblocking(true).unwrap();
    let unanswered = first.read(&mut [0]).unwrap_err();
    assert_eq!(unanswered.kind(), ErrorKind::WouldBlock, "the large one still works");
}

#[test]
fn bodies_that_are_still_arriving_are_bounded_in_total() {
    let bytes = (1 << 20).to_string();
    let server = Server::start(&["--max-body-bytes", &bytes, "--max-total-body-bytes", &bytes]);
    let slow = begin(&server, 900_000, &vec![b' '; 800_000]);
    eventually("its bytes are held", || server.metric("rerank_body_bytes") == 800_000.0);
    let post = || server.post("/v2/rerank", &body(500_000));
    let refused = post();
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.text.contains("request bodies"), "{}", refused.text);
    assert_eq!(server.post("/v2/rerank", &body(1000)).status, 200, "a small one has room");
    drop(slow);
    eventually("the room is given back", || server.metric("rerank_body_bytes") == 0.0);
    for _ in 0..5 {
        assert_eq!(post().status, 200, "an answered request holds nothing");
    }
}
