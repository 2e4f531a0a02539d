//! How the bucket is reached: address, trust, credentials, time limits.

use std::{
    path::PathBuf,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use aws_config::{
    BehaviorVersion, Region, retry::RetryConfig, stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_credential_types::provider::{error::CredentialsError, future};
use aws_sdk_s3::{
    Client,
    config::{
        Builder, Credentials, IdentityCache, ProvideCredentials, RequestChecksumCalculation,
        ResponseChecksumValidation, SharedHttpClient, timeout::TimeoutConfig,
    },
};
use aws_smithy_http_client::tls::{self, TlsContext};
use aws_smithy_runtime_api::shared::IntoShared as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::{loops::PerLoop, trust};
use crate::store::{Error, ErrorKind, Result, S3Config};

/// A server that takes longer to answer a connection is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// One attempt, up to its answer's first byte; not the reading of a body. Uploads have [`UPLOAD_WITHIN`].
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// One attempt to upload one part, or to complete an upload of thousands of parts. A throttled store is
/// slow and right; one that takes no byte for [`STALLED_AFTER`] is cut off long before this.
pub(super) const UPLOAD_WITHIN: Duration = Duration::from_mins(15);

/// A body, in either direction, that does not move for so long has stalled.
const STALLED_AFTER: Duration = Duration::from_mins(1);

/// Attempts at each request, the first included.
const ATTEMPTS: u32 = 4;

/// Region to sign for where nobody names one; servers other than AWS do not care.
const DEFAULT_REGION: &str = "us-east-1";

/// The client for what is configured. It asks nothing of the server yet.
pub(super) async fn client(config: &S3Config) -> Result<Client> {
    check(config)?;
    let http = http_client(config).await?;
    let mut builder = match static_credentials(config)? {
        Some(credentials) => aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone().unwrap_or_else(|| DEFAULT_REGION.into())))
            // The provider remembers what it read, and looks each time whether the file has changed.
            .identity_cache(IdentityCache::no_cache())
            .credentials_provider(credentials),
        None => from_the_usual_chain(config, http.clone()).await,
    };
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let builder = builder
        .force_path_style(config.path_style)
        // Trailing checksums are refused by Ceph and Garage and stored as content by others.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(within(ANSWER_WITHIN))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().upload_enabled(true).grace_period(STALLED_AFTER).build(),
        )
        .http_client(http);
    Ok(Client::from_conf(builder.build()))
}

/// Whether the server is asked without TLS.
pub(super) fn is_plain(config: &S3Config) -> bool {
    let endpoint = config.endpoint.as_ref().and_then(|endpoint| endpoint.parse::<http::Uri>().ok());
    endpoint.is_some_and(|uri| uri.scheme() == Some(&http::uri::Scheme::HTTP))
}

/// Time limits with `attempt` for one attempt.
pub(super) fn within(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).operation_attempt_timeout(attempt).build()
}

/// One attempt: for what must not be tried again unseen, since an answer that was lost has consequences.
pub(super) fn once() -> Builder {
    Builder::new().retry_config(RetryConfig::disabled())
}

pub(super) fn misconfigured(problem: String) -> Error {
    Error::new(ErrorKind::Misconfigured(problem))
}

fn check(config: &S3Config) -> Result<()> {
    if config.bucket.is_empty() {
        return Err(misconfigured("store.s3.bucket is empty: name the bucket to keep objects in".into()));
    }
    if let Some(endpoint) = &config.endpoint
        && !endpoint.parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        })
    {
        return Err(misconfigured(format!(
            "store.s3.endpoint {endpoint:?} is no URL of a server, such as http://minio:9000"
        )));
    }
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    if !config.prefix.is_empty() && !config.prefix.split('/').all(plain) {
        return Err(misconfigured(format!(
            "store.s3.prefix {:?} must be names joined by '/', without '/' at its ends",
            config.prefix
        )));
    }
    Ok(())
}

/// A client that never goes through a proxy: the SDK's own default reads the proxy variables, which here
/// mean the way out to the Hub.
async fn http_client(config: &S3Config) -> Result<SharedHttpClient> {
    let trust = trust::store(config).await?;
    let context =
        TlsContext::builder().with_trust_store(trust).build().map_err(|error| misconfigured(error.to_string()))?;
    let make = move || {
        aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .tls_context(context.clone())
            .build_https()
    };
    Ok(PerLoop::new(make).into_shared())
}

async fn from_the_usual_chain(config: &S3Config, http: SharedHttpClient) -> Builder {
    let mut chain = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Some(region) = config.region.clone() {
        chain = chain.region(Region::new(region));
    }
    let shared = chain.load().await;
    let region = shared.region().cloned().unwrap_or_else(|| Region::from_static(DEFAULT_REGION));
    Builder::from(&shared).region(region)
}

fn static_credentials(config: &S3Config) -> Result<Option<StaticKeys>> {
    let secret = match (&config.secret_key, &config.secret_key_file) {
        (Some(_), Some(_)) => {
            return Err(misconfigured(
                "store.s3.secret_key and store.s3.secret_key_file are both set: keep one".into(),
            ));
        }
        (Some(secret), None) => Secret::Given(secret.clone()),
        (None, Some(path)) => Secret::File { path: path.clone(), last: Mutex::default() },
        (None, None) if config.access_key.is_none() => return Ok(None),
        (None, None) => {
            return Err(misconfigured(
                "store.s3.access_key is set and its secret is not: set store.s3.secret_key_file or store.s3.secret_key"
                    .into(),
            ));
        }
    };
    let Some(access_key) = config.access_key.clone() else {
        return Err(misconfigured("store.s3.secret_key is set and store.s3.access_key is not".into()));
    };
    Ok(Some(StaticKeys { access_key, secret }))
}

/// Keys from our configuration.
#[derive(Debug)]
struct StaticKeys {
    access_key: String,
    secret: Secret,
}

#[derive(Debug)]
enum Secret {
    Given(SecretString),
    /// Read again when its time of change is another.
    File {
        path: PathBuf,
        last: Mutex<Option<(SystemTime, SecretString)>>,
    },
}

impl StaticKeys {
    async fn secret(&self) -> std::io::Result<SecretString> {
        match &self.secret {
            Secret::Given(secret) => Ok(secret.clone()),
            Secret::File { path, last } => {
                let changed = tokio::fs::metadata(path).await?.modified()?;
                if let Some((read, secret)) = &*last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
                    && *read == changed
                {
                    return Ok(secret.clone());
                }
                let secret = SecretString::from(tokio::fs::read_to_string(path).await?.trim());
                *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((changed, secret.clone()));
                Ok(secret)
            }
        }
    }

    async fn credentials(&self) -> std::result::Result<Credentials, CredentialsError> {
        let secret = self.secret().await.map_err(|error| {
            let path = match &self.secret {
                Secret::File { path, .. } => path.display().to_string(),
                Secret::Given(_) => String::new(),
            };
            CredentialsError::invalid_configuration(format!("store.s3.secret_key_file {path}: {error}"))
        })?;
        Ok(Credentials::new(&self.access_key, secret.expose_secret(), None, None, "hubgate configuration"))
    }
}

impl ProvideCredentials for StaticKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> S3Config {
        S3Config { bucket: "models".into(), ..S3Config::default() }
    }

    #[tokio::test]
    async fn a_secret_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "first\n").unwrap();
        let config = S3Config { access_key: Some("me".into()), secret_key_file: Some(path.clone()), ..config() };
        let keys = static_credentials(&config).unwrap().unwrap();
        assert_eq!(keys.credentials().await.unwrap().secret_access_key(), "first");
        std::fs::write(&path, "second").unwrap();
        let later = SystemTime::now() + Duration::from_secs(2);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(keys.credentials().await.unwrap().secret_access_key(), "second");
        std::fs::remove_file(&path).unwrap();
        let error = format!("{:?}", keys.credentials().await.unwrap_err());
        assert!(error.contains("store.s3.secret_key_file"), "{error}");
    }

    #[tokio::test]
    async fn what_is_set_up_wrongly_is_named_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let no_pem = folder.path().join("ca.pem");
        std::fs::write(&no_pem, "no certificate").unwrap();
        let secret: Option<SecretString> = Some("secret".into());
        let wrong = [
            ("store.s3.bucket", S3Config::default()),
            ("store.s3.endpoint", S3Config { endpoint: Some("minio:9000".into()), ..config() }),
            ("store.s3.endpoint", S3Config { endpoint: Some("ftp://minio".into()), ..config() }),
            ("store.s3.prefix", S3Config { prefix: "/a".into(), ..config() }),
            ("store.s3.prefix", S3Config { prefix: "a/../b".into(), ..config() }),
            ("store.s3.secret_key_file", S3Config { access_key: Some("me".into()), ..config() }),
            ("store.s3.access_key", S3Config { secret_key: secret.clone(), ..config() }),
            (
                "store.s3.secret_key_file",
                S3Config {
                    access_key: Some("me".into()),
                    secret_key: secret,
                    secret_key_file: Some("x".into()),
                    ..config()
                },
            ),
            ("store.s3.ca_file", S3Config { ca_file: Some("/nowhere/ca.pem".into()), ..config() }),
            ("store.s3.ca_file", S3Config { ca_file: Some(no_pem), ..config() }),
        ];
        for (key, config) in wrong {
            let error = client(&config).await.unwrap_err();
            assert!(matches!(&error.kind, ErrorKind::Misconfigured(what) if what.contains(key)), "{key}: {error:?}");
        }
    }

    #[tokio::test]
    async fn secrets_do_not_print() {
        let config =
            S3Config { access_key: Some("me".into()), secret_key: Some("sesame".to_owned().into()), ..config() };
        let printed = format!("{config:?} {:?}", static_credentials(&config).unwrap());
        assert!(!printed.contains("sesame"), "{printed}");
    }
}
