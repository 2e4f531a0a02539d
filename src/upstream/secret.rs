//! Tokens and passwords, written in the configuration or kept in a file that may change while we run.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::ConfigError;

/// How often a file is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A secret that may be there. Debug prints nothing of it.
#[derive(Debug)]
pub(super) enum Secret {
    Absent,
    Fixed(SecretString),
    File { key: &'static str, path: PathBuf, seen: Mutex<Seen> },
}

#[derive(Debug)]
pub(super) struct Seen {
    value: SecretString,
    version: Version,
    looked_at: Instant,
}

/// What changes when a file does, also by a rename or a Kubernetes symlink.
type Version = (Option<SystemTime>, u64);

impl Secret {
    /// Takes the value of `key`, or of the file that `file_key` names.
    pub(super) fn new(
        (key, value): (&'static str, Option<&SecretString>),
        (file_key, path): (&'static str, Option<&PathBuf>),
    ) -> Result<Self, ConfigError> {
        match (value, path) {
            (Some(_), Some(_)) => Err(ConfigError::new(key, format!("set this or {file_key}, not both"))),
            (None, None) => Ok(Self::Absent),
            (Some(value), None) => Ok(Self::Fixed(check(value.expose_secret()).map_err(|p| ConfigError::new(key, p))?)),
            (None, Some(path)) => {
                let (value, version) = read(path)
                    .map_err(|problem| ConfigError::new(file_key, format!("{}: {problem}", path.display())))?;
                let seen = Mutex::new(Seen { value, version, looked_at: Instant::now() });
                Ok(Self::File { key: file_key, path: path.clone(), seen })
            }
        }
    }

    /// The value as it is now. A file that can't be read any more leaves the last value standing.
    pub(super) fn current(&self) -> Option<SecretString> {
        match self {
            Self::Absent => None,
            Self::Fixed(value) => Some(value.clone()),
            Self::File { key, path, seen } => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.looked_at.elapsed() >= LOOK_INTERVAL {
                    seen.looked_at = Instant::now();
                    if version(path).ok() != Some(seen.version) {
                        match read(path) {
                            Ok((value, version)) => {
                                tracing::info!(key, path = %path.display(), "reread a secret that changed");
                                (seen.value, seen.version) = (value, version);
                            }
                            Err(problem) => {
                                tracing::warn!(key, path = %path.display(), problem, "kept the last value of a secret");
                            }
                        }
                    }
                }
                Some(seen.value.clone())
            }
        }
    }
}

fn version(path: &Path) -> std::io::Result<Version> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.modified().ok(), meta.len()))
}

fn read(path: &Path) -> Result<(SecretString, Version), String> {
    let version = version(path).map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((check(text.trim())?, version))
}

/// A secret goes into a header: no control character, no line break, nothing empty.
fn check(text: &str) -> Result<SecretString, String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character or a line break".into());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secret: &Secret) -> String {
        secret.current().unwrap().expose_secret().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_reread_when_it_changes_and_kept_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "first\n").unwrap();
        let secret = Secret::new(("upstream.token", None), ("upstream.token_file", Some(&path))).unwrap();
        assert_eq!(text(&secret), "first");
        std::fs::write(&path, "the second\n").unwrap();
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(text(&secret), "the second");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(LOOK_INTERVAL).await;
        assert_eq!(text(&secret), "the second");
        assert!(!format!("{secret:?}").contains("second"));
    }

    #[test]
    fn a_secret_that_cannot_be_sent_is_refused_without_being_shown() {
        let bad: SecretString = "hf_x\ninjected: 1".into();
        let error = Secret::new(("upstream.token", Some(&bad)), ("upstream.token_file", None)).unwrap_err();
        assert!(error.to_string().starts_with("upstream.token: ") && !error.to_string().contains("hf_x"), "{error}");
        let missing = PathBuf::from("/nonexistent/token");
        let error = Secret::new(("upstream.token", None), ("upstream.token_file", Some(&missing))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/token"), "{error}");
    }
}
