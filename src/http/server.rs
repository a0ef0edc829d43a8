//! The accept loop: connections within bounds, and a drain that loses nothing.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::body::Budget;
use super::routes::{App, Serving, handle};
use crate::api;
use crate::api::info::ServerFacts;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::tenant::Tenants;

/// Request heads arrive at once from any client worth waiting for.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// While load balancers learn from the readiness probe that this server is leaving, it still accepts.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// Requests one HTTP/2 client may have open on a connection: admission bounds the rest.
const MAX_CONCURRENT_STREAMS: u32 = 256;

/// Bounds of the server.
#[derive(Debug, Clone)]
pub struct Options {
    pub server: ServerFacts,
    pub tenants: Arc<Tenants>,
    pub max_total_body_bytes: usize,
    pub max_connections: usize,
    pub drain_timeout: Duration,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    connections: Arc<Semaphore>,
    health: Arc<Health>,
    drain_timeout: Duration,
}

impl Server {
    /// Takes the address; requests wait in the system's queue until [`run`](Self::run).
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(
        listen: SocketAddr,
        options: Options,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> std::io::Result<Self> {
        let limits = api::Limits { max_documents: options.server.max_documents };
        let Options { server, tenants, max_total_body_bytes, max_connections, drain_timeout } =
            options;
        let bodies = Budget::new(max_total_body_bytes);
        let serving = Arc::default();
        let health_of_app = Arc::clone(&health);
        let app = App { serving, server, limits, tenants, bodies, metrics, health: health_of_app };
        Ok(Self {
            app: Arc::new(app),
            listener: TcpListener::bind(listen).await?,
            connections: Arc::new(Semaphore::new(max_connections)),
            health,
            drain_timeout,
        })
    }

    /// Where the model goes once it is loaded; until then scoring is answered 503.
    pub fn slot(&self) -> Arc<OnceLock<Serving>> {
        Arc::clone(&self.app.serving)
    }

    /// # Errors
    /// The system does not know the address of its own socket.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is ready, then drains: readiness goes first, accepted requests are answered, and
    /// the function returns when the last connection is closed or the drain timeout has passed.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        tokio::pin!(stop);
        self.accept_until(&mut stop, &graceful).await;
        self.health.drain();
        tracing::info!("draining");
        let lame_duck = tokio::time::sleep(LAME_DUCK);
        tokio::pin!(lame_duck);
        self.accept_until(&mut lame_duck, &graceful).await;
        if tokio::time::timeout(self.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("the drain timeout passed with connections still open");
        }
    }

    async fn accept_until(
        &self,
        stop: &mut (impl Future<Output = ()> + Unpin),
        graceful: &GracefulShutdown,
    ) {
        loop {
            let accepted = async {
                match Arc::clone(&self.connections).acquire_owned().await {
                    Ok(permit) => (self.listener.accept().await, permit),
                    // The semaphore is never closed.
                    Err(_) => pending().await,
                }
            };
            let (accepted, permit) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut *stop => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = graceful.watch(self.connection(stream));
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(error, "a connection broke off");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: accepting at once again would only spin.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// One connection, HTTP/1.1 or HTTP/2 by its first bytes. Dropping it drops the requests in it: that is
    /// how a client that leaves cancels them.
    fn connection(
        &self,
        stream: TcpStream,
    ) -> impl GracefulConnection<Error = Box<dyn std::error::Error + Send + Sync>> + Send + 'static
    {
        // Answers are written in one piece, so waiting to fill a packet only adds latency. An error here
        // means the client is gone already, which the connection finds out by itself.
        let _ = stream.set_nodelay(true);
        let app = Arc::clone(&self.app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(handle(app, request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_CONCURRENT_STREAMS);
        builder.serve_connection(TokioIo::new(stream), service).into_owned()
    }
}
