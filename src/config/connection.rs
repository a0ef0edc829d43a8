//! The settings of connections: where they come from, how long they may take, how they end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, millis};
use crate::http::{Address, Timeouts, TlsFiles};

/// What was written of them.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
#[serde(default)]
pub struct ConnectionSettings {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "RERANKD_HOST", value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 lets the system choose [default: 8080]
    #[arg(long, short, env = "RERANKD_PORT")]
    pub port: Option<u16>,
    /// Unix socket to listen on instead of an address and a port
    #[arg(long, env = "RERANKD_UNIX_SOCKET", value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,
    /// Certificate chain in PEM: TLS, with HTTP/2 and HTTP/1.1. Both files are followed: what changes in them
    /// is shown to new connections, without a restart
    #[arg(long, env = "RERANKD_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, env = "RERANKD_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Open connections; more wait to be accepted [default: 4096]
    #[arg(long, env = "RERANKD_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,
    /// Time for a client to send a request's head, in milliseconds; also to shake hands and begin
    /// [default: 15000]
    #[arg(long, env = "RERANKD_HEADER_TIMEOUT_MS", value_name = "MS")]
    pub header_timeout_ms: Option<u64>,
    /// Time for a client to send a request's body, in milliseconds [default: 60000]
    #[arg(long, env = "RERANKD_BODY_TIMEOUT_MS", value_name = "MS")]
    pub body_timeout_ms: Option<u64>,
    /// Time between two requests of a connection, in milliseconds; longer than a load balancer's, so that the
    /// side that asks is the one that closes [default: 75000]
    #[arg(long, env = "RERANKD_IDLE_TIMEOUT_MS", value_name = "MS")]
    pub idle_timeout_ms: Option<u64>,
    /// Time for a client to take an answer, in milliseconds [default: 60000]
    #[arg(long, env = "RERANKD_WRITE_TIMEOUT_MS", value_name = "MS")]
    pub write_timeout_ms: Option<u64>,
    /// Time after SIGTERM in which the server is not ready but still accepts, in milliseconds: load balancers
    /// must notice within it [default: 500]
    #[arg(long, env = "RERANKD_DRAIN_DELAY_MS", value_name = "MS")]
    pub drain_delay_ms: Option<u64>,
    /// Time for admitted requests to finish after that, in milliseconds [default: 30000]
    #[arg(long, env = "RERANKD_DRAIN_TIMEOUT_MS", value_name = "MS")]
    pub drain_timeout_ms: Option<u64>,
}

/// The same, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionConfig {
    pub address: Address,
    pub tls: Option<TlsFiles>,
    pub max_connections: usize,
    pub timeouts: Timeouts,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

impl ConnectionConfig {
    /// # Errors
    /// A setting out of range, or at odds with another, by its name.
    pub(super) fn new(settings: ConnectionSettings) -> Result<Self, ConfigError> {
        let host = settings.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let address = match settings.unix_socket {
            Some(_) if settings.host.or(settings.port.map(|_| host)).is_some() => {
                return Err(ConfigError::new("unix-socket", "stands instead of host and port"));
            }
            Some(path) => Address::Unix(path),
            None => Address::Tcp(SocketAddr::new(host, settings.port.unwrap_or(8080))),
        };
        let tls = match (settings.tls_cert, settings.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::new("tls-cert", "needs tls-key")),
            (None, Some(_)) => return Err(ConfigError::new("tls-key", "needs tls-cert")),
        };
        Ok(Self {
            address,
            tls,
            max_connections: super::at_least(
                1,
                "max-connections",
                settings.max_connections.unwrap_or(4096),
            )?,
            timeouts: Timeouts {
                header: millis("header-timeout-ms", settings.header_timeout_ms, 15_000)?,
                body: millis("body-timeout-ms", settings.body_timeout_ms, 60_000)?,
                idle: millis("idle-timeout-ms", settings.idle_timeout_ms, 75_000)?,
                write: millis("write-timeout-ms", settings.write_timeout_ms, 60_000)?,
            },
            drain_delay: Duration::from_millis(settings.drain_delay_ms.unwrap_or(500)),
            drain_timeout: millis("drain-timeout-ms", settings.drain_timeout_ms, 30_000)?,
        })
    }
}

impl ConnectionSettings {
    /// These settings, with the file's where they say nothing.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        fill!(self, file:
            host, port, unix_socket, tls_cert, tls_key, max_connections, header_timeout_ms, body_timeout_ms,
            idle_timeout_ms, write_timeout_ms, drain_delay_ms, drain_timeout_ms,
        )
    }
}
