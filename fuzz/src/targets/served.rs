//! Bytes that a running server reads: this program's own, in this process, on a Unix socket.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rerankd::cli;

use super::files::model;

/// What a stuck connection is told from a slow one by.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request of a few bytes is answered by then, or else another time.
const SHORTLY: Duration = Duration::from_millis(5);

/// The socket of a server that is ready.
static SOCKET: LazyLock<PathBuf> = LazyLock::new(|| {
    let socket = std::env::temp_dir().join(format!("rerankd-fuzz-{}.socket", std::process::id()));
    let arguments = [
        "rerankd serve --device cpu --threads 1 --max-body-bytes 65536 --unix-socket",
        socket.to_str().expect("the name is ours"),
        "--model",
        model("tiny-bert").to_str().expect("the name is ours"),
    ]
    .join(" ");
    std::thread::spawn(move || cli::run_as(arguments.split(' ')));
    for _ in 0..2000 {
        std::thread::sleep(Duration::from_millis(10));
        if UnixStream::connect(&socket).is_ok() {
            let answer = exchange(&socket, b"GET /ready HTTP/1.1\r\nhost: h\r\n\r\n");
            if answer.starts_with(b"HTTP/1.1 200") {
                return socket;
            }
        }
    }
    panic!("the server does not get ready");
});

/// All that a connection sends, and the end of it. Whatever comes, the server ends the connection too, never
/// says that the fault is its own, and serves the next.
pub fn http(bytes: &[u8]) {
    let answer = exchange(&SOCKET, bytes);
    let is_http2 = bytes.starts_with(b"PRI");
    assert!(is_http2 || answer.is_empty() || answer.starts_with(b"HTTP/1."), "not HTTP");
    let status = answer.get(9..12).unwrap_or_default();
    assert!(is_http2 || status != b"500", "a fault of the server's own");
}

/// A body that claims to be packed: as it stands, or, after an odd first byte, packed here, so that what comes
/// after unpacking is reached too.
pub fn gzip_body(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let body = if first % 2 == 0 { rest.to_vec() } else { gzip(rest) };
    let head = format!(
        "POST /rerank HTTP/1.1\r\nhost: h\r\ncontent-encoding: gzip\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let answer = exchange(&SOCKET, &[head.as_bytes(), &body].concat());
    // None where the answer was not there shortly.
    let Some(status) = answer.get(9..12) else { return };
    let is_known = matches!(status, b"200" | b"400" | b"404" | b"413" | b"422");
    assert!(is_known, "status {:?}", String::from_utf8_lossy(status));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).expect("a vector takes all");
    packed.finish().expect("a vector takes all")
}

/// Sends all and reads to the end. What is no whole request the server waits for, so it is told soon that nothing
/// more comes; at once would be to leave without the answer.
fn exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("the server accepts");
    // A server that has refused already may not read on.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(SHORTLY)).expect("it is not zero");
    if stream.read_to_end(&mut answer).is_err_and(|error| is_timeout(&error)) {
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        let rest = stream.read_to_end(&mut answer);
        assert!(!rest.is_err_and(|error| is_timeout(&error)), "the connection does not end");
    }
    answer
}

fn is_timeout(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
