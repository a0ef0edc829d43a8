//! The bytes and headers of an answer.

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::error::Error;
use crate::request::RerankResponse;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A finished answer; only connection headers are left to add.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub(super) fn ok(body: &impl Serialize) -> Self {
        Self::json(200, body)
    }

    /// An error: `status` is the dialect's, when to retry is the error's.
    pub(super) fn refusal(status: u16, error: &Error, body: &impl Serialize) -> Self {
        let mut reply = Self::json(status, body);
        if let Some(after) = error.verdict().retry_after {
            // Whole seconds, rounded up; cohere's SDK takes 0 for "no answer".
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            reply.headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if status >= 500 && !error.verdict().retry {
            // OpenAI's clients repeat what is 5xx unless they are told.
            reply.headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if status == 401 {
            // Which scheme is wanted: RFC 9110 asks for it with every 401.
            reply.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        reply
    }

    fn json(status: u16, body: &impl Serialize) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers,
            body: serde_json::to_vec(body).expect("replies are structs of strings and numbers"),
        }
    }
}

/// What a client may read of an error: of our own defects only that there was one.
pub(super) fn public_message(error: &Error) -> String {
    match error {
        Error::Internal(_) => "internal server error".to_owned(),
        error => error.to_string(),
    }
}

/// `usage` as OpenAI's clients know it.
#[derive(Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn of(response: &RerankResponse) -> Self {
        Self { prompt_tokens: response.prompt_tokens, total_tokens: response.prompt_tokens }
    }
}
