//! Whom we believe to be the bucket's server: the authorities of `store.s3.ca_file`, else those of this machine. It may
//! have none, as a bare image: then no https server can be trusted, which is said before one is asked.

use std::{path::Path, sync::LazyLock};

use aws_smithy_http_client::tls::TrustStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::client::misconfigured;
use crate::store::{Result, S3Config};

/// What helps where a machine has no authorities.
const REMEDY: &str = "install them (the package ca-certificates), name their file in SSL_CERT_FILE, or name the store's \
                      own in store.s3.ca_file";

/// Why this machine has no certificate authorities; `None` where it has some. Looked for once, where OpenSSL would,
/// as the SDK does.
static MACHINE_HAS_NONE: LazyLock<Option<String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    let why = || found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    (usable == 0).then(|| format!("this machine has no certificate authorities{}", why()))
});

/// The authorities that a client believes.
pub(super) async fn store(config: &S3Config) -> Result<TrustStore> {
    if let Some(path) = &config.ca_file {
        return of_file(path).await;
    }
    // Told to take the machine's where it has none, the SDK goes on without any, and in a debug build panics.
    let takes_the_machines = needs_the_machines(config) && MACHINE_HAS_NONE.is_none();
    Ok(if takes_the_machines { TrustStore::default() } else { TrustStore::empty() })
}

async fn of_file(path: &Path) -> Result<TrustStore> {
    let unreadable = |problem: String| misconfigured(format!("store.s3.ca_file {}: {problem}", path.display()));
    let pem = tokio::fs::read(path).await.map_err(|error| unreadable(error.to_string()).caused_by(error))?;
    // The SDK panics on certificates that it can't parse; rustls says so.
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate in PEM form".into()));
    }
    Ok(TrustStore::empty().with_pem_certificate(pem))
}

/// Whether any server is asked by https that `ca_file` doesn't vouch for: the store's, or those that give a role its
/// keys.
fn needs_the_machines(config: &S3Config) -> bool {
    let is_plain = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    config.ca_file.is_none() && !(is_plain && config.access_key.is_some())
}

/// That the store can't be trusted, and the remedy: where this machine's authorities are needed and it has none.
pub(in crate::store) fn warning(config: &S3Config) -> Option<String> {
    let why = MACHINE_HAS_NONE.as_ref().filter(|_| needs_the_machines(config))?;
    Some(format!("{why}, so that no https server of store.s3 can be trusted: {REMEDY}"))
}

/// What to do about a server whose certificate is not trusted.
pub(super) fn remedy() -> String {
    match &*MACHINE_HAS_NONE {
        None => "name its authority in store.s3.ca_file".into(),
        Some(why) => format!("name its authority in store.s3.ca_file. Without that key: {why}; {REMEDY}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_authorities_are_needed_for_https_without_a_file_and_for_roles() {
        let config = |endpoint: Option<&str>, key: Option<&str>, file: Option<&str>| S3Config {
            endpoint: endpoint.map(Into::into),
            access_key: key.map(Into::into),
            ca_file: file.map(Into::into),
            ..S3Config::default()
        };
        for (endpoint, key, file, needed) in [
            (None, Some("key"), None, true),
            (Some("https://minio"), Some("key"), None, true),
            (Some("https://minio"), Some("key"), Some("ca.pem"), false),
            (Some("http://minio"), Some("key"), None, false),
            (Some("http://minio"), None, None, true),
        ] {
            assert_eq!(needs_the_machines(&config(endpoint, key, file)), needed, "{endpoint:?} {key:?} {file:?}");
        }
    }
}
