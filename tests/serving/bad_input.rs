//! Whatever a client sends: a clear error that names what is wrong, and nobody else is harmed.

use serde_json::{Value, json};

use crate::support::*;

fn good() -> Value {
    json!({"query": "a b c", "documents": ["a b", "c d e"]})
}

/// The error as each family of clients reads it, all the same.
fn message(answer: &Answer) -> String {
    let body = answer.json();
    let message = body["message"].as_str().expect("Cohere's message").to_owned();
    assert_eq!(body["detail"], message.as_str());
    assert_eq!(body["error"]["message"], message.as_str());
    message
}

#[test]
fn every_bad_body_is_named_and_the_next_request_is_served() {
    let server = Server::start(&[]);
    let mut too_many = good();
    too_many["documents"] = vec!["d"; 10_001].into();
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let cases: &[(&[u8], u16, &str)] = &[
        (b"", 400, "json"),
        (b"{", 400, "json"),
        (b"{\"query\": \"q\", \"documents\": [\"a\",]}", 400, "json"),
        (b"[]", 400, "body"),
        (b"{}", 400, "documents"),
        (b"{\"query\": \"q\"}", 400, "documents"),
        (b"{\"documents\": [\"a\"]}", 400, "query"),
        (b"{\"query\": 7, \"documents\": [\"a\"]}", 400, "query"),
        (b"{\"query\": \"  \", \"documents\": [\"a\"]}", 400, "query must not be empty"),
        (b"{\"query\": \"q\", \"documents\": []}", 400, "list of documents must not be empty"),
        (b"{\"query\": \"q\", \"documents\": [\"a\", 7]}", 400, "documents[1]"),
        (b"{\"query\": \"q\", \"documents\": {}}", 400, "documents"),
        (b"{\"query\": \"q\", \"documents\": [\"a\"], \"top_n\": -1}", 400, "top_n"),
        (b"{\"query\": \"q\", \"documents\": [\"a\"], \"top_n\": \"many\"}", 400, "top_n"),
        (b"{\"query\": \"\xff\xfe\", \"documents\": [\"a\"]}", 400, "UTF-8"),
        (b"{\"query\": \"\\ud800\", \"documents\": [\"a\"]}", 400, ""),
        (deep.as_bytes(), 400, ""),
    ];
    for (body, status, part) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = server.post_bytes("/v2/rerank", body);
        assert_eq!(answer.status, *status, "{shown}: {}", answer.text);
        assert!(message(&answer).contains(part), "{shown}: {}", answer.text);
        assert_eq!(server.post("/v2/rerank", &good()).status, 200, "after {shown}");
    }
    let answer = server.post("/v2/rerank", &too_many);
    assert_eq!(answer.status, 400);
    assert!(message(&answer).contains("10000"), "{}", answer.text);
    assert_eq!(answer.json()["error"]["param"], "documents");
}

#[test]
fn a_body_of_40_megabytes_is_refused_before_it_is_read_whole() {
    let server = Server::start(&[]);
    let body = vec![b' '; 40 << 20];
    // The server may close while the client still writes: then the client sees that instead.
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let url = format!("http://{}/v2/rerank", server.address());
    if let Ok(response) = agent.post(url).header("content-type", "application/json").send(&body[..])
    {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(server.metric("rerank_requests_total{route=\"score\",status=\"413\"}"), 1.0);
    assert_eq!(server.post("/v2/rerank", &good()).status, 200);
}

#[test]
fn a_body_that_grows_past_the_limit_without_saying_so_is_cut_off() {
    let server = Server::start(&["--max-body-bytes", "2048"]);
    let config = ureq::Agent::config_builder().http_status_as_error(false).build();
    let agent: ureq::Agent = config.into();
    let url = format!("http://{}/v2/rerank", server.address());
    // A reader of unknown length goes out in chunks.
    let mut endless = std::io::Read::take(std::io::repeat(b' '), 1 << 20);
    let body = ureq::SendBody::from_reader(&mut endless);
    if let Ok(response) = agent.post(url).header("content-type", "application/json").send(body) {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(server.post("/v2/rerank", &good()).status, 200);
}

#[test]
fn foreign_types_paths_and_methods_get_a_json_error() {
    let server = Server::start(&[]);
    let body = good().to_string();
    let xml = server.post_with("/v2/rerank", body.as_bytes(), &[("content-type", "text/xml")]);
    assert_eq!(xml.status, 415);
    assert!(message(&xml).contains("text/xml"));
    let nowhere = server.post("/v9/nothing", &good());
    assert_eq!(nowhere.status, 404);
    assert!(message(&nowhere).contains("/v9/nothing"));
    let get = server.get("/v2/rerank");
    assert_eq!(get.status, 405);
    assert!(message(&get).contains("GET"));
}

#[test]
fn bad_requests_do_not_disturb_good_ones_beside_them() {
    let server = Server::start(&[]);
    let expected = server.post("/v2/rerank", &good()).json()["results"].clone();
    std::thread::scope(|scope| {
        let bad = scope.spawn(|| {
            for i in 0..200 {
                let body: &[u8] = if i % 2 == 0 { b"{\"query\":" } else { b"\xff{}" };
                assert_eq!(server.post_bytes("/rerank", body).status, 400);
            }
        });
        for _ in 0..200 {
            let answer = server.post("/v2/rerank", &good());
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["results"], expected);
        }
        bad.join().expect("bad requests are answered");
    });
}
