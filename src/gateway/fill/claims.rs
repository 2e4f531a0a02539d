//! The files that a fill is fetched for, and whether policy still lets them in.
//!
//! A fill may run for hours. What is withdrawn meanwhile is not recorded, and its readers get no more; when nothing is
//! left for which it may run, it ends. So a purge that found nothing of a repo is not undone by a fill behind it.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;

use super::{Fill, FillEnd};
use crate::{
    gateway::{
        Refusal,
        grant::{Grant, remember_policy},
    },
    hub::{Commit, Repo, RepoPath, Sha256},
    manifest::{Manifest, NewRecord, What},
    policy::{Denial, FileVerdict, PolicySet},
};

/// How often a running fill looks whether policy has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a file is known by.
pub(crate) type FileName = (Repo, Commit, RepoPath);

/// A file that will have a fill's content.
pub(super) struct Claim {
    pub(super) record: NewRecord,
    /// By what it was allowed last.
    pub(super) grant: Arc<Grant>,
}

impl Claim {
    pub(super) fn file(&self) -> FileName {
        (self.record.repo.clone(), self.record.commit, self.record.path.clone())
    }

    pub(super) fn is_of(&self, record: &NewRecord) -> bool {
        let ours = &self.record;
        ours.repo == record.repo && ours.commit == record.commit && ours.path == record.path
    }

    /// Decides again, by this policy and today; the content, too, once its digest is known.
    pub(super) fn decide(&mut self, policy: &Arc<PolicySet>, sha256: Option<&Sha256>) -> Result<(), Denial> {
        let grant = self.grant.under(policy, OffsetDateTime::now_utc().date())?;
        let (record, rule) = (&mut self.record, &grant.approved.rule);
        match rule.decide_file(&record.path, record.size, Some(record.etag)) {
            FileVerdict::Served => {}
            FileVerdict::Refused(denial) | FileVerdict::Hidden(denial) => return Err(denial),
        }
        if let Some(sha256) = sha256 {
            policy.decide_content(rule, &record.repo, &record.path, sha256)?;
        }
        grant.sign(record);
        self.grant = Arc::new(grant);
        Ok(())
    }
}

impl Fill {
    /// Resolves when policy lets in none of the files any more.
    pub(super) async fn refused(&self) -> FillEnd {
        let mut decided_by = None;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let policy = self.policy.current();
            if decided_by != Some(policy.digest()) {
                decided_by = Some(policy.digest());
                if let Err(end) = self.decide(&policy, None) {
                    return end;
                }
            }
        }
    }

    /// Has this policy decide again on all files, and lets go of those that it refuses. An error when none are left.
    pub(super) fn decide(&self, policy: &Arc<PolicySet>, sha256: Option<&Sha256>) -> Result<(), FillEnd> {
        self.change(|state| {
            let mut refused = Vec::new();
            let Some(claims) = &mut state.claims else { return Ok(()) };
            claims.retain_mut(|claim| match claim.decide(policy, sha256) {
                Ok(()) => true,
                Err(denial) => {
                    refused.push((claim.file(), denial));
                    false
                }
            });
            let last = refused.last().map(|(_, denial)| denial.clone()).filter(|_| claims.is_empty());
            if last.is_some() {
                // Whoever comes now waits for the end, and begins anew.
                state.claims = None;
            }
            state.refused.extend(refused);
            last.map_or(Ok(()), |denial| Err(self.denied(&denial)))
        })
    }

    /// The end that such a refusal is.
    pub(super) fn denied(&self, denial: &Denial) -> FillEnd {
        FillEnd::Denied(Box::new(Refusal::of_policy(denial, self.contact.as_deref())))
    }

    /// Writes the records of all files that policy still lets in, including those that join meanwhile. An error when it
    /// lets in none.
    pub(super) async fn record(&self, sha256: Sha256, manifest: &Manifest) -> Result<(), FillEnd> {
        let (mut recorded, mut refused) = (false, None);
        loop {
            let claims = self.peek(|state| match state.claims.as_mut() {
                Some(claims) if !claims.is_empty() => std::mem::take(claims),
                _ => {
                    state.claims = None;
                    Vec::new()
                }
            });
            if claims.is_empty() {
                return match refused {
                    Some(denial) if !recorded => Err(self.denied(&denial)),
                    _ => Ok(()),
                };
            }
            for claim in claims {
                let file = claim.file();
                match self.record_one(claim, sha256, manifest).await? {
                    Ok(()) => recorded = true,
                    Err(denial) => {
                        self.change(|state| state.refused.insert(file, denial.clone()));
                        refused = Some(denial);
                    }
                }
            }
        }
    }

    async fn record_one(
        &self,
        mut claim: Claim,
        sha256: Sha256,
        manifest: &Manifest,
    ) -> Result<Result<(), Denial>, FillEnd> {
        if let Err(denial) = claim.decide(&self.policy.current(), Some(&sha256)) {
            return Ok(Err(denial));
        }
        remember_policy(manifest, &claim.grant.policy).await.map_err(FillEnd::Manifest)?;
        let record = NewRecord { sha256, ..claim.record.clone() };
        let (asked_by, origin) = (record.asked_by.clone().unwrap_or_default(), record.origin.clone());
        let entry = manifest.record_stored(record).await.map_err(FillEnd::Manifest)?;
        // Who withdrew it and purges may have looked for entries just before this one came.
        let Err(denial) = claim.decide(&self.policy.current(), Some(&sha256)) else { return Ok(Ok(())) };
        let removal = NewRecord {
            rule: denial.rule().map(ToOwned::to_owned),
            ..entry.removal(What::Withdrawn, asked_by, origin)
        };
        manifest.record(removal).await.map_err(FillEnd::Manifest)?;
        Ok(Err(denial))
    }
}
