//! Request bodies within bounds of size, time and, all together, memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;

/// A client gets this long to send its whole body: 32 MB at 4 Mbit/s.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Bodies end when their requests do, which takes about as long as the least time a client respects.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Bytes of a refused body that are read and dropped, and how long that may take. A client that still writes
/// when the connection closes may never see why it was refused.
const DISCARD_BYTES: usize = 8 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Memory for all bodies together. Bytes are taken as they arrive, not as they are announced, so that slow
/// clients cannot hold what they have not sent.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(max_bytes.min(Semaphore::MAX_PERMITS))))
    }

    fn take(&self, num_bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let full = Error::BodiesFull { retry_after: FULL_RETRY_AFTER };
        let Ok(permits) = u32::try_from(num_bytes) else { return Err(full) };
        Arc::clone(&self.0).try_acquire_many_owned(permits).map_err(|_| full)
    }
}

/// A whole body, and its part of the budget. The request made of it holds about as many bytes of text, so the
/// part is kept until the request is answered.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) held: OwnedSemaphorePermit,
}

/// Reads a whole body.
///
/// # Errors
/// [`Error::BodyTooLarge`] without reading it where the length is declared, [`Error::BodiesFull`],
/// [`Error::SlowBody`], or [`Error::Cancelled`] when the client breaks off.
pub(super) async fn read(
    request: Request<Incoming>,
    limit_bytes: usize,
    budget: &Budget,
) -> Result<Body, Error> {
    if declared_length(request.headers()).is_some_and(|length| length > limit_bytes as u64) {
        return Err(Error::BodyTooLarge { limit_bytes });
    }
    let collecting = collect(request.into_body(), limit_bytes, budget);
    tokio::time::timeout(READ_TIMEOUT, collecting).await.unwrap_or(Err(Error::SlowBody))
}

async fn collect(mut body: Incoming, limit_bytes: usize, budget: &Budget) -> Result<Body, Error> {
    let mut held = budget.take(0)?;
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Error::Cancelled)?.into_data() else { continue };
        if bytes.len() + data.len() > limit_bytes {
            return Err(Error::BodyTooLarge { limit_bytes });
        }
        match budget.take(data.len()) {
            Ok(more) => held.merge(more),
            Err(full) => {
                drop((held, bytes));
                drain(body).await;
                return Err(full);
            }
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Body { bytes: bytes.freeze(), held })
}

/// Reads a body that nobody will look at, as far as a polite client's goes.
pub(super) async fn discard(request: Request<Incoming>) {
    drain(request.into_body()).await;
}

async fn drain(mut body: Incoming) {
    let dropping = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > DISCARD_BYTES {
                return;
            }
        }
    };
    // Out of time is as good as out of bytes: the answer goes out now.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, dropping).await;
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
