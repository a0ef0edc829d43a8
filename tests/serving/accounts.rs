//! Every scoring request is counted when it comes and once when it ends: the books add up.

use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use crate::support::*;

/// Received, and the four ways to end.
pub fn books(server: &Server) -> (f64, [f64; 4]) {
    let count = |name: &str| server.metric(&format!("rerank_{name}_requests_total"));
    (count("received"), ["answered", "refused", "cancelled", "failed"].map(count))
}

#[test]
fn received_is_answered_and_refused_and_cancelled_and_failed() {
    let server = Server::start(&[
        "--threads",
        "1",
        "--score-cache-bytes",
        "0",
        "--max-body-bytes",
        "4000000",
        "--max-backlog-tokens",
        "200000",
        "--body-timeout-ms",
        "500",
        "--strict-model-names",
    ]);
    let post = |body: &serde_json::Value| server.post("/v2/rerank", body).status;
    let large = json!({"query": "a b", "documents": vec!["a b c d ".repeat(60); 5000]});
    let good = json!({"query": "a b", "documents": ["a", "b"]});

    assert_eq!(post(&good), 200);
    assert_eq!(server.post("/rerank", &json!({"query": "a", "texts": ["b"]})).status, 200);
    let unnamed = json!({"model": "none", "query": "a", "documents": ["b"]});
    assert_eq!(post(&unnamed), 404);
    assert_eq!(server.post_bytes("/v2/rerank", b"{").status, 400);
    // Its client sends it all before it looks at the answer.
    assert_eq!(server.post_bytes("/v2/rerank", &[b' '; 10_000_000]).status, 413);
    let packed = [("content-type", "application/json"), ("content-encoding", "br")];
    assert_eq!(server.post_with("/v2/rerank", b"{}", &packed).status, 415);
    let hurried = [("content-type", "application/json"), ("x-request-timeout-ms", "60")];
    let body = large.to_string();
    assert_eq!(server.post_with("/v2/rerank", body.as_bytes(), &hurried).status, 504);
    // Other routes are not in these books.
    assert_eq!(server.get("/live").status, 200);
    assert_eq!(server.post("/nowhere", &good).status, 404);

    let connect = |head: &str, body: &str| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let head = format!("POST /v2/rerank HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    // One leaves while its scores are awaited, one in the middle of its body, one is too slow with it.
    eventually("the last work is gone", || server.metric("rerank_backlog_tokens") == 0.0);
    let length = format!("content-type: application/json\r\ncontent-length: {}", body.len());
    let leaver = connect(&length, &body);
    eventually("it is admitted", || server.metric("rerank_backlog_tokens") > 0.0);
    assert_eq!(post(&good), 429);
    drop(leaver);
    drop(connect(&length, &body[..1000]));
    let slow = connect(&length, &body[..1000]);
    // A head that is no request is not received.
    drop(connect("no header line", ""));

    eventually("the books are closed", || {
        books(&server).0 == 11.0 && {
            let (received, ends) = books(&server);
            ends.iter().sum::<f64>() == received
        }
    });
    drop(slow);
    let (_, [answered, refused, cancelled, failed]) = books(&server);
    assert_eq!([answered, refused, cancelled, failed], [2.0, 6.0, 2.0, 1.0]);
}
