//! One connection, from its handshake to its end: HTTP/1.1 or HTTP/2, by ALPN or by its first bytes.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::activity::{Activity, Due, Timeouts};
use super::address::Io;
use super::routes::{App, handle};
use super::tls::Tls;
use super::watched::Watched;
use crate::health::State;

/// Requests one HTTP/2 client may have open on a connection: admission bounds the rest.
const MAX_CONCURRENT_STREAMS: u32 = 256;

/// What is held of a request's head, and of a body ahead of its reader. Bearer tokens and cookies fit.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A peer that vanished without a word is found out by this ping, or soon after it.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// What every connection shares.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) app: Arc<App>,
    pub(super) tls: Option<Tls>,
    pub(super) timeouts: Timeouts,
    /// True once connections are to end when their requests are answered.
    pub(super) leaving: watch::Receiver<bool>,
}

/// Serves one connection to its end. Dropping the future drops the requests in it; so does a client that
/// leaves, which is how it cancels them.
pub(super) async fn serve(shared: Shared, stream: Box<dyn Io>) {
    let stream: Box<dyn Io> = match &shared.tls {
        None => stream,
        Some(tls) => match timeout(shared.timeouts.header, tls.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => return tracing::debug!(%error, "no TLS handshake"),
            Err(_) => return tracing::debug!("no TLS handshake in time"),
        },
    };
    let activity = Arc::new(Activity::new());
    let Shared { app, timeouts, mut leaving, .. } = shared;
    let stream = Watched::new(stream, Arc::clone(&activity), timeouts.write);
    let service = service_fn(|request: Request<Incoming>| {
        let version = request.version();
        let (busy, app) = (activity.request(version), Arc::clone(&app));
        async move {
            let mut response = handle(Arc::clone(&app), request).await;
            if app.health.state() == State::Draining && version < Version::HTTP_2 {
                // The client's next request goes to another server.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut is_leaving = false;
    loop {
        let due = activity.due(&timeouts);
        tokio::select! {
            // In this order: a request that is there when the idle time ends is read before the connection is closed.
            biased;
            _ = connection.as_mut() => return,
            () = activity.changed() => continue,
            () = reached(due) => if let Due::Cut(_) = due { return },
            // Its sender outlives every connection that is waited for.
            _ = leaving.wait_for(|leaving| *leaving), if !is_leaving => is_leaving = true,
        }
        activity.closing();
        connection.as_mut().graceful_shutdown();
    }
}

async fn reached(due: Due) {
    match due {
        Due::Nothing => pending().await,
        Due::Close(at) | Due::Cut(at) => sleep_until(at).await,
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Heads are timed by `Activity`: hyper's own timeout would take the time between requests for one.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}
