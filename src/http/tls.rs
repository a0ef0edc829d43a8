//! TLS by rustls, with certificates that are replaced while connections run.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::address::Io;

/// Certificates live for days; a second after the files changed is at once.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Where the certificate chain and its key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The server's side of TLS.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: TlsFiles,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What new connections are shown.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The bytes of both files.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads the files. HTTP/2 is offered first.
    ///
    /// # Errors
    /// The file that cannot be read or used, and why.
    pub(super) fn load(files: TlsFiles) -> Result<Self> {
        let key = files.read()?.parse(&files)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let versions = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?;
        let resolver = Arc::clone(&current) as Arc<dyn ResolvesServerCert>;
        let mut config = versions.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current, files })
    }

    /// The handshake.
    ///
    /// # Errors
    /// What the client said that was no TLS, or none we speak.
    pub(super) async fn accept(&self, stream: Box<dyn Io>) -> Result<TlsStream<Box<dyn Io>>> {
        self.acceptor.accept(stream).await
    }

    /// Follows the files for as long as it is polled. What cannot be used is told, and what was in use stays.
    pub(super) async fn follow_files(self) {
        let mut seen = None;
        loop {
            let files = self.files.clone();
            // A folder on a network may block.
            let read = tokio::task::spawn_blocking(move || files.read()).await;
            if let Ok(Ok(pem)) = read
                && seen.as_ref() != Some(&pem)
            {
                // The first look finds what `load` took, or what changed since.
                self.replace(&pem, seen.is_some());
                seen = Some(pem);
            }
            sleep(RELOAD_INTERVAL).await;
        }
    }

    fn replace(&self, pem: &Pem, tell: bool) {
        match pem.parse(&self.files) {
            Ok(key) => {
                *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                if tell {
                    tracing::info!(cert = %self.files.cert.display(), "certificate replaced");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate cannot be used; the old one stays");
            }
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Pem> {
        let read = |path: &PathBuf| {
            let named = |e: Error| Error::new(e.kind(), format!("{}: {e}", path.display()));
            fs::read(path).map_err(named)
        };
        Ok(Pem { cert: read(&self.cert)?, key: read(&self.key)? })
    }
}

impl Pem {
    /// The chain and its key, which must belong together.
    fn parse(&self, files: &TlsFiles) -> Result<CertifiedKey> {
        let wrong = |path: &PathBuf, why: String| {
            Error::new(ErrorKind::InvalidData, format!("{}: {why}", path.display()))
        };
        let chain = CertificateDer::pem_slice_iter(&self.cert)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| wrong(&files.cert, e.to_string()))?;
        if chain.is_empty() {
            return Err(wrong(&files.cert, "no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|e| wrong(&files.key, e.to_string()))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|e| wrong(&files.key, e.to_string()))
    }
}
