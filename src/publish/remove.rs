//! One set of copies, removed: at once, whoever is publishing it.

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Gate, Publisher, Result, catalogue,
    record::{Lease, Record, State, Target},
    run::{Publication, to_their_end},
};
use crate::store::{Key, PublishPrefix};

impl Publisher {
    /// Whether a set of copies was removed and nothing of it is left, as by a publisher that was stopped in the middle
    /// of a copy.
    pub(super) async fn is_gone(&self, target: &Target, record: &Record) -> Result<bool> {
        if record.state != State::Unpublished {
            return Ok(false);
        }
        let found = self.look(&record.prefix.parse().map_err(Error::Clash)?, target).await?;
        Ok(found.files.is_empty() && found.strange.is_empty() && !found.has_marker)
    }

    /// Removes a set of copies, whoever is publishing it. Returns how many files went; `None` where the copies are of
    /// another commit by now than `judged` says, or at another place, so that whoever judged should look again.
    pub(super) async fn remove(&self, target: &Target, judged: &Record, reason: &str) -> Result<Option<usize>> {
        let gate = self.gate(target);
        // Nobody is put out for what is another set already.
        if self.as_judged(target, judged).await?.is_none() {
            return Ok(None);
        }
        let _alone = gate.removal.lock().await;
        // Nobody has it who took it a moment ago, too: then the next look goes on.
        let Some(lease) = Lease::take(&self.0.records, target, true).await? else { return Ok(Some(0)) };
        let removal = async {
            // Somebody may have published another one before the lease was ours.
            let Some(record) = self.as_judged(target, judged).await? else { return Ok(None) };
            gate.stop().cancel();
            self.clear(target, record, reason).await.map(Some)
        };
        let (removed, kept) = lease.during(&CancellationToken::new(), removal).await;
        lease.give_back().await?;
        kept?;
        removed
    }

    /// What is known of a set of copies now, if it is the one that was judged still.
    async fn as_judged(&self, target: &Target, judged: &Record) -> Result<Option<Record>> {
        Ok(self.0.records.read(target).await?.filter(|record| record.is_same_set(judged)))
    }

    /// Removes what a publication had under way when it was stopped for a removal, and so landed behind that.
    pub(super) async fn clear_late(&self, gate: &Gate, publication: Publication<'_>) -> Result<()> {
        let target = publication.target;
        // Who stopped us is through then, or comes after us.
        let _alone = gate.removal.lock().await;
        let Some(record) = self.0.records.read(target).await? else { return Ok(()) };
        let is_there = matches!(record.state, State::Publishing | State::Published);
        if (is_there && record.commit != publication.whole.commit) || self.is_gone(target, &record).await? {
            return Ok(());
        }
        let Some(lease) = Lease::take(&self.0.records, target, false).await? else { return Ok(()) };
        let reason = record.reason.clone().unwrap_or_else(|| "removed while it was being published".to_owned());
        let (removed, kept) = lease.during(&CancellationToken::new(), self.clear(target, record, &reason)).await;
        lease.give_back().await?;
        kept?;
        removed.map(drop)
    }

    /// Removes the files of a set of copies, and from the catalogue of a former place what it says of them. Returns how
    /// many files went. To be called with the lease.
    pub(super) async fn clear(&self, target: &Target, mut record: Record, reason: &str) -> Result<usize> {
        let place: PublishPrefix = record.prefix.parse().map_err(Error::Clash)?;
        let was_there = record.state != State::Unpublished;
        if was_there {
            record.state = State::Unpublishing;
            record.reason = Some(reason.to_owned());
            record.at = OffsetDateTime::now_utc();
            self.0.records.write(target, &record).await?;
            self.0.records.write_files(target, std::iter::empty()).await?;
        }
        self.0.store.delete(&Key::marker(&place, &target.repo, target.commit)).await?;
        let found = self.look(&place, target).await?;
        let files = found.files.keys().map(|path| Key::published(&place, &target.repo, target.commit, path));
        let mut files: Vec<Key> = files.collect();
        files.extend(found.strange);
        let removed = files.len();
        let going = CancellationToken::new();
        to_their_end(files, &going, |key| async move { self.0.store.delete(&key).await }).await?;
        // The catalogue of the place of now is written by who removes, once for all. Nobody else looks at another's, so
        // it comes before the end of this removal, which the next look takes up where it is broken off.
        if self.0.place.as_ref() != Some(&place) {
            catalogue::leave(&self.0.records, &place).await?;
        }
        if was_there {
            record.state = State::Unpublished;
            record.at = OffsetDateTime::now_utc();
            self.0.records.write(target, &record).await?;
        }
        if removed > 0 || was_there {
            tracing::warn!(repo = %target.repo, commit = %record.commit, removed, reason, "unpublished");
        }
        Ok(removed)
    }
}
