//! Request bodies within bounds of size and time.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::error::Error;

/// A client gets this long to send its whole body: 32 MB at 4 Mbit/s.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a whole body.
///
/// # Errors
/// [`Error::BodyTooLarge`] without reading it where the length is declared, [`Error::SlowBody`], or
/// [`Error::Cancelled`] when the client breaks off.
pub(super) async fn read(request: Request<Incoming>, limit_bytes: usize) -> Result<Bytes, Error> {
    if declared_length(request.headers()).is_some_and(|length| length > limit_bytes as u64) {
        return Err(Error::BodyTooLarge { limit_bytes });
    }
    let limited = Limited::new(request.into_body(), limit_bytes);
    match tokio::time::timeout(READ_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Error::BodyTooLarge { limit_bytes })
        }
        Ok(Err(_)) => Err(Error::Cancelled),
        Err(_) => Err(Error::SlowBody),
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
