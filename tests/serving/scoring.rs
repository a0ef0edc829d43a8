//! Scores over HTTP: the same in every dialect, told with what was cut, timed by the same stamps.

use serde_json::{Value, json};

use crate::support::*;

fn by_index(results: &Value) -> Vec<f64> {
    let mut scores: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            let score = r.get("relevance_score").or(r.get("score")).unwrap();
            (r["index"].as_u64().unwrap(), score.as_f64().unwrap())
        })
        .collect();
    scores.sort_by_key(|&(index, _)| index);
    scores.into_iter().map(|(_, score)| score).collect()
}

#[test]
fn a_pair_has_one_score_in_every_dialect() {
    let server = Server::start(&[]);
    let texts = json!(["a b c", "", "x y z", "a b c"]);
    let cohere = json!({"query": "a b", "documents": texts});
    let reference = by_index(&server.post("/v2/rerank", &cohere).json()["results"]);
    assert_eq!(reference.len(), 4);
    assert_eq!(reference[0], reference[3], "equal documents are scored alike, and both returned");
    assert_eq!(by_index(&server.post("/v1/rerank", &cohere).json()["results"]), reference);
    let tei = server.post("/rerank", &json!({"query": "a b", "texts": texts})).json();
    assert_eq!(by_index(&tei), reference);
    let raw =
        server.post("/rerank", &json!({"query": "a b", "texts": texts, "raw_scores": true})).json();
    for (raw, probability) in by_index(&raw).into_iter().zip(&reference) {
        assert!((1.0 / (1.0 + (-raw).exp()) - probability).abs() < 1e-6);
    }
}

#[test]
fn what_was_cut_away_is_told() {
    let server = Server::start(&[]);
    let body = json!({"query": "a", "documents": ["b ".repeat(2000), "c"]});
    let reply = server.post("/v2/rerank", &body).json();
    let long =
        reply["results"].as_array().unwrap().iter().find(|r| r["index"] == 0).unwrap().clone();
    assert!(long["truncated_tokens"].as_u64().unwrap() > 1000, "{reply}");
    assert!(reply["meta"]["warnings"].is_array(), "{reply}");

    let mut chunked = body.clone();
    chunked["max_chunks_per_doc"] = 5.into();
    let reply = server.post("/v1/rerank", &chunked).json();
    let long =
        reply["results"].as_array().unwrap().iter().find(|r| r["index"] == 0).unwrap().clone();
    assert!(long["chunks"].as_u64().unwrap() > 1, "{reply}");

    let mut strict = body;
    strict["truncation"] = false.into();
    strict["top_k"] = 1.into();
    assert_eq!(server.post("/v1/rerank", &strict).status, 400);
}

#[test]
fn stages_add_up_to_the_time_the_client_waited_for() {
    let server = Server::start(&[]);
    let body = json!({"query": "a", "documents": vec!["b c d"; 50]});
    let answer = server.post("/v2/rerank", &body);
    let timing = answer.header("server-timing");
    for stage in ["parse", "admit", "tokenize", "queue", "device"] {
        assert!(timing.contains(&format!("{stage};dur=")), "{timing}");
    }
    assert_eq!(server.metric("rerank_scored_pairs_total"), 50.0);
    assert_eq!(server.metric("rerank_stage_seconds_count{stage=\"device\"}"), 1.0);
}

#[test]
fn a_request_id_comes_back_in_header_and_body() {
    let server = Server::start(&[]);
    let body = json!({"query": "a", "documents": ["b"]}).to_string();
    let headers = [("content-type", "application/json"), ("x-request-id", "mine-17")];
    let answer = server.post_with("/v2/rerank", body.as_bytes(), &headers);
    assert_eq!(answer.header("x-request-id"), "mine-17");
    assert_eq!(answer.json()["id"], "mine-17");
}

#[test]
fn a_model_name_nobody_knows_is_served_unless_names_are_strict() {
    let body = json!({"model": "rerank-v3.5", "query": "a", "documents": ["b"]});
    let server = Server::start(&[]);
    assert_eq!(server.post("/v2/rerank", &body).status, 200);
    let strict = Server::start(&["--strict-model-names", "--served-model-name", "mine"]);
    let answer = strict.post("/v2/rerank", &body);
    assert_eq!(answer.status, 404);
    assert!(answer.text.contains("mine"), "{}", answer.text);
    let aliased = Server::start(&["--strict-model-names", "--alias", "rerank-v3.5"]);
    assert_eq!(aliased.post("/v2/rerank", &body).status, 200);
}
