//! Which path and body mean which dialect.

use super::super::{Route, Version, route};
use super::{answer, refusal, request};
use crate::request::Inputs;

#[test]
fn every_prefix_in_the_wild_resolves() {
    for path in [
        "/rerank",
        "/v1/rerank",
        "/v1/v1/rerank",
        "/v3/rerank",
        "/v3/v1/rerank",
        "/openai/v1/rerank",
        "/api/v1/rerank",
        "/rerank/",
        "//v1//rerank//",
        "/reranking",
        "/v1/reranking",
        "/rerank?x=1",
    ] {
        assert_eq!(route(path), Some(Route::Rerank { version: Version::V1 }), "{path}");
    }
    for path in [
        "/v2/rerank",
        "/v1/v2/rerank",
        "/v3/v2/rerank",
        "/cohere/v2/rerank",
        "/providers/cohere/v2/rerank",
        "/v2/rerank/",
    ] {
        assert_eq!(route(path), Some(Route::Rerank { version: Version::V2 }), "{path}");
    }
    assert_eq!(route("/v1/score/"), Some(Route::Score));
    assert_eq!(route("/predict"), Some(Route::Predict));
    assert_eq!(route("/"), Some(Route::Invocations));
    assert_eq!(route("/invocations"), Some(Route::Invocations));
    assert_eq!(route("/v1/models/rerank"), Some(Route::ModelsRerank));
}

#[test]
fn other_paths_are_not_ours() {
    let endless = format!("{}rerank", "v1/".repeat(100_000));
    for path in [
        "/health",
        "/v2/models/m/infer",
        "/v1/models",
        "/x/rerank",
        "/rerank/x",
        "/Rerank",
        "/v1/retrieval/reranking",
        &endless,
    ] {
        assert_eq!(route(path), None, "{}", &path[..path.len().min(40)]);
    }
    let (status, body) = refusal("/x/rerank", "{}");
    assert_eq!((status, &body["error"]["type"]), (404, &"NotFoundError".into()));
}

#[test]
fn every_prefix_answers_as_the_plain_path() {
    let body = r#"{"query":"q","documents":["a","b"]}"#;
    let plain = answer("/v2/rerank", body);
    assert_eq!(answer("/v1/v2/rerank", body), plain);
    let plain = answer("/v1/rerank", body);
    assert_eq!(answer("/v3/v1/rerank", body), plain);
    assert_eq!(answer("/rerank/", body), plain);
}

#[test]
fn the_table_is_read_from_the_top() {
    // The key that each dialect's reply alone has.
    let cases = [
        (r#"{"query":"q","passages":["a"],"documents":["a"],"property":""}"#, "rankings"),
        (r#"{"query":"q","texts":["a"],"documents":["a"],"property":""}"#, "scores"),
        (r#"{"query":"q","documents":["a"],"top_k":null}"#, "data"),
        (r#"{"query":"q","documents":["a"],"truncation":false}"#, "data"),
        (r#"{"query":"q","documents":["a"],"truncation":null}"#, "results"),
        (r#"{"query":"q","input":["a"],"documents":["a"]}"#, "return_input"),
        (r#"{"queries":"q","documents":["a"]}"#, "created"),
        (r#"{"text_1":"q","text_2":["a"]}"#, "created"),
        (r#"{"query":"q","documents":["a"],"texts":["b"]}"#, "results"),
    ];
    for (body, key) in cases {
        assert!(answer("/v1/rerank", body).get(key).is_some(), "{body}: no {key}");
    }
}

#[test]
fn a_body_that_fits_nothing_hears_of_both_keys() {
    let (status, body) = refusal("/rerank", r#"{"query":"q"}"#);
    assert_eq!(status, 400);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("documents") && message.contains("texts"), "{message}");
}

#[test]
fn invocations_are_told_by_their_body() {
    let rerank = r#"{"query":"q","documents":["a"],"api_version":2}"#;
    for path in ["/invocations", "/"] {
        assert_eq!(answer(path, rerank)["meta"]["api_version"]["version"], "2");
        assert!(answer(path, r#"{"query":"q","texts":["a"]}"#).is_array());
        assert_eq!(answer(path, r#"{"inputs":"a"}"#)[0]["label"], "LABEL_0");
    }
}

#[test]
fn bedrock_keeps_coheres_reply_whatever_else_is_there() {
    let body = r#"{"query":"q","documents":["a"],"api_version":1,"top_k":1}"#;
    assert!(answer("/invocations", body).get("results").is_some());
}

#[test]
fn score_takes_four_spellings_and_three_pairings() {
    for (left, right) in
        [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]
    {
        let body = format!(r#"{{"{left}":"q","{right}":"a"}}"#);
        let one = Inputs::OneQuery { query: "q".into(), documents: vec!["a".into()] };
        assert_eq!(request("/v1/score", &body).inputs, one);
        let body = format!(r#"{{"{left}":["q"],"{right}":["a","b"]}}"#);
        assert_eq!(request("/v1/score", &body).inputs.len(), 2);
        let body = format!(r#"{{"{left}":["q","r"],"{right}":["a",{{"content":"b"}}]}}"#);
        let pairs = Inputs::Pairs(vec![("q".into(), "a".into()), ("r".into(), "b".into())]);
        assert_eq!(request("/v1/score", &body).inputs, pairs);
    }
    let (status, body) = refusal("/score", r#"{"text_1":["q","r"],"text_2":["a"]}"#);
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("1:1, 1:N or N:N"));
}
