//! Certificates: read, checked, and read again when their files change.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use super::TlsConfig;

/// The certificate that listeners show.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: ArcSwap<ServerConfig>,
    /// When the files in use were changed last.
    read: std::sync::Mutex<Option<Vec<SystemTime>>>,
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// Reads the files that `config` names; `None` where it names none.
    ///
    /// # Errors
    /// Names the key, the file and what is wrong with it.
    pub fn load(config: &TlsConfig) -> io::Result<Option<Self>> {
        let files = match (&config.cert, &config.key) {
            (Some(cert), Some(key)) => {
                Files { cert: cert.clone(), key: key.clone(), client_ca: config.client_ca.clone() }
            }
            (None, None) if config.client_ca.is_none() => return Ok(None),
            (None, _) => return Err(io::Error::other("server.tls.cert is missing: TLS wants cert and key")),
            (_, None) => return Err(io::Error::other("server.tls.key is missing: TLS wants cert and key")),
        };
        let read = files.modified();
        let current = ArcSwap::from_pointee(files.read()?);
        Ok(Some(Self { files, current, read: std::sync::Mutex::new(read) }))
    }

    /// Reads the files again if one of them has changed since they were read well.
    pub fn reload_if_changed(&self) {
        if *self.read() != self.files.modified() {
            self.reload();
        }
    }

    /// Reads the files again. Bad ones are reported, and what was read before stays until they are good.
    pub fn reload(&self) {
        // First: what changes while they are read is read again.
        let now = self.files.modified();
        match self.files.read() {
            Ok(config) => {
                *self.read() = now;
                self.current.store(Arc::new(config));
                info!(cert = %self.files.cert.display(), "read the changed TLS certificate");
            }
            Err(error) => error!(%error, "the changed TLS certificate is bad; the one before stays"),
        }
    }

    fn read(&self) -> std::sync::MutexGuard<'_, Option<Vec<SystemTime>>> {
        self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

impl Files {
    /// When the files were changed last; `None` while one of them is missing, as in the middle of a swap.
    fn modified(&self) -> Option<Vec<SystemTime>> {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        paths.into_iter().flatten().map(|path| path.metadata().and_then(|file| file.modified()).ok()).collect()
    }

    fn read(&self) -> io::Result<ServerConfig> {
        let chain = certificates("server.tls.cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad("server.tls.key", &self.key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("server.tls.client_ca", path)? {
                    roots.add(certificate).map_err(|error| bad("server.tls.client_ca", path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|error| bad("server.tls.client_ca", path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| bad("server.tls.cert", &self.cert, &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(key: &str, path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| bad(key, path, &error))?;
    if certificates.is_empty() {
        return Err(bad(key, path, &"it holds no certificate; PEM is wanted"));
    }
    Ok(certificates)
}

fn bad(key: &str, path: &Path, problem: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{key}: {}: {problem}", path.display()))
}
