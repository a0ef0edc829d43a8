//! Request bodies within bounds of size and time, plain or gzip.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::error::Error;

/// Text of this many bytes is packed into one; only the first guess at the room it needs.
const GZIP_RATIO: usize = 4;

/// What is read and thrown away of a body that is too large, in bodies of the largest size.
const DISCARDED_BODIES: usize = 4;

/// Reads a whole body and unpacks it; `limit_bytes` bounds it before and after.
///
/// # Errors
/// [`Error::BodyTooLarge`] without waiting for it where the length is declared, [`Error::SlowBody`],
/// [`Error::ContentEncoding`], or [`Error::Cancelled`] when the client breaks off.
pub(super) async fn read(
    request: Request<Incoming>,
    limit_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, Error> {
    if declared_length(request.headers()).is_some_and(|length| length > limit_bytes as u64) {
        tokio::spawn(discard(request, limit_bytes, timeout));
        return Err(Error::BodyTooLarge { limit_bytes });
    }
    let is_gzip = is_gzip(request.headers())?;
    let limited = Limited::new(request.into_body(), limit_bytes);
    let body = match tokio::time::timeout(timeout, limited.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(Error::BodyTooLarge { limit_bytes });
        }
        Ok(Err(_)) => return Err(Error::Cancelled),
        Err(_) => return Err(Error::SlowBody),
    };
    if !is_gzip {
        return Ok(body);
    }
    // A few bytes may unpack to the limit, which takes tens of milliseconds.
    tokio::task::block_in_place(|| gunzip(&body, limit_bytes))
}

/// Reads on while the refusal is on its way: most clients look at it only after they have sent everything, and
/// a connection that is closed under their hands takes it with it. Who goes on beyond reason is cut.
async fn discard(request: Request<Incoming>, limit_bytes: usize, timeout: Duration) {
    if request.headers().contains_key(EXPECT) {
        // It waits for our word, which is the refusal.
        return;
    }
    let mut body = Limited::new(request.into_body(), DISCARDED_BODIES * limit_bytes);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whatever comes of it, nobody is owed anything.
    let _ = tokio::time::timeout(timeout, read).await;
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

/// Never holds more than `limit_bytes` and one of what is unpacked.
fn gunzip(packed: &[u8], limit_bytes: usize) -> Result<Bytes, Error> {
    let mut body = Vec::with_capacity((packed.len() * GZIP_RATIO).min(limit_bytes));
    MultiGzDecoder::new(packed)
        .take(limit_bytes as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|e| Error::invalid("content-encoding", format!("the body is no gzip: {e}")))?;
    if body.len() > limit_bytes {
        return Err(Error::BodyTooLarge { limit_bytes });
    }
    Ok(body.into())
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

    fn coded(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|&v| (CONTENT_ENCODING, http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_was_packed_is_unpacked_in_one_stream_or_several() {
        let several = [gzip(b"{\"query\":"), gzip(b"1}")].concat();
        for packed in [gzip(b"{\"query\":1}"), several] {
            assert_eq!(gunzip(&packed, 100).unwrap(), b"{\"query\":1}"[..]);
        }
    }

    #[test]
    fn the_unpacked_size_is_bounded_to_the_byte() {
        let packed = gzip(&[b'a'; 5000]);
        assert!(packed.len() < 100);
        assert_eq!(gunzip(&packed, 5000).unwrap().len(), 5000);
        assert_eq!(gunzip(&packed, 4999), Err(Error::BodyTooLarge { limit_bytes: 4999 }));
    }

    #[test]
    fn a_stream_cut_anywhere_or_with_a_flipped_byte_is_an_error() {
        let packed = gzip(b"{\"query\": \"a b c d\"}");
        for end in 0..packed.len() {
            let cut = gunzip(&packed[..end], 1000);
            assert!(cut.is_err() || end == 0, "cut at {end}: {cut:?}");
            let mut flipped = packed.clone();
            flipped[end] ^= 0x55;
            // The header's time stamp, its flags of origin and its level mean nothing.
            let matters = !(4..10).contains(&end);
            assert_eq!(gunzip(&flipped, 1000).is_err(), matters, "byte {end} flipped");
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
