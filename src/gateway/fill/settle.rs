//! The other parts of a fill: hashing, storing, and how it ends.
//!
//! The order is the store's (DESIGN section 4): content verified, blob durable, log record and index entry
//! written, only then the end is announced and the last bytes go to readers.

use std::{os::unix::fs::FileExt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Fill, FillEnd, FillKey};
use crate::{
    hub::{BlobId, GitHasher, Sha256, Sha256Hasher},
    manifest::Manifest,
    store::{self, Key, PutMode, Stage},
};

/// How much is hashed in one go on a blocking thread, in bytes.
const HASH_STEP: u64 = 16 * 1024 * 1024;

/// How much of the file a hash step reads at once, in bytes.
const HASH_BUFFER: usize = 512 * 1024;

/// How often a store that lags behind is asked how far it is.
const STORE_POLL: Duration = Duration::from_millis(50);

/// How much the store may still have to take when the stage is committed, in bytes; readers wait out what
/// that costs. A store of parts may leave two of them, of which a large file has some 9,000.
const MAX_REST: u64 = 32 * 1024 * 1024;
const REST_OF_PARTS: u64 = 4000;

/// What was computed over the whole content.
struct Computed {
    sha256: Sha256,
    matches: bool,
}

impl Fill {
    /// Runs the fill to its end and announces it.
    pub(super) async fn run(self: Arc<Self>, stage: Box<dyn Stage>, manifest: Manifest) {
        let end = match self.fill(stage, &manifest).await {
            Ok(sha256) => FillEnd::Stored(sha256),
            Err(end) => end,
        };
        match &end {
            FillEnd::Stored(sha256) => {
                tracing::info!(%sha256, size = self.size, asked_by = self.asked_by, "stored");
                if let Err(error) = self.clear_taint().await {
                    tracing::warn!(%sha256, %error, "the taint mark stays; resumes of this file start over");
                }
            }
            FillEnd::Abandoned => tracing::info!(blob = %self.blob, "fill given up"),
            failed => {
                let given_to = self.peek(|state| state.given_to.keys().cloned().collect::<Vec<_>>().join(" "));
                tracing::error!(blob = %self.blob, error = %failed, given_to, "fill failed; nothing was stored");
                if let Err(error) = self.renew_taint().await {
                    tracing::error!(blob = %self.blob, %error, "the taint mark could not be renewed");
                }
            }
        }
        self.change(|state| {
            state.claims = None;
            state.end = Some(end);
        });
    }

    async fn fill(&self, mut stage: Box<dyn Stage>, manifest: &Manifest) -> Result<Sha256, FillEnd> {
        let come_in = async { tokio::try_join!(self.fetch(), self.hash(), self.keep(stage.as_mut())) };
        let ((), computed, ()) = tokio::select! {
            outcome = come_in => outcome?,
            end = self.refused() => return Err(end),
            () = self.deserted.cancelled() => return Err(FillEnd::Abandoned),
        };
        if !computed.matches {
            return Err(FillEnd::Rejected(computed.sha256));
        }
        let sha256 = computed.sha256;
        // The digest of a git file is known only now, and policy may deny it.
        self.decide(&self.policy.current(), Some(&sha256))?;
        stage.commit(sha256).await.map_err(store_end)?;
        if let FillKey::Git(repo, oid) = &self.key {
            let body = Bytes::from(sha256.to_string());
            self.store.put(&Key::oid(repo, oid), body, PutMode::Create).await.map_err(store_end)?;
        }
        self.record(sha256, manifest).await?;
        Ok(sha256)
    }

    /// Hashes the prefix as it grows.
    async fn hash(&self) -> Result<Computed, FillEnd> {
        let mut hashers = Hashers::new(self.blob, self.size);
        let mut at = 0;
        while at < self.size {
            let upto = self.prefix_beyond(at).await.min(at + HASH_STEP);
            let file = self.file.clone();
            let step = move || hashers.update_from(&file, at, upto).map(|()| hashers);
            hashers =
                tokio::task::spawn_blocking(step).await.map_err(std::io::Error::other).and_then(|step| step).map_err(
                    |error| {
                        let kind = store::ErrorKind::Other(format!("reading a staging file: {error}"));
                        FillEnd::Store(Arc::new(store::Error { kind, key: None, source: None }))
                    },
                )?;
            at = upto;
            self.change(|state| state.progress.hashed(at));
        }
        Ok(hashers.finish(self.blob))
    }

    /// Hands the prefix to the store as it grows, until the store has all but the end of it.
    async fn keep(&self, stage: &mut dyn Stage) -> Result<(), FillEnd> {
        let mut stored = 0;
        let mut told = 0;
        let rest = MAX_REST.max(self.size / REST_OF_PARTS);
        while told < self.size || self.size - stored > rest {
            let prefix = if stored < told {
                // The store works on what it was told; look again soon, or when there is more.
                tokio::time::timeout(STORE_POLL, self.prefix_beyond(told)).await.unwrap_or(told)
            } else {
                self.prefix_beyond(told).await
            };
            told = prefix;
            stored = stage.advance(prefix).await.map_err(store_end)?;
            self.change(|state| state.progress.stored(stored));
        }
        Ok(())
    }

    /// Waits until more than the first `at` bytes are there.
    async fn prefix_beyond(&self, at: u64) -> u64 {
        let mut version = self.version.subscribe();
        loop {
            let prefix = self.peek(|state| state.progress.prefix());
            if prefix > at || version.changed().await.is_err() {
                return prefix;
            }
        }
    }
}

fn store_end(error: store::Error) -> FillEnd {
    FillEnd::Store(Arc::new(error))
}

/// The sha256 of every file, and the git blob id of those that the Hub names by it.
struct Hashers {
    sha256: Sha256Hasher,
    git: Option<GitHasher>,
}

impl Hashers {
    fn new(blob: BlobId, size: u64) -> Self {
        Self { sha256: Sha256Hasher::default(), git: matches!(blob, BlobId::Git(_)).then(|| GitHasher::new(size)) }
    }

    fn update_from(&mut self, file: &std::fs::File, mut at: u64, upto: u64) -> std::io::Result<()> {
        let mut buffer = vec![0; HASH_BUFFER];
        while at < upto {
            let length = usize::try_from(upto - at).unwrap_or(HASH_BUFFER).min(HASH_BUFFER);
            file.read_exact_at(&mut buffer[..length], at)?;
            self.sha256.update(&buffer[..length]);
            if let Some(git) = &mut self.git {
                git.update(&buffer[..length]);
            }
            at += length as u64;
        }
        Ok(())
    }

    fn finish(self, expected: BlobId) -> Computed {
        let sha256 = self.sha256.finish();
        let matches = match expected {
            BlobId::Sha256(expected) => expected == sha256,
            BlobId::Git(expected) => self.git.and_then(GitHasher::finish) == Some(expected),
        };
        Computed { sha256, matches }
    }
}
