//! What the side calls say, by the keys their clients read.

use std::time::Duration;

use serde_json::json;

use super::super::info::{self, ModelFacts, ServerFacts, VectorFacts};
use super::json as body_of;
use crate::error::Error;

fn facts() -> ModelFacts {
    ModelFacts {
        name: "org/m".into(),
        aliases: vec!["rerank-v3.5".into()],
        architecture: "BertForSequenceClassification".into(),
        labels: vec!["LABEL_0".into()],
        vectors: None,
        max_length: 512,
        dtype: "float32".into(),
        revision: None,
        created_unix_seconds: 1_790_000_000,
    }
}

fn server() -> ServerFacts {
    ServerFacts {
        version: "0.1.0".into(),
        max_documents: 10_000,
        max_body_bytes: 64 << 20,
        max_batch_tokens: 16_384,
        max_concurrent_requests: 512,
        tokenization_workers: 2,
        started_unix_seconds: 1_790_000_000,
    }
}

#[test]
fn info_has_teis_keys_and_the_real_caps() {
    let body = body_of(&info::info(&facts(), &server()));
    let reranker = json!({"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}});
    assert_eq!(body["model_type"], reranker);
    assert_eq!(body["max_input_length"], 512);
    assert_eq!(body["max_client_batch_size"], 10_000);
    for key in ["model_sha", "max_batch_requests", "sha", "docker_label"] {
        assert!(body[key].is_null() && body.get(key).is_some(), "{key}");
    }
}

#[test]
fn a_head_with_many_labels_is_a_classifier() {
    let model = ModelFacts { labels: vec!["neg".into(), "pos".into()], ..facts() };
    let body = body_of(&info::info(&model, &server()));
    assert_eq!(body["model_type"]["classifier"]["id2label"], json!({"0": "neg", "1": "pos"}));
}

#[test]
fn an_encoder_says_that_it_embeds() {
    let model = ModelFacts {
        labels: Vec::new(),
        vectors: Some(VectorFacts { pooling: "mean", dimensions: 384 }),
        ..facts()
    };
    let body = body_of(&info::info(&model, &server()));
    assert_eq!(body["model_type"], json!({"embedding": {"pooling": "mean"}}));
    let body = body_of(&info::model(&[&model], "org/m").unwrap());
    assert_eq!(body["model_type"], "embedding");
    assert_eq!(body["endpoints"], json!(["embed", "rerank"]));
}

#[test]
fn models_are_listed_for_openai_and_cohere_at_once() {
    let body = body_of(&info::models(&[&facts()]));
    assert_eq!(body["object"], "list");
    let ids: Vec<_> = body["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["org/m", "rerank-v3.5"]);
    assert_eq!(body["data"][1]["root"], "org/m");
    assert_eq!(body["data"][0]["max_model_len"], 512);
    assert_eq!(body["models"][0]["endpoints"], json!(["rerank"]));
    assert_eq!(body["models"][0]["context_length"], 512);
}

#[test]
fn a_model_is_found_by_name_and_by_alias() {
    let facts = facts();
    let models = [&facts];
    let body = body_of(&info::model(&models, "rerank-v3.5").unwrap());
    assert_eq!(body["id"], "rerank-v3.5");
    assert_eq!(body["name"], "rerank-v3.5");
    assert_eq!(body["model_type"], "rerank", "Dify takes it for a reranker by this");
    assert!(info::model(&models, "other").is_none());
}

#[test]
fn health_is_200_or_503() {
    assert_eq!(info::healthy().status, 200);
    let error =
        Error::Unavailable { reason: "loading".into(), retry_after: Duration::from_secs(3) };
    let reply = info::unhealthy(&error);
    assert_eq!(reply.status, 503);
    assert_eq!(reply.headers["retry-after"], "3");
    assert_eq!(body_of(&reply)["error_type"], "Unhealthy");
}

#[test]
fn small_replies_say_one_thing() {
    assert_eq!(body_of(&info::version(&server())), json!({"version": "0.1.0"}));
    assert_eq!(body_of(&info::api_key(true)), json!({"valid": true}));
}
