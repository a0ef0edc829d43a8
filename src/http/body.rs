//! Request bodies within bounds of size, time and, all together, memory; plain or gzip.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::Error;

/// Bodies end when their requests do, which takes about as long as the least time a client respects.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is read and thrown away of a refused body, in bodies of the largest size.
const DISCARDED_BODIES: usize = 4;

/// Text is unpacked in pieces of this size, each taken from the budget.
const UNPACKED_BLOCK_BYTES: usize = 16 * 1024;

/// What bodies may take.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Of one body, packed and unpacked.
    pub(super) max_bytes: usize,
    pub(super) timeout: Duration,
    pub(super) budget: Budget,
}

/// Memory for all bodies together. Bytes are taken as they arrive, not as they are announced, so that slow
/// clients cannot hold what they have not sent.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    max_bytes: usize,
    free: Arc<Semaphore>,
}

impl Budget {
    pub(super) fn new(max_bytes: usize) -> Self {
        let max_bytes = max_bytes.min(Semaphore::MAX_PERMITS);
        Self { max_bytes, free: Arc::new(Semaphore::new(max_bytes)) }
    }

    /// Bytes that are taken.
    pub(super) fn num_bytes(&self) -> usize {
        self.max_bytes - self.free.available_permits()
    }

    /// For an answer that is larger than its body.
    ///
    /// # Errors
    /// [`Error::BodiesFull`] for one that there will be room for, [`Error::TooMany`] for one that never has it beside
    /// its body.
    pub(super) fn take_for_reply(&self, num_bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let most = self.max_bytes / 2;
        if num_bytes > most {
            let message = format!(
                "the answer would take about {num_bytes} bytes, of {most} that this server has for one; send fewer texts"
            );
            return Err(Error::TooMany { field: "input".to_owned(), message });
        }
        self.take(num_bytes)
    }

    fn take(&self, num_bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let full = Error::BodiesFull { retry_after: FULL_RETRY_AFTER };
        let Ok(permits) = u32::try_from(num_bytes) else { return Err(full) };
        Arc::clone(&self.free).try_acquire_many_owned(permits).map_err(|_| full)
    }
}

/// A whole body, unpacked, and its part of the budget. The request made of it holds about as many bytes of text,
/// so the part is kept until the request is answered.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) held: OwnedSemaphorePermit,
}

/// Reads a whole body and unpacks it.
///
/// # Errors
/// [`Error::BodyTooLarge`] without waiting for it where the length is declared, [`Error::BodiesFull`],
/// [`Error::SlowBody`], [`Error::ContentEncoding`], or [`Error::Cancelled`] when the client breaks off.
pub(super) async fn read(mut request: Request<Incoming>, bounds: &Bounds) -> Result<Body, Error> {
    let collected = timeout(bounds.timeout, collect(&mut request, bounds)).await;
    match collected.unwrap_or(Err(Error::SlowBody)) {
        Ok((body, false)) => Ok(body),
        // A few bytes may unpack to the limit, which takes tens of milliseconds.
        Ok((packed, true)) => tokio::task::block_in_place(|| gunzip(&packed.bytes, bounds)),
        Err(error) => {
            if !matches!(error, Error::SlowBody | Error::Cancelled) {
                discard(request, bounds);
            }
            Err(error)
        }
    }
}

/// A body as it was sent, and whether it is packed.
async fn collect(request: &mut Request<Incoming>, bounds: &Bounds) -> Result<(Body, bool), Error> {
    let too_large = Error::BodyTooLarge { limit_bytes: bounds.max_bytes };
    if declared_length(request.headers()).is_some_and(|length| length > bounds.max_bytes as u64) {
        return Err(too_large);
    }
    let is_gzip = is_gzip(request.headers())?;
    let mut held = bounds.budget.take(0)?;
    let mut bytes = BytesMut::new();
    while let Some(frame) = request.body_mut().frame().await {
        let Ok(data) = frame.map_err(|_| Error::Cancelled)?.into_data() else { continue };
        if bytes.len() + data.len() > bounds.max_bytes {
            return Err(too_large);
        }
        held.merge(bounds.budget.take(data.len())?);
        bytes.extend_from_slice(&data);
    }
    Ok((Body { bytes: bytes.freeze(), held }, is_gzip))
}

/// Reads on while a refusal is on its way: most clients look at it only after they have sent everything, and
/// a connection that is closed under their hands takes it with it. Who goes on beyond reason is cut.
pub(super) fn discard(request: Request<Incoming>, bounds: &Bounds) {
    if request.headers().contains_key(EXPECT) {
        // It waits for our word, which is the refusal.
        return;
    }
    let mut body = Limited::new(request.into_body(), DISCARDED_BODIES * bounds.max_bytes);
    let read = async move { while let Some(Ok(_)) = body.frame().await {} };
    // Whatever comes of it, nobody is owed anything.
    tokio::spawn(timeout(bounds.timeout, read));
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the body is packed, in the one way there is.
fn is_gzip(headers: &HeaderMap) -> Result<bool, Error> {
    let mut is_gzip = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in String::from_utf8_lossy(value.as_bytes()).split(',') {
            match coding.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if !is_gzip => is_gzip = true,
                other => return Err(Error::ContentEncoding(other.to_owned())),
            }
        }
    }
    Ok(is_gzip)
}

/// Holds of what is unpacked no more than one body may have, one block, and what the budget gives.
fn gunzip(packed: &[u8], bounds: &Bounds) -> Result<Body, Error> {
    let mut unpacked = MultiGzDecoder::new(packed);
    let mut block = [0; UNPACKED_BLOCK_BYTES];
    let mut held = bounds.budget.take(0)?;
    let mut bytes = BytesMut::new();
    loop {
        let num_bytes = unpacked
            .read(&mut block)
            .map_err(|e| Error::invalid("content-encoding", format!("the body is no gzip: {e}")))?;
        if num_bytes == 0 {
            return Ok(Body { bytes: bytes.freeze(), held });
        }
        if bytes.len() + num_bytes > bounds.max_bytes {
            return Err(Error::BodyTooLarge { limit_bytes: bounds.max_bytes });
        }
        held.merge(bounds.budget.take(num_bytes)?);
        bytes.extend_from_slice(&block[..num_bytes]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bounds(max_bytes: usize, budget_bytes: usize) -> Bounds {
        Bounds { max_bytes, timeout: Duration::ZERO, budget: Budget::new(budget_bytes) }
    }

    fn unpack(packed: &[u8], max_bytes: usize) -> Result<Bytes, Error> {
        gunzip(packed, &bounds(max_bytes, max_bytes)).map(|body| body.bytes)
    }

    fn coded(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|&v| (CONTENT_ENCODING, http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_was_packed_is_unpacked_in_one_stream_or_several() {
        let several = [gzip(b"{\"query\":"), gzip(b"1}")].concat();
        for packed in [gzip(b"{\"query\":1}"), several] {
            assert_eq!(unpack(&packed, 100).unwrap(), b"{\"query\":1}"[..]);
        }
    }

    #[test]
    fn the_unpacked_size_is_bounded_to_the_byte() {
        let packed = gzip(&[b'a'; 5000]);
        assert!(packed.len() < 100);
        assert_eq!(unpack(&packed, 5000).unwrap().len(), 5000);
        assert_eq!(unpack(&packed, 4999), Err(Error::BodyTooLarge { limit_bytes: 4999 }));
    }

    #[test]
    fn what_is_unpacked_counts_like_what_was_sent_plain() {
        let bounds = bounds(5000, 7000);
        let packed = gzip(&[b'a'; 4000]);
        let first = gunzip(&packed, &bounds).unwrap();
        assert_eq!(first.held.num_permits(), 4000);
        let full = Error::BodiesFull { retry_after: FULL_RETRY_AFTER };
        assert_eq!(gunzip(&packed, &bounds).map(|body| body.bytes), Err(full));
        drop(first);
        assert!(gunzip(&packed, &bounds).is_ok(), "the room is given back");
    }

    #[test]
    fn a_stream_cut_anywhere_or_with_a_flipped_byte_is_an_error() {
        let packed = gzip(b"{\"query\": \"a b c d\"}");
        for end in 0..packed.len() {
            let cut = unpack(&packed[..end], 1000);
            assert!(cut.is_err() || end == 0, "cut at {end}: {cut:?}");
            let mut flipped = packed.clone();
            flipped[end] ^= 0x55;
            // The header's time stamp, its flags of origin and its level mean nothing.
            let matters = !(4..10).contains(&end);
            assert_eq!(unpack(&flipped, 1000).is_err(), matters, "byte {end} flipped");
        }
    }

    #[test]
    fn one_layer_of_gzip_is_unpacked_and_what_is_unknown_is_named() {
        assert_eq!(is_gzip(&HeaderMap::new()), Ok(false));
        assert_eq!(is_gzip(&coded(&["identity"])), Ok(false));
        assert_eq!(is_gzip(&coded(&["GZip, identity"])), Ok(true));
        assert_eq!(is_gzip(&coded(&["br"])), Err(Error::ContentEncoding("br".into())));
        for twice in [&["gzip, gzip"][..], &["gzip", "gzip"]] {
            assert_eq!(is_gzip(&coded(twice)), Err(Error::ContentEncoding("gzip".into())));
        }
    }
}
