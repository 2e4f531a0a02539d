//! Jobs that nobody asks about any more: over for a week. What they brought in stays, and so does what the manifest
//! and the audit log say of it.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;

use super::{Jobs, Request, Result, State, request::JobId};

/// How long a job that is over is kept, from the last change of any of its objects.
pub const KEPT_FOR: Duration = Duration::from_hours(7 * 24);

/// A job that is removed.
#[derive(Debug, Clone, Serialize)]
pub struct Expired {
    /// Its id.
    pub id: JobId,
    /// What it brought in.
    #[serde(flatten)]
    pub request: Request,
    /// How it ended.
    pub state: State,
    /// When anything was last written of it.
    #[serde(with = "time::serde::rfc3339")]
    pub ended: OffsetDateTime,
}

impl Jobs {
    /// Adds the jobs that have been over for [`KEPT_FOR`] to `expired`, removed if `apply`. One that waits or runs
    /// stays, however old. Where somebody asks for one again in that moment, it stays too, or they are told that there
    /// is none.
    ///
    /// # Errors
    /// The store's; what was removed until then is in `expired`.
    pub async fn expire(&self, apply: bool, expired: &mut Vec<Expired>) -> Result<()> {
        let now = SystemTime::now();
        for (id, objects) in self.0.ledger.objects().await? {
            let Some(ended) = objects.iter().map(|object| object.modified).max() else { continue };
            if now.duration_since(ended).is_ok_and(|since| since >= KEPT_FOR) {
                match self.0.ledger.read(&id, &objects).await? {
                    Some(job) if self.state(&job).is_over() && !self.running().contains_key(&id) => {
                        if apply && !self.0.ledger.remove(&id, &objects).await? {
                            continue;
                        }
                        let (request, state) = (job.asked.request.clone(), self.state(&job));
                        expired.push(Expired { id, request, state, ended: ended.into() });
                    }
                    // What a removal that was broken off has left.
                    None if apply => self.0.ledger.clear(&id).await?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ledger::Ledger, *};
    use crate::{hub::Revision, manifest::testing::MemoryStore, store::ObjectMeta};

    #[tokio::test]
    async fn a_job_that_is_asked_for_again_in_the_moment_of_its_removal_stays() {
        let store = MemoryStore::new();
        let ledger = Ledger::new(store.clone());
        let request = Request::new("acme/tiny".parse().unwrap(), Revision::main(), vec![], vec![]).unwrap();
        let id = request.id();
        ledger.ask(&request, 0, "otto").await.unwrap();
        ledger.cancel(&id, 1, "otto").await.unwrap();
        let seen: Vec<ObjectMeta> = ledger.objects().await.unwrap().remove(&id).unwrap();
        ledger.retry(&id, 2, "rita").await.unwrap();
        assert!(!ledger.remove(&id, &seen).await.unwrap());
        let job = ledger.job(&id).await.unwrap().unwrap();
        assert_eq!((job.attempt, job.asked.asked_by.as_str()), (2, "otto"));

        let seen = ledger.objects().await.unwrap().remove(&id).unwrap();
        assert!(ledger.remove(&id, &seen).await.unwrap());
        assert_eq!(store.keys(""), [""; 0]);
    }
}
