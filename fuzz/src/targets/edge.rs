//! Bodies, paths and headers of requests in every dialect.

use http::{HeaderMap, HeaderName, HeaderValue};
use rerankd::api::{Call, Incoming, Limits, Parsed, Rejected, credentials, parse};
use rerankd::clock;
use rerankd::request::{
    EmbedRequest, EmbedResponse, RerankRequest, RerankResponse, Score, Scored, Stamps,
};
use serde_json::Value;

/// A first line of a path and headers, `/v2/rerank<TAB>api-key: k`, and below it the body. Whatever comes in, an
/// answer goes out: scores as JSON, or an error with a status and words that the dialect's clients can read.
pub fn dialects(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let body = bytes.get(end + 1..).unwrap_or_default();
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut parts = head.split('\t');
    let path = parts.next().unwrap_or_default();
    let headers: HeaderMap = parts.filter_map(header).collect();
    // None of them is a secret here; reading them is the point.
    let _ = credentials(&headers).count();
    let incoming = Incoming { path, headers: &headers, body, fallback_id: "id", unix_seconds: 1 };
    for prefers_vectors in [false, true] {
        answer(&incoming, &Limits { max_documents: 100, prefers_vectors });
    }
}

fn answer(incoming: &Incoming<'_>, limits: &Limits) {
    let reply = match parse(incoming, limits) {
        Ok(Parsed { call, .. }) => {
            let reply = match call {
                Call::Rerank(request, dialect) => {
                    assert!(!request.inputs.is_empty());
                    dialect.reply(&scored(&request))
                }
                Call::Embed(request, dialect) => {
                    assert!(!request.inputs.is_empty());
                    dialect.reply(&embedded(&request))
                }
            };
            assert_eq!(reply.status, 200);
            reply
        }
        Err(Rejected { error, errors, request_id }) => {
            let reply = errors.write(&error, &request_id);
            let is_ours = reply.status.is_client_error() || reply.status.as_u16() == 501;
            assert!(is_ours, "{error} is answered {}", reply.status);
            reply
        }
    };
    let value: Value = serde_json::from_slice(&reply.body).expect("answers are JSON");
    assert!(value.is_object() || value.is_array());
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
}

/// Some score for every text.
fn scored(request: &RerankRequest) -> RerankResponse {
    let score = Score { raw: -1.5, activated: 0.2, probability: 0.2 };
    let result = Scored { score, tokens: 9, truncated_tokens: 0, chunks: 1 };
    let results = vec![result; request.inputs.len()];
    RerankResponse {
        id: request.id.clone(),
        model: "model".to_owned(),
        label_logits: vec![-1.5; results.len()],
        results,
        labels: vec!["LABEL_0".to_owned()],
        prompt_tokens: 9,
        num_chars: request.inputs.num_chars(),
        num_precomputed: 0,
        is_degraded: false,
        stamps: Stamps::at(clock::now()),
    }
}

/// Some vector for every text.
fn embedded(request: &EmbedRequest) -> EmbedResponse {
    let (num_texts, dimensions) = (request.inputs.len(), 8);
    EmbedResponse {
        id: request.id.clone(),
        model: "model".to_owned(),
        vectors: vec![0.25; num_texts * dimensions],
        dimensions,
        num_vectors: vec![1; num_texts],
        truncated_tokens: vec![0; num_texts],
        prompt_tokens: 9,
        num_chars: request.inputs.num_chars(),
        stamps: Stamps::at(clock::now()),
    }
}
