//! What upstream says of a repo at a commit, put to policy.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::Date;

use super::{
    denial::{Denial, DenialKind},
    license::{LicenseClaims, LicenseFound},
    rule::Rule,
    set::PolicySet,
};
use crate::hub::{Commit, Repo, Sha256};

/// The facts of a repo at a commit that policy asks for. All come from upstream's own answer to our own question, never
/// from one that a client's `expand` narrowed (PROTOCOL 12.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFacts {
    /// The name that upstream calls it by (`id`).
    pub canonical: Repo,
    /// The commit.
    pub commit: Commit,
    /// Who it is now.
    pub identity: Identity,
    /// Who it was when it was first seen; `None` when it was never seen before.
    pub first_seen: Option<Identity>,
    /// `gated` is "auto" or "manual".
    pub gated: bool,
    /// `private`.
    pub private: bool,
    /// `disabled`.
    pub disabled: bool,
    /// What it states of its licence.
    pub license: LicenseClaims,
}

/// Upstream's own id and author of a repo: a name that was given up and registered again has others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// `_id`.
    pub id: Option<String>,
    /// `author`.
    pub author: Option<String>,
}

/// A repo at a commit that policy lets through: what the manifest records of it.
#[derive(Debug, Clone)]
pub struct Approved {
    /// The canonical name, under which it is stored.
    pub repo: Repo,
    /// The commit.
    pub commit: Commit,
    /// The rule that governs it: decide its files by this one.
    pub rule: Arc<Rule>,
    /// The licence and where it was found.
    pub license: LicenseFound,
    /// One ASCII line when the rule ends soon.
    pub warning: Option<String>,
}

impl Approved {
    /// The digest of the policy that decided.
    pub fn policy_sha256(&self) -> Sha256 {
        self.rule.policy_sha256
    }
}

impl PolicySet {
    /// Decides on a repo at a commit by upstream's facts. `rule` is what [`PolicySet::decide_repo`] gave for the name
    /// that was asked; the canonical name is put to policy too, and its rule is the one in [`Approved`].
    pub fn decide_facts(&self, rule: &Rule, asked: &Repo, facts: &RepoFacts, today: Date) -> Result<Approved, Denial> {
        let governing = self.decide_names(asked, &facts.canonical, today)?;
        let id = facts.canonical.id();
        governing.check_owner(id, facts)?;
        if facts.disabled {
            return Err(governing.deny(
                DenialKind::Disabled,
                &format!("{id} is disabled on the Hub"),
                "Use another repo; ask its owner why",
            ));
        }
        if (facts.gated || facts.private) && !governing.gated {
            let what = if facts.private { "private" } else { "gated" };
            return Err(governing.deny(
                DenialKind::Gated,
                &format!("{id} is {what} on the Hub, and the rule does not say gated = true"),
                "Ask for gated = true in the rule after a review of the terms",
            ));
        }
        for pinned in [rule, &*governing] {
            if let Some(pin) = pinned.pin.filter(|pin| *pin != facts.commit) {
                return Err(pinned.deny(
                    DenialKind::Pinned,
                    &format!("commit {} of {id} is not the approved commit {pin}", facts.commit),
                    &format!("Ask for {pin}, or for the pin to be moved after a review"),
                ));
            }
        }
        let license = self.licenses.decide(&governing, &facts.canonical, facts.commit, &facts.license)?;
        let warning = governing.expiry_warning(today);
        Ok(Approved { repo: facts.canonical.clone(), commit: facts.commit, rule: governing, license, warning })
    }
}

impl Rule {
    /// Refuses a repo that another owner has registered under the same name. A rule's `upstream_id` is the review that
    /// settles it, whatever was seen first; without it an id or author is compared where both are known.
    fn check_owner(&self, id: &str, facts: &RepoFacts) -> Result<(), Denial> {
        let changed = |what: &str, now: &str, before: &str| {
            let remedy = match &facts.identity.id {
                Some(upstream_id) => {
                    format!("Review it as a new repo; then ask for upstream_id = \"{upstream_id}\" in its rule")
                }
                None => "Review it as a new repo".to_owned(),
            };
            let reason = format!("{id} is not the repo that was approved: its {what} is {now}, and was {before}");
            Err(self.deny(DenialKind::OwnerChanged, &reason, &remedy))
        };
        let now = &facts.identity;
        if let Some(approved) = &self.upstream_id {
            return match &now.id {
                Some(now) if now == approved => Ok(()),
                now => changed("id on the Hub", now.as_deref().unwrap_or("not stated"), approved),
            };
        }
        let Some(before) = &facts.first_seen else { return Ok(()) };
        if let (Some(now), Some(before)) = (&now.id, &before.id)
            && now != before
        {
            return changed("id on the Hub", now, before);
        }
        if let (Some(now), Some(before)) = (&now.author, &before.author)
            && !now.eq_ignore_ascii_case(before)
        {
            return changed("author", now, before);
        }
        Ok(())
    }
}
