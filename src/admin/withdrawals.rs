//! Withdrawals: a repo, a commit or a content that may not be served any more, whatever the policy says of it.

use std::{cmp::Reverse, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinHandle;

use super::{Actor, Admin, Error, Id, Note, Result, ledger::Decided, line};
use crate::{
    hub::{Commit, Repo, Sha256},
    manifest::kind_and_id,
    policy::{DeniedThing, ExtraDeny, WITHDRAWAL},
};

/// The version of a withdrawal's form.
const SCHEMA: u32 = 1;
/// The word for a withdrawal that was ended.
const LIFTED: &str = "lifted";
/// The word for a withdrawal whose files are gone from the store.
const PURGED: &str = "purged";
/// How long a purge is left to the process that was told, before any other takes it up.
const PURGING: Duration = Duration::seconds(30);

/// What is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "lowercase")]
pub enum Target {
    /// A repo, all of it.
    Repo {
        /// In JSON `kind` and `repo`.
        #[serde(flatten, with = "kind_and_id")]
        repo: Repo,
    },
    /// One commit.
    Commit {
        /// Of which repo; in JSON `kind` and `repo`.
        #[serde(flatten, with = "kind_and_id")]
        repo: Repo,
        /// The full sha.
        commit: Commit,
    },
    /// Content, under whatever name it is served.
    Sha256 {
        /// Its digest.
        sha256: Sha256,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Repo { repo } => write!(f, "{repo}"),
            Self::Commit { repo, commit } => write!(f, "{repo}@{commit}"),
            Self::Sha256 { sha256 } => write!(f, "sha256:{sha256}"),
        }
    }
}

/// A withdrawal, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The version of the form.
    pub schema: u32,
    /// Its id.
    pub id: Id,
    /// When, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// By whom.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub target: Target,
    /// Under which other names its files are stored, as of a repo that was renamed: they are refused, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored_as: Vec<Repo>,
    /// Why: who is refused reads it.
    pub reason: String,
    /// Whether its files are removed from the store, too.
    pub purge: bool,
}

/// A withdrawal, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct WithdrawalShown {
    /// As stored.
    #[serde(flatten)]
    pub withdrawal: Withdrawal,
    /// Whether it holds.
    pub in_force: bool,
    /// Who ended it, and why.
    pub lifted: Option<Note>,
    /// What was removed from the store, once it was.
    pub purged: Option<Note>,
}

impl Admin {
    /// Withdraws: written down, stored, and refused here at once; other replicas follow in seconds. Files are removed
    /// by [`Admin::carry_out`], which is the caller's to call.
    pub async fn withdraw(&self, target: Target, reason: &str, purge: bool, actor: &Actor) -> Result<WithdrawalShown> {
        let reason = &*line("reason", reason)?;
        let now = OffsetDateTime::now_utc();
        let id = Id::new(now);
        let stored_as = self.other_names(&target).await?;
        let details = json!({ "id": id, "purge": purge, "stored_as": stored_as });
        self.audit.record(actor.change("withdrawal.withdraw", &target, Some(reason), details)).await?;
        let withdrawal = Withdrawal {
            schema: SCHEMA,
            id: id.clone(),
            time: now,
            by: actor.name.clone(),
            target,
            stored_as,
            reason: reason.to_owned(),
            purge,
        };
        self.withdrawals.write(&id, withdrawal).await?;
        self.apply().await;
        self.withdrawal(&id)
    }

    async fn other_names(&self, target: &Target) -> Result<Vec<Repo>> {
        let (Target::Repo { repo } | Target::Commit { repo, .. }) = target else { return Ok(Vec::new()) };
        let names = self.stored_names(repo).await?;
        Ok(names.into_iter().filter(|name| !name.same_name(repo)).collect())
    }

    /// Ends a withdrawal. What was purged is fetched anew when somebody asks for it.
    pub async fn lift(&self, id: &Id, reason: &str, actor: &Actor) -> Result<WithdrawalShown> {
        let reason = &*line("reason", reason)?;
        self.withdrawals.refresh().await?;
        let decided = self.withdrawals.get(id).ok_or_else(|| Error::Unknown(format!("no withdrawal {id}")))?;
        if decided.notes.contains_key(LIFTED) {
            return Err(Error::Already(format!("{id} is lifted already")));
        }
        let change = actor.change("withdrawal.lift", &decided.item.target, Some(reason), json!({ "id": id }));
        self.audit.record(change).await?;
        self.withdrawals.note(id, LIFTED, actor.note(reason)).await?;
        self.apply().await;
        self.withdrawal(id)
    }

    /// All of them, the newest first.
    pub async fn list_withdrawals(&self) -> Result<Vec<WithdrawalShown>> {
        self.withdrawals.refresh().await?;
        let mut all: Vec<_> = self.withdrawals.all().iter().map(shown).collect();
        all.sort_by_key(|shown| Reverse(shown.withdrawal.time));
        Ok(all)
    }

    /// One of them.
    pub fn withdrawal(&self, id: &Id) -> Result<WithdrawalShown> {
        let decided = self.withdrawals.get(id).ok_or_else(|| Error::Unknown(format!("no withdrawal {id}")))?;
        Ok(shown(&decided))
    }

    /// What a withdrawal asks for beyond being refused: its files removed, where it says so.
    pub async fn carry_out(&self, id: &Id) -> Result<()> {
        let decided = self.withdrawals.get(id).ok_or_else(|| Error::Unknown(format!("no withdrawal {id}")))?;
        if decided.item.purge {
            self.purge(id).await?;
        }
        Ok(())
    }

    /// The same as a task that a stopping process waits for; what fails is tried again by [`Admin::watch`].
    pub fn carry_out_behind(&self, id: &Id) -> JoinHandle<()> {
        let (admin, id) = (self.clone(), id.clone());
        let work = async move {
            if let Err(error) = admin.carry_out(&id).await {
                tracing::error!(%id, %error, "withdrawn, but not removed; it is tried again");
            }
        };
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Removes a withdrawal's files from the store: log record, index entry, and the blobs that nothing else names.
    /// One at a time. Doing it twice is harmless; what is done is not done again.
    async fn purge(&self, id: &Id) -> Result<()> {
        let _one_at_a_time = self.purging.lock().await;
        let decided = self.withdrawals.get(id).ok_or_else(|| Error::Unknown(format!("no withdrawal {id}")))?;
        if decided.notes.contains_key(PURGED) || decided.notes.contains_key(LIFTED) {
            return Ok(());
        }
        let purged = self.remove_files(&decided.item).await?;
        tracing::info!(%id, files = purged.files, blobs = purged.blobs, bytes = purged.bytes, "withdrawn files removed");
        let note = Note {
            time: OffsetDateTime::now_utc(),
            by: decided.item.by.clone(),
            reason: decided.item.reason.clone(),
            details: json!(purged),
        };
        match self.withdrawals.note(id, PURGED, note).await {
            // Another replica was first.
            Ok(_) | Err(Error::Already(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what a process left that ended in between, or that could not.
    pub(super) async fn finish_purges(&self) {
        for id in self.unfinished_purges() {
            if let Err(error) = self.purge(&id).await {
                tracing::error!(%id, %error, "removing withdrawn files failed; it is tried again");
            }
        }
    }

    /// Withdrawals whose files are still to be removed.
    fn unfinished_purges(&self) -> Vec<Id> {
        let all = self.withdrawals.all().into_iter();
        let unfinished = all.filter(|decided| {
            let ended = decided.notes.contains_key(PURGED) || decided.notes.contains_key(LIFTED);
            // Who withdrew it a moment ago is at it.
            let is_at_it = OffsetDateTime::now_utc() - decided.item.time < PURGING;
            decided.item.purge && !ended && !is_at_it
        });
        unfinished.map(|decided| decided.item.id.clone()).collect()
    }

    /// The withdrawals that hold although their objects are gone from the store.
    pub(super) fn vanished_withdrawals(&self) -> Vec<Id> {
        let all = self.withdrawals.all().into_iter().filter(|decided| !decided.notes.contains_key(LIFTED));
        all.map(|decided| decided.item.id.clone()).filter(|id| self.withdrawals.is_vanished(id)).collect()
    }

    /// The withdrawals that hold, as rules.
    pub(super) fn withdrawn_rules(&self) -> Vec<ExtraDeny> {
        let all = self.withdrawals.all().into_iter();
        all.filter(|decided| !decided.notes.contains_key(LIFTED)).flat_map(|decided| as_rules(&decided.item)).collect()
    }
}

/// The name of a withdrawal's rule, by which records refer to it.
pub(super) fn rule_of(withdrawal: &Withdrawal) -> String {
    format!("{WITHDRAWAL}{}", withdrawal.id)
}

/// One rule for what was named, and one for each other name of a repo.
fn as_rules(withdrawal: &Withdrawal) -> Vec<ExtraDeny> {
    let mut denied = vec![match &withdrawal.target {
        Target::Repo { repo } => DeniedThing::Repo(repo.clone()),
        Target::Commit { commit, .. } => DeniedThing::Commit(*commit),
        Target::Sha256 { sha256 } => DeniedThing::Content(*sha256),
    }];
    // A commit is refused in whatever repo.
    if matches!(withdrawal.target, Target::Repo { .. }) {
        denied.extend(withdrawal.stored_as.iter().cloned().map(DeniedThing::Repo));
    }
    let reason = format!("withdrawn on {}: {}", super::audit::day(withdrawal.time), withdrawal.reason);
    // Each rule has a name of its own.
    let name = |place: usize| match place {
        0 => rule_of(withdrawal),
        place => format!("{}.{}", rule_of(withdrawal), place + 1),
    };
    let rules = denied.into_iter().enumerate();
    rules.map(|(place, what)| ExtraDeny { name: name(place), what, reason: reason.clone() }).collect()
}

fn shown(decided: &Decided<Withdrawal>) -> WithdrawalShown {
    let note = |word| decided.notes.get(word).map(|note: &Arc<Note>| (**note).clone());
    let lifted = note(LIFTED);
    WithdrawalShown { withdrawal: (*decided.item).clone(), in_force: lifted.is_none(), lifted, purged: note(PURGED) }
}
