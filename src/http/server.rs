//! The accept loop: connections within bounds, and a drain that loses nothing.

use std::future::pending;
use std::io::{Error, Result};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::activity::Timeouts;
use super::address::{Address, Listener};
use super::body::{Bounds, Budget};
use super::connection::{self, Shared};
use super::routes::App;
use super::tls::{Tls, TlsFiles};
use crate::api;
use crate::api::info::ServerFacts;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::rerank::{Loader, Models};
use crate::tenant::Tenants;

/// Connections the system holds for us; what tokio asks it for.
const SYSTEM_QUEUE: usize = 1024;

/// Bounds of the server.
#[derive(Debug, Clone)]
pub struct Options {
    pub address: Address,
    /// `None`: plain text.
    pub tls: Option<TlsFiles>,
    pub server: ServerFacts,
    /// While there are none, scoring is answered 503.
    pub models: Arc<Models>,
    /// `None`: the models stay as they are.
    pub loader: Option<Arc<Loader>>,
    pub tenants: Arc<Tenants>,
    /// Of all bodies that are being read or worked on.
    pub max_total_body_bytes: usize,
    pub max_connections: usize,
    pub timeouts: Timeouts,
    /// While load balancers learn from the readiness probe that this server is leaving, it still accepts.
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listener: Listener,
    tls: Option<Tls>,
    options: Options,
    connections: Arc<Semaphore>,
    health: Arc<Health>,
}

impl Server {
    /// Takes the address; requests wait in the system's queue until [`run`](Self::run).
    ///
    /// # Errors
    /// The address is taken or not ours, or the certificate cannot be used.
    pub async fn bind(
        options: Options,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Result<Self> {
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let listener = Listener::bind(&options.address).await.map_err(|e| {
            Error::new(e.kind(), format!("cannot listen on {}: {e}", options.address))
        })?;
        let bodies = Bounds {
            max_bytes: options.server.max_body_bytes,
            timeout: options.timeouts.body,
            budget: Budget::new(options.max_total_body_bytes),
        };
        let app = App {
            models: Arc::clone(&options.models),
            loader: options.loader.clone(),
            server: options.server.clone(),
            limits: api::Limits {
                max_documents: options.server.max_documents,
                ..api::Limits::default()
            },
            tenants: Arc::clone(&options.tenants),
            bodies,
            metrics,
            health: Arc::clone(&health),
        };
        let connections = Arc::new(Semaphore::new(options.max_connections));
        Ok(Self { app: Arc::new(app), listener, tls, options, connections, health })
    }

    /// # Errors
    /// The system does not know the address of its own socket.
    pub fn address(&self) -> Result<Address> {
        self.listener.address()
    }

    /// Serves until `stop` is ready, then drains: readiness goes first, accepted requests are answered, and
    /// the function returns when the last connection is closed or the drain timeout has passed.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        // Told to every connection; those that are not waited for see it dropped.
        let (leave, leaving) = watch::channel(false);
        let shared = Shared {
            app: Arc::clone(&self.app),
            tls: self.tls.clone(),
            timeouts: self.options.timeouts,
            leaving,
        };
        let follow_files = async {
            match self.tls.clone() {
                Some(tls) => tls.follow_files().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.accept_until(stop, &shared) => {}
            () = follow_files => {}
        }
        self.health.drain();
        tracing::info!("draining");
        self.accept_until(sleep(self.options.drain_delay), &shared).await;
        // Whoever the system let in already is in.
        for _ in 0..SYSTEM_QUEUE {
            if timeout(Duration::ZERO, self.accept(&shared)).await.is_err() {
                break;
            }
        }
        // The receivers are the connections; without one there is nobody to tell.
        let _ = leave.send(true);
        drop(self.listener);
        let all = u32::try_from(self.options.max_connections).unwrap_or(u32::MAX);
        if timeout(self.options.drain_timeout, self.connections.acquire_many(all)).await.is_err() {
            tracing::warn!("the drain timeout passed with connections still open");
        }
    }

    async fn accept_until(&self, stop: impl Future<Output = ()>, shared: &Shared) {
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = self.accept(shared) => {}
                () = &mut stop => return,
            }
        }
    }

    /// Waits for the next connection and serves it in a task of its own.
    async fn accept(&self, shared: &Shared) {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
        match self.listener.accept().await {
            Ok(stream) => {
                let connection = connection::serve(shared.clone(), stream);
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting at once again would only spin.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
