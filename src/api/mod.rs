//! The edge: bodies in a client's words become one [`RerankRequest`] or [`EmbedRequest`], and a [`RerankResponse`] or
//! [`EmbedResponse`] becomes a body again.
//!
//! Many servers took the same paths with different bodies, so the dialect is read from the body first and from the
//! path second (`route`). Every dialect is one file: how it reads a body, how it writes scores, how it writes errors.

mod credentials;
mod embed;
mod fields;
pub mod info;
mod lenient;
mod mixedbread;
pub mod models;
mod nim;
mod pinecone;
mod precompute;
mod predict;
mod rank;
mod reply;
mod route;
mod score;
mod settings;
mod tei;
mod text;
mod unified;
pub mod usage;
mod voyage;
mod weaviate;
mod zeroentropy;

#[cfg(test)]
mod tests;

use std::fmt::Debug;

use http::HeaderMap;

pub use credentials::credentials;
pub use reply::Reply;
pub use route::{Route, Version, route};

use crate::error::Error;
use crate::request::{EmbedRequest, EmbedResponse, RerankRequest, RerankResponse};
use fields::Fields;

/// One POST as it arrived, its body complete.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    /// The id of a request that brings none of its own.
    pub fallback_id: &'a str,
    /// The time of arrival, for the dialects whose replies carry `created`.
    pub unix_seconds: u64,
}

/// What one request may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_documents: usize,
    /// Whether `inputs` and nothing else ask for vectors: the model here gives some, and no labels.
    pub prefers_vectors: bool,
}

impl Default for Limits {
    fn default() -> Self {
        // Cohere's own limit: a lower one would break a client that was right there.
        Self { max_documents: 10_000, prefers_vectors: false }
    }
}

/// A request that can be served, and how its errors must be written.
#[derive(Debug)]
pub struct Parsed {
    pub call: Call,
    pub errors: ErrorDialect,
}

/// What is asked, and the dialect the answer must be written in.
#[derive(Debug)]
pub enum Call {
    Rerank(RerankRequest, Box<dyn Dialect>),
    Embed(EmbedRequest, Box<dyn Dialect<EmbedResponse>>),
}

impl Call {
    /// The id of the request.
    pub fn id(&self) -> &str {
        match self {
            Self::Rerank(request, _) => &request.id,
            Self::Embed(request, _) => &request.id,
        }
    }
}

/// A request that cannot be served, and the dialect the refusal must be written in.
#[derive(Debug)]
pub struct Rejected {
    pub error: Error,
    pub errors: ErrorDialect,
    pub request_id: String,
}

/// How one request is answered. It holds what the reply needs of the request: `top_n`, documents to echo.
pub trait Dialect<R = RerankResponse>: Debug + Send + Sync {
    fn reply(&self, response: &R) -> Reply;
}

/// How a dialect writes errors; they need nothing of the request but its id.
#[derive(Debug, Clone, Copy)]
pub struct ErrorDialect(fn(&Error, &str) -> Reply);

impl ErrorDialect {
    pub fn write(&self, error: &Error, request_id: &str) -> Reply {
        (self.0)(error, request_id)
    }
}

/// A dialect before its request is read: the line of the route table.
#[derive(Clone, Copy)]
struct Form {
    read: fn(&Context<'_>, &Fields<'_>) -> Result<Call, Error>,
    errors: ErrorDialect,
}

/// What a reader needs beside the body.
struct Context<'a> {
    headers: &'a HeaderMap,
    limits: &'a Limits,
    version: Version,
    request_id: String,
    unix_seconds: u64,
}

/// Reads a body. A refusal comes with the dialect to write it in, so no client meets a foreign error shape.
pub fn parse(incoming: &Incoming<'_>, limits: &Limits) -> Result<Parsed, Rejected> {
    let header_id = settings::header_id(incoming.headers);
    let request_id = header_id.unwrap_or(incoming.fallback_id).to_owned();
    let Some(route) = route(incoming.path) else {
        let error = Error::NoRoute(incoming.path.to_owned());
        return Err(Rejected { error, errors: unified::FORM.errors, request_id });
    };
    let fields = match split(incoming) {
        Ok(fields) => fields,
        Err(error) => {
            let errors = route::form_of_path(route, incoming.headers).errors;
            return Err(Rejected { error, errors, request_id });
        }
    };
    let request_id = match header_id {
        None => settings::body_id(&fields).unwrap_or(request_id),
        Some(_) => request_id,
    };
    let form = route::form_of(route, incoming.headers, &fields, limits);
    let context = Context {
        headers: incoming.headers,
        limits,
        version: route::version_of(route, &fields),
        request_id,
        unix_seconds: incoming.unix_seconds,
    };
    let errors = form.errors;
    match (form.read)(&context, &fields) {
        Ok(call) => Ok(Parsed { call, errors }),
        Err(error) => Err(Rejected { error, errors, request_id: context.request_id }),
    }
}

/// How an error is written that is known before a body is: too large, too slow, too many requests.
pub fn errors_at(path: &str, headers: &HeaderMap) -> ErrorDialect {
    let form = route(path).map_or(unified::FORM, |route| route::form_of_path(route, headers));
    form.errors
}

fn split<'a>(incoming: &Incoming<'a>) -> Result<Fields<'a>, Error> {
    // Only a declared foreign type is refused: Weaviate and tritonclient declare none at all.
    if let Some(declared) = incoming.headers.get(http::header::CONTENT_TYPE) {
        let declared = String::from_utf8_lossy(declared.as_bytes());
        let media = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !(media.is_empty() || media.ends_with("/json") || media.ends_with("+json")) {
            return Err(Error::MediaType(media));
        }
    }
    let text = std::str::from_utf8(incoming.body)
        .map_err(|e| Error::Syntax(format!("the body is not UTF-8 at byte {}", e.valid_up_to())))?;
    // Some Windows clients send a byte order mark; JSON has no place for one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    Fields::parse(text).map_err(|e| {
        if e.is_data() {
            Error::invalid("body", e.to_string())
        } else {
            Error::Syntax(e.to_string())
        }
    })
}
