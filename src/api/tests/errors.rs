//! Every dialect reads its errors in its own shape.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use super::super::{ErrorDialect, errors_at};
use super::{json as body_of, parse_with, refusal, send, send_with};
use crate::error::Error;

fn every_error() -> Vec<Error> {
    let retry_after = Duration::from_millis(1200);
    vec![
        Error::Syntax("s".into()),
        Error::invalid("f", "m"),
        Error::TooLong { field: "documents[0]".into(), message: "m".into() },
        Error::TooMany { field: "documents".into(), message: "m".into() },
        Error::BodyTooLarge { limit_bytes: 9 },
        Error::MediaType("text/html".into()),
        Error::UnknownModel { name: "x".into(), served: "m".into() },
        Error::NotSupported("m".into()),
        Error::NoKey,
        Error::WrongKey,
        Error::Forbidden("m".into()),
        Error::RateLimited { limit: "tokens per second", retry_after },
        Error::BodiesFull { retry_after },
        Error::NoRoute("/x".into()),
        Error::Method { method: "PUT".into(), path: "/rerank".into() },
        Error::SlowBody,
        Error::Overloaded { backlog_tokens: 7, retry_after },
        Error::DeadlineExceeded,
        Error::Cancelled,
        Error::Unavailable { reason: "draining".into(), retry_after },
        Error::Internal("secret".into()),
    ]
}

/// A dialect by a body that only it takes.
fn dialect_of(path: &str, headers: &[(&str, &str)], body: &str) -> ErrorDialect {
    parse_with(path, headers, body.as_bytes()).unwrap().errors
}

fn every_dialect() -> Vec<(&'static str, ErrorDialect)> {
    let pinecone = [("x-pinecone-api-version", "1")];
    let basic = r#"{"query":"q","documents":["a"]}"#;
    vec![
        ("unified", dialect_of("/rerank", &[], basic)),
        ("score", dialect_of("/score", &[], r#"{"text_1":"q","text_2":"a"}"#)),
        ("tei", dialect_of("/rerank", &[], r#"{"query":"q","texts":["a"]}"#)),
        ("predict", dialect_of("/predict", &[], r#"{"inputs":"a"}"#)),
        ("voyage", dialect_of("/rerank", &[], r#"{"query":"q","documents":["a"],"top_k":1}"#)),
        (
            "weaviate",
            dialect_of("/rerank", &[], r#"{"query":"q","documents":["a"],"property":""}"#),
        ),
        ("nim", dialect_of("/rerank", &[], r#"{"query":"q","passages":["a"]}"#)),
        ("pinecone", dialect_of("/rerank", &pinecone, basic)),
        ("mixedbread", dialect_of("/rerank", &[], r#"{"query":"q","input":["a"]}"#)),
        ("zeroentropy", dialect_of("/v1/models/rerank", &[], basic)),
        ("openai", dialect_of("/v1/embeddings", &[], r#"{"input":"a"}"#)),
        ("cohere", dialect_of("/v2/embed", &[], r#"{"texts":["a"]}"#)),
        ("tei", dialect_of("/embed", &[], r#"{"inputs":"a"}"#)),
    ]
}

/// The message, from where the dialect's clients read it.
fn message<'a>(dialect: &str, body: &'a Value) -> Option<&'a str> {
    match dialect {
        "tei" | "predict" | "weaviate" => body["error"].as_str(),
        "voyage" | "nim" => body["detail"].as_str(),
        "pinecone" => body["error"]["message"].as_str(),
        _ => {
            let said = body["message"].as_str();
            let everywhere = [&body["detail"], &body["error"]["message"]];
            said.filter(|_| everywhere.iter().all(|other| other.as_str() == said))
        }
    }
}

#[test]
fn every_error_is_written_in_every_dialects_form() {
    for (name, dialect) in every_dialect() {
        for error in every_error() {
            let reply = dialect.write(&error, "id-1");
            let body = body_of(&reply);
            let said = message(name, &body).unwrap_or_else(|| panic!("{name}: {error}: {body}"));
            assert!(!said.is_empty());
            assert!(!said.contains("secret"), "{name} leaks the inside of an error");
            assert!(reply.status.as_u16() >= 400);
            if name != "tei" && name != "predict" {
                assert_eq!(reply.status, error.verdict().status, "{name}: {error}");
            }
        }
    }
}

#[test]
fn every_refusal_that_may_be_retried_later_says_when() {
    for (name, dialect) in every_dialect() {
        for error in every_error() {
            let reply = dialect.write(&error, "id-1");
            let said = reply.headers.get("retry-after").map(|v| v.to_str().unwrap());
            let expected = error.verdict().retry_after.map(|_| "2");
            assert_eq!(said, expected, "{name}: {error}");
        }
    }
    let soon = Error::Overloaded { backlog_tokens: 1, retry_after: Duration::ZERO };
    let reply = errors_at("/rerank", &HeaderMap::new()).write(&soon, "id");
    assert_eq!(reply.headers["retry-after"], "1", "0 would be read as no answer");
}

#[test]
fn an_overloaded_server_says_so_in_teis_words() {
    let (_, tei) = every_dialect().swap_remove(2);
    let error = Error::Overloaded { backlog_tokens: 1, retry_after: Duration::from_secs(1) };
    let reply = tei.write(&error, "id");
    assert_eq!(reply.status, 429);
    assert_eq!(
        body_of(&reply),
        json!({"error": "Model is overloaded", "error_type": "Overloaded"})
    );
}

#[test]
fn tei_has_its_own_statuses() {
    let (_, tei) = every_dialect().swap_remove(2);
    for (error, status, error_type) in [
        (Error::invalid("query", "m"), 422, "Validation"),
        (Error::TooLong { field: "texts".into(), message: "m".into() }, 422, "Validation"),
        (Error::NotSupported("model is not a re-ranker model".into()), 424, "Backend"),
        (Error::Internal("x".into()), 424, "Backend"),
        (Error::Syntax("x".into()), 400, "Validation"),
    ] {
        let reply = tei.write(&error, "id");
        assert_eq!(reply.status, status, "{error}");
        assert_eq!(body_of(&reply)["error_type"], error_type, "{error}");
    }
    let (status, body) = refusal("/rerank", r#"{"query":"q","texts":[]}"#);
    assert_eq!(status, 400);
    assert_eq!(body, json!({"error": "`texts` cannot be empty", "error_type": "Empty"}));
    let (status, body) = refusal("/predict", r#"{"inputs":[]}"#);
    assert_eq!((status, &body["error_type"]), (400, &json!("Empty")));
    let texts = vec!["\"a\""; 10_001].join(",");
    let (status, body) = refusal("/rerank", &format!(r#"{{"query":"q","texts":[{texts}]}}"#));
    assert_eq!((status, &body["error_type"]), (422, &json!("Validation")));
}

#[test]
fn a_body_is_refused_in_the_dialect_it_was_meant_in() {
    let (_, voyage) = refusal("/v1/rerank", r#"{"query":"q","documents":[],"top_k":1}"#);
    assert_eq!(voyage, json!({"detail": "invalid request: list of documents must not be empty"}));
    let (_, weaviate) = refusal("/rerank", r#"{"query":"q","documents":[],"property":""}"#);
    assert!(weaviate["error"].is_string());
    let (_, nim) = refusal("/v1/ranking", r#"{"query":"q"}"#);
    assert!(nim["detail"].as_str().unwrap().contains("passages"));
    let (_, broken) = refusal("/predict", "{");
    assert!(broken["error"].is_string());
}

#[test]
fn errors_before_the_body_follow_the_path() {
    let headers = HeaderMap::new();
    let error = Error::BodyTooLarge { limit_bytes: 1 };
    let shape = |path| body_of(&errors_at(path, &headers).write(&error, "id"));
    assert!(shape("/v2/rerank")["error"]["message"].is_string());
    assert!(shape("/predict")["error"].is_string());
    assert!(shape("/v1/ranking")["detail"].is_string());
    assert!(shape("/v1/embeddings")["error"]["message"].is_string());
    assert!(shape("/v2/embed")["message"].is_string());
    assert!(shape("/embed")["error"].is_string());
    assert!(shape("/nowhere")["message"].is_string());
}

#[test]
fn only_a_declared_foreign_media_type_is_refused() {
    let body = br#"{"query":"q","documents":["a"]}"#;
    for media in [
        "application/json",
        "application/json; charset=utf-8",
        "Text/JSON",
        "application/x+json",
        "",
    ] {
        assert!(send_with("/rerank", &[("content-type", media)], body).is_ok(), "{media}");
    }
    assert!(send("/rerank", std::str::from_utf8(body).unwrap()).is_ok());
    for media in ["text/html", "application/x-www-form-urlencoded"] {
        let rejected = send_with("/rerank", &[("content-type", media)], body).unwrap_err();
        assert_eq!(rejected.error, Error::MediaType(media.to_owned()));
    }
}
