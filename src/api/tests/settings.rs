//! Ids, timeouts and what happens to long texts.

use std::time::Duration;

use super::{FALLBACK_ID, refusal, request, send, send_with};
use crate::request::{Overflow, RerankRequest, Side, Truncation};

fn with(fields: &str) -> RerankRequest {
    request("/v1/rerank", &format!(r#"{{"query":"q","documents":["a"],{fields}}}"#))
}

fn with_header(name: &str, value: &str, fields: &str) -> RerankRequest {
    let body = format!(r#"{{"query":"q","documents":["a"]{fields}}}"#);
    send_with("/v1/rerank", &[(name, value)], body.as_bytes()).unwrap().request
}

#[test]
fn the_header_names_the_request_before_the_body_and_the_edge() {
    assert_eq!(with(r#""request_id":"body-1""#).id, "body-1");
    let both = with_header("X-Request-Id", "header-1", r#","request_id":"body-1""#);
    assert_eq!(both.id, "header-1");
    assert_eq!(with(r#""x":1"#).id, FALLBACK_ID);
}

#[test]
fn an_id_unfit_for_a_log_line_is_replaced() {
    let long = "x".repeat(129);
    for id in ["", " ", "a b", "é", long.as_str()] {
        assert_eq!(with(&format!(r#""request_id":"{id}""#)).id, FALLBACK_ID, "{id:?}");
    }
    assert_eq!(with(r#""request_id":"a\nb""#).id, FALLBACK_ID);
    assert_eq!(with(r#""request_id":7"#).id, FALLBACK_ID);
    assert_eq!(with_header("x-request-id", "a b", "").id, FALLBACK_ID);
    assert_eq!(with_header("x-request-id", "a b", r#","request_id":"fit""#).id, "fit");
}

#[test]
fn a_refusal_carries_the_requests_id() {
    let (_, body) = refusal("/v1/rerank", r#"{"query":"q","request_id":"mine"}"#);
    assert_eq!(body["id"], "mine");
}

#[test]
fn timeouts_come_by_header_or_body() {
    assert_eq!(with(r#""timeout":2.5"#).timeout, Some(Duration::from_millis(2500)));
    let both = with_header("X-Request-Timeout-Ms", "250", r#","timeout":9"#);
    assert_eq!(both.timeout, Some(Duration::from_millis(250)));
    assert_eq!(with(r#""timeout":null"#).timeout, None);
    for bad in ["0", "-1", "\"inf\"", "1e300", "[]"] {
        let body = format!(r#"{{"query":"q","documents":["a"],"timeout":{bad}}}"#);
        assert_eq!(send("/rerank", &body).unwrap_err().error.field(), Some("timeout"), "{bad}");
    }
    let body = br#"{"query":"q","documents":["a"]}"#;
    for bad in ["0", "x", "-5"] {
        let rejected = send_with("/rerank", &[("x-request-timeout-ms", bad)], body).unwrap_err();
        assert_eq!(rejected.error.field(), Some("x-request-timeout-ms"), "{bad}");
    }
}

#[test]
fn long_texts_are_cut_unless_the_client_refuses() {
    let refuse = Truncation { overflow: Overflow::Refuse, ..Truncation::default() };
    assert_eq!(with(r#""x":1"#).truncation, Truncation::default());
    for wish in [r#""truncate":false"#, r#""truncation":false"#, r#""truncate":"NONE""#] {
        assert_eq!(with(wish).truncation, refuse, "{wish}");
    }
    for wish in [r#""truncate":true"#, r#""truncate":"END""#, r#""truncate_prompt_tokens":-1"#] {
        assert_eq!(with(wish).truncation, Truncation::default(), "{wish}");
    }
}

#[test]
fn every_dialects_limits_are_heard() {
    let default = Truncation::default();
    let cases = [
        (
            r#""max_tokens_per_doc":100"#,
            Truncation { max_tokens_per_doc: Some(100), ..default.clone() },
        ),
        (r#""max_tokens_per_doc":0"#, default.clone()),
        (
            r#""max_tokens_per_query":9"#,
            Truncation { max_tokens_per_query: Some(9), ..default.clone() },
        ),
        (
            r#""truncate_prompt_tokens":64"#,
            Truncation { max_tokens_per_pair: Some(64), ..default.clone() },
        ),
        (r#""truncation_side":"left""#, Truncation { side: Side::Left, ..default.clone() }),
        (r#""truncation_direction":"Left""#, Truncation { side: Side::Left, ..default.clone() }),
        (r#""truncation_direction":"Right""#, default.clone()),
        (r#""truncate":"START""#, Truncation { side: Side::Left, ..default.clone() }),
        (r#""max_chunks_per_doc":10"#, Truncation { max_chunks_per_doc: 10, ..default.clone() }),
    ];
    for (wish, expected) in cases {
        assert_eq!(with(wish).truncation, expected, "{wish}");
    }
}

#[test]
fn limits_that_mean_nothing_are_refused() {
    for (field, value) in [
        ("max_tokens_per_doc", "-1"),
        ("max_tokens_per_query", "-1"),
        ("truncate_prompt_tokens", "-2"),
        ("truncate_prompt_tokens", "0"),
        ("truncation_side", "\"up\""),
        ("truncation_direction", "3"),
        ("truncate", "\"MIDDLE\""),
        ("truncate", "3"),
        ("max_chunks_per_doc", "0"),
        ("max_chunks_per_doc", "10000"),
    ] {
        let body = format!(r#"{{"query":"q","documents":["a"],"{field}":{value}}}"#);
        let error = send("/rerank", &body).unwrap_err().error;
        assert_eq!(error.field(), Some(field), "{body}");
    }
}

#[test]
fn documents_times_chunks_is_bounded_in_coheres_words() {
    let documents = vec!["\"a\""; 100].join(",");
    let body = |chunks: usize| {
        format!(r#"{{"query":"q","documents":[{documents}],"max_chunks_per_doc":{chunks}}}"#)
    };
    assert!(send("/v1/rerank", &body(99)).is_ok());
    let (status, reply) = refusal("/v1/rerank", &body(100));
    assert_eq!(status, 400);
    assert_eq!(
        reply["message"],
        "invalid request: number of total max chunks (number of documents * max chunks per doc) \
         must be less than 10000"
    );
}

#[test]
fn pinecone_hides_its_truncation_in_parameters() {
    let body = br#"{"query":"q","documents":["a"],"parameters":{"truncate":"NONE"}}"#;
    let parsed = send_with("/rerank", &[("api-key", "k")], body).unwrap();
    assert_eq!(parsed.request.truncation.overflow, Overflow::Refuse);
}

#[test]
fn an_empty_model_name_is_the_default_model() {
    assert_eq!(with(r#""model":"""#).model, None);
    assert_eq!(with(r#""model":"m""#).model.as_deref(), Some("m"));
}

#[test]
fn no_store_keeps_a_request_out_of_the_cache() {
    assert!(with_header("x-other", "no-store", "").may_cache);
    for (value, expected) in
        [("no-store", false), ("max-age=0, No-Store", false), ("no-cache", true), ("", true)]
    {
        assert_eq!(with_header("cache-control", value, "").may_cache, expected, "{value}");
    }
}

#[test]
fn a_priority_out_of_coheres_range_is_as_urgent_or_as_patient_as_can_be() {
    assert_eq!(with(r#""x":1"#).priority, 0);
    assert_eq!(with(r#""priority":null"#).priority, 0);
    for (asked, priority) in [(0, 0), (7, 7), (999, 999), (-3, 0), (5000, 999)] {
        assert_eq!(with(&format!(r#""priority":{asked}"#)).priority, priority);
    }
    let (status, body) =
        refusal("/v2/rerank", r#"{"query":"q","documents":["a"],"priority":"high"}"#);
    assert_eq!((status, &body["error"]["param"]), (400, &"priority".into()));
}
