//! What the clients of every dialect rely on: one test a vector.

use serde_json::{Value, json};

use super::{answer, fake, indexes, json as body_of, refusal, scored, send, send_with};
use crate::request::RerankResponse;

const BASIC: &str = r#"{"model":"m","query":"q","documents":["a","b"]}"#;

#[test]
fn cohere_v2_is_sorted_and_omits_documents() {
    let reply = answer("/v2/rerank", BASIC);
    assert_eq!(
        reply,
        json!({
            "id": "made-at-the-edge", "object": "list", "model": "m",
            "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
            "usage": {"prompt_tokens": 30, "total_tokens": 30},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": 30, "output_tokens": 0},
            },
        })
    );
}

#[test]
fn scores_are_written_as_short_f32() {
    let parsed = send("/v2/rerank", BASIC).unwrap();
    let reply = parsed.dialect.reply(&fake(&parsed.request));
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains(r#""relevance_score":0.9}"#), "{text}");
    assert_eq!(reply.headers["content-type"], "application/json");
}

#[test]
fn cohere_v1_returns_documents_as_objects_when_asked() {
    let body = r#"{"query":"q","documents":["a","b"],"return_documents":true}"#;
    let reply = answer("/v1/rerank", body);
    assert_eq!(reply["results"][0]["document"], json!({"text": "b"}));
    assert_eq!(reply["results"][1]["document"], json!({"text": "a"}));
    assert_eq!(reply["meta"]["api_version"]["version"], "1");
}

#[test]
fn null_is_absent_for_every_optional() {
    let body = r#"{"model":null,"query":"q","documents":["a","b"],"top_n":null,
        "max_tokens_per_doc":null,"return_documents":null,"rank_fields":null,"priority":null,
        "max_chunks_per_doc":null,"truncate_prompt_tokens":null,"truncation_side":null,
        "use_activation":null,"raw_scores":null,"request_id":null,"timeout":null,"truncate":null}"#;
    assert_eq!(answer("/v2/rerank", body), answer("/v2/rerank", BASIC));
}

#[test]
fn infinity_client_gets_the_only_object_it_accepts() {
    let infinity = r#"{"query":"q","documents":["a","b"],"return_documents":false,
        "raw_scores":false,"model":"m"}"#;
    assert_eq!(answer("/rerank", infinity)["object"], "rerank");
    assert_eq!(answer("/rerank", BASIC)["object"], "list");
}

#[test]
fn top_n_cuts_and_clamps() {
    for (top_n, expected) in [("99", 2), ("1", 1), ("0", 2), ("1.0", 1), ("\"1\"", 1)] {
        let body = format!(r#"{{"query":"q","documents":["a","b"],"top_n":{top_n}}}"#);
        let reply = answer("/v1/rerank", &body);
        assert_eq!(reply["results"].as_array().unwrap().len(), expected, "top_n {top_n}");
        assert_eq!(reply["results"][0]["index"], 1);
    }
}

#[test]
fn the_callers_own_keys_are_echoed() {
    let body =
        r#"{"query":"q","documents":[{"text":"a","id":7,"x":1e2},"b"],"return_documents":true}"#;
    let reply = answer("/v1/rerank", body);
    assert_eq!(reply["results"][1]["document"], json!({"text": "a", "id": 7, "x": 1e2}));
    assert_eq!(reply["results"][0]["document"], json!({"text": "b"}));
}

#[test]
fn rank_fields_replace_the_text_key() {
    let body = r#"{"query":"q","documents":[{"title":"b"},{"title":"a"}],"rank_fields":["title"],
        "return_documents":true}"#;
    let reply = answer("/v1/rerank", body);
    assert_eq!(reply["results"][0]["document"], json!({"title": "b"}));
    assert_eq!(reply["results"][0]["relevance_score"], 0.9);
}

#[test]
fn an_empty_list_of_documents_is_refused_in_coheres_words() {
    let (status, body) = refusal("/v1/rerank", r#"{"query":"q","documents":[]}"#);
    let message = "invalid request: list of documents must not be empty";
    assert_eq!(status, 400);
    assert_eq!(
        body,
        json!({
            "id": "made-at-the-edge", "message": message, "detail": message,
            "error": {
                "message": message, "type": "BadRequestError", "param": "documents", "code": 400,
            },
        })
    );
}

#[test]
fn empty_and_repeated_documents_keep_their_places() {
    let reply = answer("/v2/rerank", r#"{"query":"q","documents":["a","","a"]}"#);
    assert_eq!(indexes(&reply["results"]), [0, 1, 2], "equal scores stay in request order");
}

#[test]
fn tei_gives_every_text_whatever_top_n_says() {
    let reply = answer("/rerank", r#"{"query":"q","texts":["a","b"],"top_n":1}"#);
    assert_eq!(reply, json!([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.1}]));
}

#[test]
fn tei_gives_texts_and_logits_when_asked() {
    let body = r#"{"query":"q","texts":["a","b"],"return_text":true,"raw_scores":true}"#;
    assert_eq!(
        answer("/rerank", body),
        json!([{"index": 1, "text": "b", "score": 2.5}, {"index": 0, "text": "a", "score": -2.5}])
    );
}

#[test]
fn weaviate_gets_the_checkpoints_scores_in_request_order() {
    let body = r#"{"query":"q","documents":["a","b"],"property":""}"#;
    assert_eq!(
        answer("/rerank", body),
        json!({
            "query": "q",
            "scores": [{"document": "a", "score": -2.5}, {"document": "b", "score": 2.5}],
            "property": null, "score": null,
        })
    );
    let legacy = answer("/rerank", r#"{"query":"q","property":"b"}"#);
    assert_eq!(legacy, json!({"query": "q", "property": "b", "score": 2.5}));
}

#[test]
fn voyage_reads_data() {
    let body = r#"{"query":"q","documents":["a","b"],"model":"m","top_k":1,"truncation":true,
        "return_documents":true}"#;
    assert_eq!(
        answer("/v1/rerank", body),
        json!({
            "object": "list", "model": "m", "usage": {"total_tokens": 30},
            "data": [{"index": 1, "relevance_score": 0.9, "document": "b"}],
        })
    );
}

#[test]
fn nim_gets_logits() {
    let body = r#"{"model":"m","query":{"text":"q"},"passages":[{"text":"a"},{"text":"b"}]}"#;
    for path in ["/v1/ranking", "/v1/retrieval/nvidia/reranking", "/v1/retrieval/a/b/reranking"] {
        let reply = answer(path, body);
        let rankings = json!([{"index": 1, "logit": 2.5}, {"index": 0, "logit": -2.5}]);
        assert_eq!(reply["rankings"], rankings);
    }
}

#[test]
fn mixedbread_gets_its_required_keys() {
    let body = r#"{"query":"q","input":["a",{"text":"b","id":1}],"return_input":true,"top_k":1}"#;
    let reply = answer("/v1/reranking", body);
    assert_eq!(
        reply["data"],
        json!([{"index": 1, "score": 0.9, "input": {"text": "b", "id": 1}, "object": "rank_result"}])
    );
    assert_eq!((&reply["top_k"], &reply["return_input"]), (&json!(1), &json!(true)));
    let bare = answer("/v1/reranking", r#"{"query":"q","input":["a","b"]}"#);
    assert_eq!(bare["data"][0]["input"], Value::Null);
}

#[test]
fn zeroentropy_gets_its_six_keys() {
    let reply = answer("/v1/models/rerank", BASIC);
    assert_eq!(
        reply["results"],
        json!([
            {"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1},
        ])
    );
    for key in
        ["actual_latency_mode", "e2e_latency", "inference_latency", "total_bytes", "total_tokens"]
    {
        assert!(reply.get(key).is_some(), "{key}");
    }
}

#[test]
fn vllm_score_answers_in_request_order() {
    let reply = answer("/score", r#"{"text_1":"q","text_2":["a","b"]}"#);
    assert_eq!(
        reply,
        json!({
            "id": "made-at-the-edge", "object": "list", "created": 1_790_000_000, "model": "m",
            "data": [
                {"index": 0, "object": "score", "score": -2.5},
                {"index": 1, "object": "score", "score": 2.5},
            ],
            "usage": {"prompt_tokens": 30, "total_tokens": 30},
        })
    );
}

#[test]
fn pinecone_is_told_by_its_header() {
    let body = r#"{"model":"m","query":"q","documents":[{"text":"a","id":"1"},{"text":"b"}],
        "rank_fields":["text"],"return_documents":true,"top_n":2}"#;
    for headers in [[("x-pinecone-api-version", "2026-07")], [("api-key", "k")]] {
        let parsed = send_with("/rerank", &headers, body.as_bytes()).unwrap();
        let reply = body_of(&parsed.dialect.reply(&fake(&parsed.request)));
        assert_eq!(reply["usage"], json!({"rerank_units": 1}));
        assert_eq!(
            reply["data"][1],
            json!({"index": 0, "score": 0.1, "document": {"text": "a", "id": "1"}})
        );
    }
}

#[test]
fn booleans_in_quotes_count() {
    let body = r#"{"query":"q","documents":["a"],"return_documents":"true","kwargs":"{}"}"#;
    assert_eq!(answer("/v1/rerank", body)["results"][0]["document"], json!({"text": "a"}));
}

#[test]
fn texts_that_are_no_list_do_not_make_a_tei_body() {
    let reply = answer("/v1/rerank", r#"{"query":"q","texts":true,"documents":["a"]}"#);
    assert_eq!(indexes(&reply["results"]), [0]);
}

#[test]
fn raw_scores_are_given_only_on_request() {
    for wish in [r#""raw_scores":true"#, r#""use_activation":false"#] {
        let body = format!(r#"{{"query":"q","documents":["a","b"],{wish}}}"#);
        assert_eq!(answer("/rerank", &body)["results"][0]["relevance_score"], 2.5);
    }
}

#[test]
fn a_cut_document_is_told() {
    let parsed = send("/v2/rerank", BASIC).unwrap();
    let mut response: RerankResponse = fake(&parsed.request);
    response.results[0].truncated_tokens = 7;
    response.results[1].chunks = 3;
    let reply = body_of(&parsed.dialect.reply(&response));
    assert_eq!(
        reply["results"][0],
        json!({"index": 1, "relevance_score": 0.9, "tokens": 15, "truncated_tokens": 0, "chunks": 3})
    );
    assert_eq!(reply["meta"]["warnings"].as_array().unwrap().len(), 1);
    let warning = reply["meta"]["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("1 of 2 documents did not fit: 7 tokens were cut"), "{warning}");
}

#[test]
fn search_units_count_hundreds_of_documents() {
    for (num_documents, units) in [(1, 1), (100, 1), (101, 2), (1000, 10)] {
        let parsed = send("/v2/rerank", BASIC).unwrap();
        let mut response = fake(&parsed.request);
        response.results = vec![scored("a"); num_documents];
        let reply = body_of(&parsed.dialect.reply(&response));
        assert_eq!(reply["meta"]["billed_units"]["search_units"], units);
    }
}
