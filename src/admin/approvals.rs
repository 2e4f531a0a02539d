//! Approvals and rejections: what an admin says to a repo that the reviewed folder does not let in.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::{Date, OffsetDateTime};

use super::{Actor, Admin, Error, Id, Note, Result, ledger::Decided};
use crate::{
    hub::{Commit, Repo},
    manifest::kind_and_id,
    policy::{APPROVAL, ExtraAllow, LicenseId, Rule, today},
};

/// The version of an approval's form.
const SCHEMA: u32 = 1;
/// The word for an approval that was taken back.
const REVOKED: &str = "revoked";

time::serde::format_description!(pub(super) day, Date, "[year]-[month]-[day]");

/// `[approvals]`: whether admins may let single repos in while hubgate runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalsConfig {
    /// Whether approvals count. Every replica on the store must say the same.
    pub enabled: bool,
}

/// What an admin proposes to let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The repo.
    pub repo: Repo,
    /// The licence that was reviewed.
    pub licence: LicenseId,
    /// Why.
    pub reason: String,
    /// The last day, UTC.
    pub expires: Date,
    /// The one commit that was reviewed.
    pub pin: Option<Commit>,
    /// Whether gated upstream content is meant to come in.
    pub gated: bool,
    /// Where the review is written down.
    pub ticket: Option<String>,
}

impl Proposal {
    /// The rule that says the same in the policy folder.
    pub fn as_rule(&self, name: String, approved_by: &str) -> ExtraAllow {
        ExtraAllow {
            name,
            repo: self.repo.clone(),
            licence: self.licence.clone(),
            pin: self.pin,
            gated: self.gated,
            expires: self.expires,
            approved_by: approved_by.to_owned(),
            ticket: self.ticket.clone(),
            reason: self.reason.clone(),
        }
    }

    fn check(&self, today: Date) -> Result<()> {
        let licence = self.licence.as_str();
        if licence.is_empty() || licence == "other:" || licence.len() > 200 || licence.contains(char::is_control) {
            return Err(Error::Invalid("licence: write an id such as apache-2.0, or other:NAME".into()));
        }
        if self.expires < today {
            return Err(Error::Invalid(format!("expires: {} is over; write a day from {today} on", self.expires)));
        }
        Ok(())
    }
}

/// A yes or a no, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The version of the form.
    pub schema: u32,
    /// Its id.
    pub id: Id,
    /// When, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// By whom.
    pub by: String,
    /// Yes or no.
    pub answer: YesOrNo,
    /// To which repo; in JSON `kind` and `repo`.
    #[serde(flatten, with = "kind_and_id")]
    pub repo: Repo,
    /// Why.
    pub reason: String,
    /// The admins who had asked for it.
    #[serde(default)]
    pub requested_by: Vec<String>,
    /// The licence that was approved.
    #[serde(default)]
    pub licence: Option<LicenseId>,
    /// The one commit.
    #[serde(default)]
    pub pin: Option<Commit>,
    /// Whether gated content was approved.
    #[serde(default)]
    pub gated: bool,
    /// The last day.
    #[serde(default, with = "day::option")]
    pub expires: Option<Date>,
    /// Where that is written down.
    #[serde(default)]
    pub ticket: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum YesOrNo {
    /// It may come in.
    Approved,
    /// It may not.
    Rejected,
}

impl Approval {
    fn rule_name(&self) -> String {
        format!("{APPROVAL}{}", self.id)
    }

    fn as_rule(&self) -> Option<ExtraAllow> {
        Some(ExtraAllow {
            name: self.rule_name(),
            repo: self.repo.clone(),
            licence: self.licence.clone()?,
            pin: self.pin,
            gated: self.gated,
            expires: self.expires?,
            approved_by: self.by.clone(),
            ticket: self.ticket.clone(),
            reason: self.reason.clone(),
        })
    }
}

/// An approval or a rejection, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct ApprovalShown {
    /// As stored.
    #[serde(flatten)]
    pub approval: Approval,
    /// Whether its rule is part of the policy in force here and speaks for the repo today.
    pub in_force: bool,
    /// Who took it back, and why.
    pub revoked: Option<Note>,
}

impl Admin {
    /// Lets a repo in. The change is written down, then stored, then in force here; other replicas follow in seconds.
    ///
    /// # Errors
    /// [`Error::Off`], [`Error::SamePerson`]; [`Error::Denied`] and [`Error::Overruled`] where it would not count.
    pub async fn approve(&self, proposal: &Proposal, actor: &Actor) -> Result<ApprovalShown> {
        if !self.approvals_enabled {
            return Err(Error::Off);
        }
        proposal.check(today())?;
        self.refresh().await?;
        let requested_by = self.requesters(&proposal.repo).await?;
        if requested_by.contains(&actor.name) {
            return Err(Error::SamePerson { repo: proposal.repo.clone() });
        }
        let now = OffsetDateTime::now_utc();
        let id = Id::new(now);
        self.would_speak(proposal, &id, &actor.name).await?;
        let approval = Approval {
            schema: SCHEMA,
            id: id.clone(),
            time: now,
            by: actor.name.clone(),
            answer: YesOrNo::Approved,
            repo: proposal.repo.clone(),
            reason: proposal.reason.clone(),
            requested_by,
            licence: Some(proposal.licence.clone()),
            pin: proposal.pin,
            gated: proposal.gated,
            expires: Some(proposal.expires),
            ticket: proposal.ticket.clone(),
        };
        let details = json!({
            "id": id,
            "licence": approval.licence,
            "pin": approval.pin,
            "gated": approval.gated,
            "expires": proposal.expires.to_string(),
            "ticket": approval.ticket,
            "requested_by": approval.requested_by,
        });
        let change = actor.change("approval.approve", &proposal.repo, Some(&proposal.reason), details);
        self.audit.record(change).await?;
        self.approvals.write(&id, approval).await?;
        self.apply().await;
        self.approval(&id)
    }

    /// Says no to a repo: it leaves the requests that wait until somebody asks for it anew.
    pub async fn reject(&self, repo: &Repo, reason: &str, actor: &Actor) -> Result<ApprovalShown> {
        self.approvals.refresh().await?;
        let approved = self.standing().into_iter().find(|decided| {
            decided.item.repo.same_name(repo) && decided.item.expires.is_some_and(|last| last >= today())
        });
        if let Some(approved) = approved {
            return Err(Error::Already(format!("{repo} is approved: revoke {} instead", approved.item.id)));
        }
        let now = OffsetDateTime::now_utc();
        let approval = Approval {
            schema: SCHEMA,
            id: Id::new(now),
            time: now,
            by: actor.name.clone(),
            answer: YesOrNo::Rejected,
            repo: repo.clone(),
            reason: reason.to_owned(),
            requested_by: self.requesters(repo).await?,
            licence: None,
            pin: None,
            gated: false,
            expires: None,
            ticket: None,
        };
        let details = json!({ "id": approval.id });
        self.audit.record(actor.change("approval.reject", repo, Some(reason), details)).await?;
        let id = approval.id.clone();
        self.approvals.write(&id, approval).await?;
        self.approval(&id)
    }

    /// Takes an approval back.
    pub async fn revoke(&self, id: &Id, reason: &str, actor: &Actor) -> Result<ApprovalShown> {
        self.approvals.refresh().await?;
        let decided = self.approvals.get(id).ok_or_else(|| Error::Unknown(format!("no approval {id}")))?;
        if decided.item.answer == YesOrNo::Rejected {
            return Err(Error::Already(format!("{id} is a rejection; approve the repo instead")));
        }
        if self.approvals.is_noted(id, REVOKED) {
            return Err(Error::Already(format!("{id} is revoked already")));
        }
        let change = actor.change("approval.revoke", &decided.item.repo, Some(reason), json!({ "id": id }));
        self.audit.record(change).await?;
        self.approvals.note(id, REVOKED, actor.note(reason)).await?;
        self.apply().await;
        self.approval(id)
    }

    /// All of them, the newest first.
    pub async fn list_approvals(&self) -> Result<Vec<ApprovalShown>> {
        self.approvals.refresh().await?;
        let mut all: Vec<_> = self.approvals.all().into_iter().map(|decided| self.shown(&decided)).collect();
        all.sort_by_key(|shown| Reverse(shown.approval.time));
        Ok(all)
    }

    fn approval(&self, id: &Id) -> Result<ApprovalShown> {
        let decided = self.approvals.get(id).ok_or_else(|| Error::Unknown(format!("no approval {id}")))?;
        Ok(self.shown(&decided))
    }

    fn shown(&self, decided: &Decided<Approval>) -> ApprovalShown {
        let approval = (*decided.item).clone();
        let rule = self.policy.current().decide_repo(&approval.repo, today());
        ApprovalShown {
            in_force: rule.is_ok_and(|rule| rule.name == approval.rule_name()),
            revoked: decided.notes.get(REVOKED).map(|note| (**note).clone()),
            approval,
        }
    }

    /// Refuses what would not count, since the folder or the lock says otherwise.
    async fn would_speak(&self, proposal: &Proposal, id: &Id, by: &str) -> Result<()> {
        let mut overlay = self.overlay(true);
        overlay.approvals.retain(|rule| !rule.repo.same_name(&proposal.repo));
        let name = format!("{APPROVAL}{id}");
        overlay.approvals.push(proposal.as_rule(name.clone(), by));
        let policy = self.policy.clone();
        let preview = tokio::task::spawn_blocking(move || policy.preview(&overlay).map_err(|error| error.to_string()));
        let preview = preview.await.unwrap_or_else(|error| Err(error.to_string())).map_err(Error::Invalid)?;
        let rule = preview.decide_repo(&proposal.repo, today()).map_err(Error::Denied)?;
        let (repo, Rule { name: speaks, source, .. }) = (&proposal.repo, &*rule);
        if *speaks != name {
            let by = format!("rule {speaks} ({source}) of the reviewed policy names {repo}");
            return Err(Error::Overruled { by });
        }
        let locked = preview.lock().and_then(|lock| lock.of(repo));
        match (proposal.pin, locked.and_then(|entries| entries.first())) {
            (Some(pin), Some(entry)) if locked.into_iter().flat_map(|all| all.iter()).all(|it| it.commit != pin) => {
                let by = format!("the lock ({}) has {repo} at other commits than {pin}", entry.source);
                Err(Error::Overruled { by })
            }
            _ => Ok(()),
        }
    }

    /// The newest approval of each repo, unless that one was taken back: an older one does not speak again.
    fn standing(&self) -> Vec<Decided<Approval>> {
        let mut approvals = self.approvals.all();
        approvals.retain(|decided| decided.item.answer == YesOrNo::Approved);
        approvals.sort_by(|a, b| (a.item.time, &a.item.id).cmp(&(b.item.time, &b.item.id)));
        let mut newest: Vec<Decided<Approval>> = Vec::with_capacity(approvals.len());
        for decided in approvals {
            newest.retain(|older| !older.item.repo.same_name(&decided.item.repo));
            newest.push(decided);
        }
        // A note that can't be read was meant as an end, too; and one whose object is gone lets nothing in.
        newest.retain(|Decided { item, .. }| {
            !self.approvals.is_noted(&item.id, REVOKED) && !self.approvals.is_vanished(&item.id)
        });
        newest
    }

    /// The approvals that count, as rules.
    pub(super) fn approved_rules(&self) -> Vec<ExtraAllow> {
        self.standing().iter().filter_map(|decided| decided.item.as_rule()).collect()
    }

    /// When a repo was last rejected.
    pub(super) fn rejected_at(&self, repo: &Repo) -> Option<OffsetDateTime> {
        let all = self.approvals.all().into_iter();
        let of_repo =
            all.filter(|decided| decided.item.answer == YesOrNo::Rejected && decided.item.repo.same_name(repo));
        of_repo.map(|decided| decided.item.time).max()
    }
}
