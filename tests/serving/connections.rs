//! Connections as they come: HTTP/1.1 and HTTP/2, plain and in TLS, over TCP and a Unix socket, packed bodies,
//! and clients that take their time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use crate::support::*;

fn request() -> Value {
    json!({"query": "a b", "documents": ["c d e", "a b"]})
}

/// A request over one's own stream, whose answer ends the connection.
fn exchange(stream: &mut (impl Read + Write), body: &str) -> String {
    let head = format!(
        "POST /v2/rerank HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("the server reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a whole reply");
    reply
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_packed_body_is_answered_as_the_plain_one() {
    let server = Server::start(&["--max-body-bytes", "2000"]);
    let post = |body: &[u8], coding: &str| {
        let headers = [("content-type", "application/json"), ("content-encoding", coding)];
        server.post_with("/v2/rerank", body, &headers)
    };
    let plain = request().to_string();
    let expected = server.post_bytes("/v2/rerank", plain.as_bytes()).json()["results"].clone();
    assert_eq!(post(&gzip(plain.as_bytes()), "gzip").json()["results"], expected);
    assert_eq!(post(plain.as_bytes(), "identity").json()["results"], expected);

    let bomb = gzip(&vec![b' '; 1 << 20]);
    assert!(bomb.len() < 10_000, "{}", bomb.len());
    let unpacked = post(&gzip(&[b' '; 2001]), "gzip");
    assert_eq!(unpacked.status, 413, "{}", unpacked.text);
    assert_eq!(post(&bomb, "gzip").status, 413);
    let broken = post(plain.as_bytes(), "gzip");
    assert_eq!(broken.status, 400);
    assert!(broken.text.contains("content-encoding"), "{}", broken.text);
    let unknown = post(plain.as_bytes(), "br");
    assert_eq!(unknown.status, 415);
    assert!(unknown.text.contains("'br'"), "{}", unknown.text);
}

#[test]
fn a_unix_socket_serves_and_goes_with_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rerankd.sock");
    let start = || {
        let mut command = rerankd();
        command.args(["serve", "--model"]).arg(tiny_bert()).arg("--unix-socket").arg(&path);
        Server::spawn(command)
    };
    let mut server = start();
    let answered = || {
        let mut stream = UnixStream::connect(&path).expect("the socket is there");
        exchange(&mut stream, &request().to_string()).starts_with("HTTP/1.1 200")
    };
    eventually("the server is ready", answered);
    let second = {
        let mut command = rerankd();
        command.args(["serve", "--model"]).arg(tiny_bert()).arg("--unix-socket").arg(&path);
        command.output().unwrap()
    };
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another server listens there"));

    server.signal(libc::SIGKILL);
    server.wait();
    assert!(path.exists(), "nobody tidied up");
    let mut server = start();
    eventually("the server is ready", answered);
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists(), "the socket went with its server");
}

/// A certificate for localhost and its key, in files of a server.
struct Certificate {
    folder: tempfile::TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let der = replace(folder.path());
        Self { folder, der }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(&self) -> Server {
        let mut command = rerankd();
        command.args(["serve", "--port", "0", "--model"]).arg(tiny_bert());
        command.arg("--tls-cert").arg(self.path("cert.pem"));
        command.arg("--tls-key").arg(self.path("key.pem"));
        let server = Server::spawn(command);
        eventually("the server is ready", || {
            let reply = exchange(&mut tls(&server, &self.der), &request().to_string());
            reply.starts_with("HTTP/1.1 200")
        });
        server
    }
}

/// Writes a new certificate; a server in between sees a key that does not belong to it.
fn replace(folder: &Path) -> CertificateDer<'static> {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

fn trusting(root: &CertificateDer<'static>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A stream to the server that trusts this certificate alone.
fn tls(
    server: &Server,
    root: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(trusting(root, &[b"http/1.1"]), name).unwrap();
    StreamOwned::new(client, TcpStream::connect(server.address()).unwrap())
}

fn is_trusted(server: &Server, root: &CertificateDer<'static>) -> bool {
    tls(server, root).flush().is_ok()
}

/// Over HTTP/2 on any stream, a request for each of the documents' counts, all at once; the counts of results.
fn over_http2<S>(stream: impl Future<Output = S>) -> Vec<usize>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = TokioIo::new(stream.await);
        let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for count in 1..=20 {
            let body = json!({"query": "a b", "documents": vec!["c d"; count]}).to_string();
            let request = http::Request::post("http://localhost/v2/rerank")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .unwrap();
            let mut requests = requests.clone();
            answers.push(tokio::spawn(async move { requests.send_request(request).await }));
        }
        let mut counts = Vec::new();
        for answer in answers {
            let body = answer.await.unwrap().unwrap().collect().await.unwrap().to_bytes();
            let reply: Value = serde_json::from_slice(&body).unwrap();
            counts.push(reply["results"].as_array().unwrap().len());
        }
        counts
    })
}

#[test]
fn http2_serves_many_requests_on_one_connection_plain_and_in_tls() {
    let expected: Vec<_> = (1..=20).collect();
    let plain = Server::start(&[]);
    let connect =
        async |server: &Server| tokio::net::TcpStream::connect(server.address()).await.unwrap();
    assert_eq!(over_http2(connect(&plain)), expected, "by prior knowledge");

    let certificate = Certificate::new();
    let server = certificate.serve();
    let in_tls = async {
        let config = trusting(&certificate.der, &[b"h2", b"http/1.1"]);
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config).connect(name, connect(&server).await).await;
        let stream = stream.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream
    };
    assert_eq!(over_http2(in_tls), expected, "by ALPN");
}

#[test]
fn a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let certificate = Certificate::new();
    let server = certificate.serve();
    let mut stays = tls(&server, &certificate.der);
    stays.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(stays.read(&mut [0; 1024]).unwrap() > 0);

    let second = replace(certificate.folder.path());
    eventually("the new certificate is shown", || is_trusted(&server, &second));
    assert!(!is_trusted(&server, &certificate.der));
    stays.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(stays.read(&mut [0; 1024]).unwrap() > 0, "what was connected stays so");

    std::fs::write(certificate.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nnot base64")
        .unwrap();
    server.logs("the old one stays");
    assert!(is_trusted(&server, &second));

    std::fs::remove_file(certificate.path("cert.pem")).unwrap();
    let third = replace(certificate.folder.path());
    eventually("the next is shown", || is_trusted(&server, &third));
}

#[test]
fn certificates_that_cannot_be_used_are_refused_at_the_start() {
    let certificate = Certificate::new();
    let refused = |cert: &str, key: &str| {
        let mut command = rerankd();
        command.args(["serve", "--port", "0", "--tls-cert"]).arg(certificate.path(cert));
        let output = command.arg("--tls-key").arg(certificate.path(key)).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let other = KeyPair::generate().unwrap();
    std::fs::write(certificate.path("other.pem"), other.serialize_pem()).unwrap();
    std::fs::write(certificate.path("empty.pem"), "").unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let signed = params.self_signed(&other).unwrap();
    std::fs::write(certificate.path("signed.pem"), signed.pem()).unwrap();
    assert!(refused("cert.pem", "other.pem").contains("other.pem"));
    assert!(refused("signed.pem", "key.pem").contains("key.pem"));
    assert!(refused("empty.pem", "key.pem").contains("no certificate in it"));
    assert!(refused("none.pem", "key.pem").contains("none.pem: "));
}

#[test]
fn slow_clients_are_cut_and_those_beside_them_are_served() {
    let server = Server::start(&[
        "--header-timeout-ms",
        "300",
        "--body-timeout-ms",
        "300",
        "--idle-timeout-ms",
        "300",
    ]);
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let head = b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let mut slow = [
        ("silent", connect(b""), ""),
        ("half a head", connect(head), ""),
        ("no body", connect(&[&head[..], b"content-length: 9\r\n\r\n"].concat()), "HTTP/1.1 408"),
        ("idle", connect(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n"), "HTTP/1.1 200"),
    ];
    assert_eq!(server.post("/v2/rerank", &request()).status, 200);
    for (name, stream, expected) in &mut slow {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the connection ends");
        assert!(reply.starts_with(*expected), "{name}: {reply}");
        assert_eq!(reply.is_empty(), expected.is_empty(), "{name}: {reply}");
    }
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rerankd.sock");
    let mut command = rerankd();
    command.args(["serve", "--write-timeout-ms", "300", "--model"]).arg(tiny_bert());
    let _server = Server::spawn({
        command.arg("--unix-socket").arg(&path);
        command
    });
    // A socket of this kind holds a fifth of the answer.
    let document = "a ".repeat(500_000);
    let body = json!({"query": "a", "documents": [document], "return_documents": true}).to_string();
    let connect = || UnixStream::connect(&path).expect("the socket is there");
    let whole = || exchange(&mut connect(), &body);
    eventually("the server is ready", || whole().starts_with("HTTP/1.1 200"));
    let expected = whole().len();
    assert!(expected > 1_000_000, "{expected} bytes");

    let metric = || {
        let mut stream = connect();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let line = page.lines().find(|line| line.starts_with("rerank_answered_requests_total"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let answered = metric();
    let mut stuck = connect();
    let head = format!(
        "POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stuck.write_all(head.as_bytes()).unwrap();
    eventually("it is answered", || metric() > answered);
    // Seven times its time.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut taken = Vec::new();
    let _ = stuck.read_to_end(&mut taken);
    assert!(taken.len() < expected, "all {} bytes came", taken.len());
}

#[test]
fn a_connection_over_the_limit_waits_for_one_to_end() {
    let server = Server::start(&["--max-connections", "2"]);
    // The agent's own connection is one.
    let first = TcpStream::connect(server.address()).unwrap();
    let mut second = TcpStream::connect(server.address()).unwrap();
    second.write_all(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    second.set_nonblocking(true).unwrap();
    assert_eq!(server.get("/live").status, 200);
    let waiting = second.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(waiting, Err(std::io::ErrorKind::WouldBlock), "it is not served yet");
    second.set_nonblocking(false).unwrap();
    drop(first);
    let mut reply = String::new();
    second.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}
