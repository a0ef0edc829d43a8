//! Connections on a virtual clock: what is answered, and when what is not is cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::activity::Timeouts;
use super::body::{Bounds, Budget};
use super::connection::{Shared, serve};
use super::routes::App;
use crate::api;
use crate::api::info::ServerFacts;
use crate::health::Health;
use crate::metrics::{Load, Metrics};
use crate::rerank::Models;
use crate::tenant::Tenants;

const TIMEOUTS: Timeouts = Timeouts {
    header: Duration::from_secs(10),
    body: Duration::from_secs(20),
    idle: Duration::from_secs(40),
    write: Duration::from_secs(30),
};

/// What stands between the two ends; less than a metrics page.
const PIPE_BYTES: usize = 1024;

const PROBE: &[u8] = b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
const LONG_ANSWER: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
const HEAD: &[u8] =
    b"POST /rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n";

/// A client's end of a connection to a server whose model is still loading.
struct Client {
    stream: DuplexStream,
    begun: Instant,
    leave: watch::Sender<bool>,
    health: Arc<Health>,
}

impl Client {
    fn connect() -> Self {
        let (stream, theirs) = duplex(PIPE_BYTES);
        let (leave, leaving) = watch::channel(false);
        let health = Arc::new(Health::default());
        let server = ServerFacts {
            version: String::new(),
            max_documents: 10,
            max_body_bytes: 1000,
            max_batch_tokens: 100,
            max_concurrent_requests: 10,
            tokenization_workers: 1,
            started_unix_seconds: 0,
        };
        let app = App {
            models: Arc::new(Models::new(false, Arc::default())),
            loader: None,
            server,
            limits: api::Limits { max_documents: 10, ..api::Limits::default() },
            tenants: Arc::new(Tenants::anonymous()),
            bodies: Bounds { max_bytes: 1000, timeout: TIMEOUTS.body, budget: Budget::new(1000) },
            metrics: Arc::new(Metrics::new()),
            health: Arc::clone(&health),
        };
        let shared = Shared { app: Arc::new(app), tls: None, timeouts: TIMEOUTS, leaving };
        tokio::spawn(serve(shared, Box::new(theirs)));
        Self { stream, begun: Instant::now(), leave, health }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
    }

    /// One answer, which must fit into the pipe.
    async fn answer(&mut self) -> String {
        let mut bytes = vec![0; PIPE_BYTES];
        let num_bytes = self.stream.read(&mut bytes).await.expect("the connection is open");
        bytes.truncate(num_bytes);
        String::from_utf8(bytes).expect("text")
    }

    /// What still comes, and after how many seconds of the connection's life it ends.
    async fn end(&mut self) -> (String, u64) {
        let mut text = String::new();
        // A connection that is cut may say so.
        let _ = self.stream.read_to_string(&mut text).await;
        (text, self.begun.elapsed().as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_at_the_header_timeout() {
    assert_eq!(Client::connect().end().await, (String::new(), 10));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_cut_a_header_timeout_after_its_first_byte() {
    let mut client = Client::connect();
    client.send(PROBE).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    sleep(Duration::from_secs(25)).await;
    for byte in &PROBE[..4] {
        client.send(&[*byte]).await;
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(client.end().await, (String::new(), 35));
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_between_requests_for_the_idle_timeout() {
    let mut client = Client::connect();
    for _ in 0..3 {
        client.send(PROBE).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 200"));
        sleep(Duration::from_secs(39)).await;
    }
    assert_eq!(client.end().await, (String::new(), 2 * 39 + 40));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_as_the_idle_time_ends_is_answered() {
    for _ in 0..20 {
        let mut client = Client::connect();
        client.send(PROBE).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 200"));
        // Both wake at one instant, this client first.
        sleep(TIMEOUTS.idle).await;
        client.send(PROBE).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_is_answered_408_at_the_body_timeout() {
    let mut client = Client::connect();
    client.send(HEAD).await;
    for _ in 0..19 {
        client.send(b" ").await;
        sleep(Duration::from_secs(1)).await;
    }
    assert!(client.answer().await.starts_with("HTTP/1.1 408"));
    assert_eq!(client.begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_answer_is_cut_at_the_write_timeout() {
    let mut client = Client::connect();
    client.send(LONG_ANSWER).await;
    sleep(Duration::from_secs(31)).await;
    let (text, _) = client.end().await;
    assert_eq!(text.len(), PIPE_BYTES, "what stood in the pipe, and no more");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_answer_byte_by_byte_gets_no_more_time() {
    let mut client = Client::connect();
    client.send(LONG_ANSWER).await;
    let mut taken = 0;
    while client.stream.read(&mut [0]).await.is_ok_and(|read| read == 1) {
        taken += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let page = Metrics::new().render(Load::default(), false);
    // One at once, 300 in the 30 seconds, and what stood in the pipe.
    let most = 1 + 300 + PIPE_BYTES;
    assert!(taken <= most && most < page.len(), "{taken} bytes of {}", page.len());
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_what_rests_at_once_and_what_works_after_its_answer() {
    let mut resting = Client::connect();
    resting.send(PROBE).await;
    resting.answer().await;
    resting.leave.send(true).expect("the connection listens");
    assert_eq!(resting.end().await, (String::new(), 0));

    let mut working = Client::connect();
    working.send(HEAD).await;
    sleep(Duration::from_secs(1)).await;
    working.leave.send(true).expect("the connection listens");
    sleep(Duration::from_secs(1)).await;
    working.send(&[b' '; 900]).await;
    let (text, _) = working.end().await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn while_draining_answers_ask_the_client_to_go_elsewhere() {
    let mut client = Client::connect();
    client.health.drain();
    client.send(PROBE).await;
    let (text, seconds) = client.end().await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("connection: close"), "{text}");
    assert_eq!(seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn http2_is_told_by_its_first_bytes_and_rests_no_longer_than_the_idle_timeout() {
    let Client { stream, begun, leave: _leave, .. } = Client::connect();
    let (mut requests, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for path in ["/live", "/metrics"] {
        let request = Request::get(format!("http://x{path}")).body(Full::<Bytes>::default());
        let response = requests.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
    }
    connection.await.expect("no panic").expect("a goodbye, no error");
    assert_eq!(begun.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_takes_no_answer_is_cut_though_it_answers_pings() {
    let Client { stream, begun, leave: _leave, .. } = Client::connect();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64);
    let (mut requests, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = Request::get("http://x/metrics").body(Full::<Bytes>::default());
    let response = requests.send_request(request.expect("a request")).await.expect("a head");
    // Its body is never asked for. The idle timeout says goodbye, the write timeout ends it.
    let _ = connection.await.expect("no panic");
    assert_eq!(begun.elapsed().as_secs(), 40 + 30);
    drop(response);
}
