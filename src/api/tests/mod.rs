//! The promises of the edge, by what a client sends and what it reads back.

mod embed;
mod errors;
mod forms;
mod fuzz;
mod info;
mod parsing;
mod routes;
mod settings;
mod vectors;

use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{Call, Dialect, Incoming, Limits, Parsed, Rejected, Reply, parse};
use crate::request::{Inputs, RerankRequest, RerankResponse, Score, Scored, Stamps};

const FALLBACK_ID: &str = "made-at-the-edge";
const NOW: u64 = 1_790_000_000;

/// A rerank request as it was read.
#[derive(Debug)]
struct Sent {
    request: RerankRequest,
    dialect: Box<dyn Dialect>,
}

/// A POST with the headers given as `(name, value)`.
fn send_with(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Sent, Rejected> {
    match parse_with(path, headers, body)?.call {
        Call::Rerank(request, dialect) => Ok(Sent { request, dialect }),
        Call::Embed(..) => panic!("{path} was taken for a request for vectors"),
    }
}

fn parse_with(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Parsed, Rejected> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let incoming =
        Incoming { path, headers: &headers, body, fallback_id: FALLBACK_ID, unix_seconds: NOW };
    parse(&incoming, &Limits::default())
}

fn send(path: &str, body: &str) -> Result<Sent, Rejected> {
    send_with(path, &[], body.as_bytes())
}

/// The request that a body becomes.
fn request(path: &str, body: &str) -> RerankRequest {
    send(path, body).unwrap_or_else(|r| panic!("{body}: {}", r.error)).request
}

/// The reply a body gets from the fake model.
fn answer(path: &str, body: &str) -> Value {
    let parsed = send(path, body).unwrap_or_else(|r| panic!("{body}: {}", r.error));
    let reply = parsed.dialect.reply(&fake(&parsed.request));
    assert_eq!(reply.status, 200);
    json(&reply)
}

/// The status and body of a refusal.
fn refusal(path: &str, body: &str) -> (u16, Value) {
    let parsed = parse_with(path, &[], body.as_bytes());
    let rejected = parsed.err().unwrap_or_else(|| panic!("accepted: {body}"));
    let reply = rejected.errors.write(&rejected.error, &rejected.request_id);
    (reply.status.as_u16(), json(&reply))
}

fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

fn documents(request: &RerankRequest) -> Vec<&str> {
    match &request.inputs {
        Inputs::OneQuery { documents, .. } => documents.iter().map(String::as_str).collect(),
        other => panic!("not one query: {other:?}"),
    }
}

/// The indexes of a list of results, in the order shown.
fn indexes(results: &Value) -> Vec<u64> {
    results.as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap()).collect()
}

/// A model that finds "b" likely and every other text not; its checkpoint asks for no activation.
fn fake(request: &RerankRequest) -> RerankResponse {
    let texts: Vec<&str> = match &request.inputs {
        Inputs::OneQuery { documents, .. } => documents.iter().map(String::as_str).collect(),
        Inputs::Pairs(pairs) => pairs.iter().map(|(_, second)| second.as_str()).collect(),
        Inputs::Texts(texts) | Inputs::Documents(texts) => {
            texts.iter().map(String::as_str).collect()
        }
        Inputs::Tokens(_) => panic!("nothing ranks by ids"),
    };
    let results: Vec<Scored> = texts.iter().map(|text| scored(text)).collect();
    RerankResponse {
        id: request.id.clone(),
        model: "m".to_owned(),
        label_logits: results.iter().map(|scored| scored.score.raw).collect(),
        results,
        labels: vec!["LABEL_0".to_owned()],
        prompt_tokens: 30,
        is_degraded: false,
        num_chars: 8,
        num_precomputed: 0,
        stamps: Stamps::at(now()),
    }
}

fn scored(text: &str) -> Scored {
    let (raw, probability) = if text == "b" { (2.5, 0.9) } else { (-2.5, 0.1) };
    let score = Score { raw, activated: raw, probability };
    Scored { score, tokens: 15, truncated_tokens: 0, chunks: 1 }
}

#[expect(clippy::disallowed_methods, reason = "the stamps of a fake response: no test reads them")]
fn now() -> Instant {
    Instant::now()
}
