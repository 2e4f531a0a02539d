//! The mark of a digest of which unverified bytes went out.
//!
//! Clients resume: a prefix from a fill that failed, with an honest tail from a later one, is a whole
//! wrong file that no size check notices (seen in four generations of huggingface_hub). So the mark is
//! stored before a fill's first unverified byte goes out, and removed only when that same fill ends
//! stored. While it stands, nobody resumes, but from the very fill that set it and gave the beginning.

use bytes::Bytes;
use uuid::Uuid;

use super::Fill;
use crate::{
    hub::{BlobId, Sha256},
    store::{Error, Key, PutMode, PutOutcome, Store},
};

/// A larger mark is nothing that we wrote.
const MAX_MARK_BYTES: u64 = 4096;

/// The mark that bytes of a failed or unfinished fill of this content may be about, if it stands.
pub(crate) async fn taint_mark(store: &dyn Store, sha256: &Sha256) -> Result<Option<Bytes>, Error> {
    store.get(&Key::taint(sha256), MAX_MARK_BYTES).await
}

impl Fill {
    /// The key of this fill's mark. Git files are verified before their first byte and need none.
    fn taint_key(&self) -> Option<Key> {
        match self.blob {
            BlobId::Sha256(sha256) => Some(Key::taint(&sha256)),
            BlobId::Git(_) => None,
        }
    }

    /// Sees to it that the mark stands. A mark that somebody else has set is theirs: their bytes may be
    /// about, whatever becomes of this fill.
    pub(super) async fn set_taint(&self) -> Result<(), Error> {
        let Some(key) = self.taint_key() else { return Ok(()) };
        self.taint
            .get_or_try_init(|| async {
                let mark =
                    serde_json::json!({ "fill": Uuid::now_v7().to_string(), "asked_by": self.asked_by }).to_string();
                let mark = Bytes::from(mark);
                let written = self.store.put(&key, mark.clone(), PutMode::Create).await?;
                Ok::<_, Error>((written == PutOutcome::Written).then_some(mark))
            })
            .await?;
        Ok(())
    }

    /// Whether this is the mark that this fill has set: no other's bytes were about before.
    pub(crate) fn has_set(&self, mark: &Bytes) -> bool {
        self.taint.get().is_some_and(|ours| ours.as_ref() == Some(mark))
    }

    /// Removes the mark, if it is this fill's; for a fill that ended stored. Another replica's fill of the
    /// same content may have failed meanwhile and made the mark its own.
    pub(super) async fn clear_taint(&self) -> Result<(), Error> {
        let Some(key) = self.taint_key() else { return Ok(()) };
        // Waits for a mark that a reader is setting, which would else come after this and stay for ever.
        let Some(mark) = self.taint.get_or_init(|| async { None }).await else { return Ok(()) };
        match self.store.get(&key, MAX_MARK_BYTES).await? {
            Some(found) if found == *mark => self.store.delete(&key).await,
            _ => Ok(()),
        }
    }

    /// Sets the mark again, for a fill that failed after it gave bytes: another replica's success may
    /// have removed one mark that stood for both.
    pub(super) async fn renew_taint(&self) -> Result<(), Error> {
        match (self.taint.get(), self.taint_key()) {
            (Some(_), Some(key)) => self.store.put(&key, Bytes::from_static(b"{}"), PutMode::Overwrite).await.map(drop),
            _ => Ok(()),
        }
    }
}
