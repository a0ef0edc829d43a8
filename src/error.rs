//! The error kinds of a request, and the only table from a kind to what a client should do about it.
//!
//! Dialects write these in their own bodies (`api`); nothing outside this file chooses a status.

use std::time::Duration;

/// Why a request got no scores.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The body is not the JSON it should be: syntax, or bytes that are not UTF-8.
    #[error("invalid json syntax: {0}")]
    Syntax(String),
    /// A field has the wrong type, shape or value. `field` is its path as the client spelled it.
    #[error("invalid request: {message}")]
    Invalid { field: String, message: String },
    /// A text does not fit the model and the client asked for no truncation.
    #[error("{message}")]
    TooLong { field: String, message: String },
    /// More documents or tokens in one request than the server takes.
    #[error("invalid request: {message}")]
    TooMany { field: String, message: String },
    #[error("the body has more than {limit_bytes} bytes, the limit of this server")]
    BodyTooLarge { limit_bytes: usize },
    #[error("Unsupported Media Type: send application/json, not '{0}'")]
    MediaType(String),
    #[error("content-encoding: '{0}' is not unpacked here; send gzip or identity")]
    ContentEncoding(String),
    #[error(
        "model '{name}' not found, make sure the correct model ID was used and that you have \
         access to the model; this server has: {served}"
    )]
    UnknownModel { name: String, served: String },
    /// The route exists in a dialect, but the loaded model cannot serve it.
    #[error("{0}")]
    NotSupported(String),
    /// Cohere's words, as its clients log them.
    #[error("no api key supplied")]
    NoKey,
    /// Unknown or revoked: which of the two is nobody's business.
    #[error("invalid api token")]
    WrongKey,
    /// The key is known, but its tenant may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// What the operator asks for is at odds with how the server stands.
    #[error("{0}")]
    Conflict(String),
    /// A model that an operator asked for cannot be served; what was served still is.
    #[error("the model was not loaded: {0}")]
    ModelRefused(String),
    #[error("404 page not found: no route '{0}'")]
    NoRoute(String),
    #[error("method {method} is not allowed on '{path}'")]
    Method { method: String, path: String },
    /// The client was slower than the read timeout.
    #[error("the request body did not arrive in time")]
    SlowBody,
    /// The backlog is full, or too long for the deadline. `retry_after` is the time in which the device, at its
    /// measured speed, makes room for the request.
    #[error("the server is overloaded: {backlog_tokens} tokens are waiting")]
    Overloaded { backlog_tokens: usize, retry_after: Duration },
    /// The tenant has used up what it may use for now; `limit` says of what.
    #[error("the limit of this API key is reached: {limit}")]
    RateLimited { limit: &'static str, retry_after: Duration },
    /// Bodies that are being read or worked on fill the memory set aside for them.
    #[error("the server is overloaded: it holds as many request bodies as it can")]
    BodiesFull { retry_after: Duration },
    /// The deadline passed, or could not have been met.
    #[error("the deadline of the request passed before its scores were ready")]
    DeadlineExceeded,
    /// The client went away.
    #[error("request cancelled")]
    Cancelled,
    /// Not serving now: starting, draining, or a worker is being replaced.
    #[error("service unavailable: {reason}")]
    Unavailable { reason: String, retry_after: Duration },
    /// A defect of ours. The message is for the log; clients get it without details.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Client,
    Server,
}

/// What a client should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub status: u16,
    pub fault: Fault,
    /// Whether the same request may succeed later. Then `retry_after` says when.
    pub retry: bool,
    pub retry_after: Option<Duration>,
    /// A short, stable name for metrics and logs.
    pub kind: &'static str,
}

impl Error {
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }

    /// The table.
    pub fn verdict(&self) -> Verdict {
        use Fault::{Client, Server};
        let (status, fault, retry, retry_after, kind) = match self {
            Self::Syntax(_) => (400, Client, false, None, "syntax"),
            Self::Invalid { .. } => (400, Client, false, None, "invalid"),
            Self::TooLong { .. } => (400, Client, false, None, "too_long"),
            Self::TooMany { .. } => (400, Client, false, None, "too_many"),
            Self::BodyTooLarge { .. } => (413, Client, false, None, "body_too_large"),
            Self::MediaType(_) => (415, Client, false, None, "media_type"),
            Self::ContentEncoding(_) => (415, Client, false, None, "content_encoding"),
            Self::UnknownModel { .. } => (404, Client, false, None, "unknown_model"),
            Self::NotSupported(_) => (501, Client, false, None, "not_supported"),
            Self::NoKey => (401, Client, false, None, "no_key"),
            Self::WrongKey => (401, Client, false, None, "wrong_key"),
            Self::Forbidden(_) => (403, Client, false, None, "forbidden"),
            Self::Conflict(_) => (409, Client, false, None, "conflict"),
            Self::ModelRefused(_) => (422, Client, false, None, "model_refused"),
            Self::NoRoute(_) => (404, Client, false, None, "no_route"),
            Self::Method { .. } => (405, Client, false, None, "method"),
            Self::SlowBody => (408, Client, true, None, "slow_body"),
            Self::Overloaded { retry_after, .. } => {
                (429, Server, true, Some(*retry_after), "overloaded")
            }
            Self::RateLimited { retry_after, .. } => {
                (429, Client, true, Some(*retry_after), "rate_limited")
            }
            Self::BodiesFull { retry_after } => {
                (429, Server, true, Some(*retry_after), "bodies_full")
            }
            Self::DeadlineExceeded => (504, Server, true, None, "deadline"),
            Self::Cancelled => (499, Client, false, None, "cancelled"),
            Self::Unavailable { retry_after, .. } => {
                (503, Server, true, Some(*retry_after), "unavailable")
            }
            Self::Internal(_) => (500, Server, false, None, "internal"),
        };
        Verdict { status, fault, retry, retry_after, kind }
    }

    /// The field the client should look at, as it spelled it.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid { field, .. }
            | Self::TooLong { field, .. }
            | Self::TooMany { field, .. } => Some(field),
            Self::UnknownModel { .. } => Some("model"),
            _ => None,
        }
    }
}

/// The device failed. What was computed on it since the last good result does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device fault: {message}")]
pub struct DeviceError {
    pub message: String,
    /// The device answers nothing any more: only a new process gets it back.
    pub lost: bool,
}

impl DeviceError {
    /// A fault after which the device may be used again.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), lost: false }
    }

    pub fn lost(message: impl Into<String>) -> Self {
        Self { message: message.into(), lost: true }
    }
}

/// Why a model could not be loaded. Every variant names the file, and the field or tensor in it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{model}: no file '{file}'; {hint}")]
    Missing { model: String, file: String, hint: String },
    #[error("{file}: {source}")]
    Io { file: String, source: std::io::Error },
    /// `part` is the field (`hidden_size`), the tensor or the line that is wrong.
    #[error("{file}: {part}: {message}")]
    Invalid { file: String, part: String, message: String },
    /// Well formed, but of a kind this server has no code for.
    #[error("{file}: {part}: {message}")]
    Unsupported { file: String, part: String, message: String },
    #[error("cannot fetch '{model}' from {endpoint}: {message}")]
    Hub { model: String, endpoint: String, message: String },
    #[error("cannot load the model onto the device: {0}")]
    Device(DeviceError),
    /// The whole sum, in words.
    #[error("not enough memory: {0}")]
    Memory(String),
    #[error(
        "max-batch-tokens: {max_batch_tokens} is less than one sequence of this model may have \
         ({max_length}); max-length cuts them"
    )]
    LongerThanBatch { max_batch_tokens: usize, max_length: usize },
    /// The weights load but do not give the scores the model's golden pairs promise.
    #[error("{model}: golden pair {index} gives {got}, not {expected} (tolerance {tolerance})")]
    Golden { model: String, index: usize, got: f32, expected: f32, tolerance: f32 },
}

impl ModelError {
    pub fn invalid(
        file: impl Into<String>,
        part: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Invalid { file: file.into(), part: part.into(), message: message.into() }
    }

    pub fn unsupported(
        file: impl Into<String>,
        part: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Unsupported { file: file.into(), part: part.into(), message: message.into() }
    }
}
