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
    /// Who it was when it was first seen, under the name that was asked and the one that it is stored under; none where
    /// it was never seen before.
    pub first_seen: Vec<Identity>,
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
    /// The name that upstream calls it by.
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
        self.decide_commit(&facts.canonical, facts.commit)?;
        let governing = governing.at(facts.commit);
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
        for locked in [rule, &*governing] {
            locked.check_locked(facts.commit)?;
        }
        let license = self.licenses.decide(&governing, &facts.canonical, facts.commit, &facts.license)?;
        let warning = governing.expiry_warning(today);
        Ok(Approved { repo: facts.canonical.clone(), commit: facts.commit, rule: governing, license, warning })
    }
}

impl Rule {
    /// Refuses a repo that another owner has registered under the same name. A rule's `upstream_id` is the review that
    /// settles it, whatever was seen first; without it an id or author is compared where both are known, with those that were
    /// locked before those that were first seen.
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
        // Id and author apart: a lock that has neither is no word on whose the repo was.
        let locked = |part: fn(&Identity) -> Option<&String>| self.locked_identity().and_then(part);
        let seen = |part: fn(&Identity) -> Option<&String>| facts.first_seen.iter().filter_map(part);
        let before = |part| locked(part).into_iter().chain(seen(part).filter(move |_| locked(part).is_none()));
        if let Some(now) = &now.id
            && let Some(before) = before(|identity| identity.id.as_ref()).find(|before| *before != now)
        {
            return changed("id on the Hub", now, before);
        }
        if let Some(now) = &now.author
            && let Some(before) =
                before(|identity| identity.author.as_ref()).find(|before| !before.eq_ignore_ascii_case(now))
        {
            return changed("author", now, before);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::tests::{commit, day, policy};

    const OTHER: &str = "1111111111111111111111111111111111111111";

    fn facts(canonical: &str) -> RepoFacts {
        RepoFacts {
            canonical: canonical.parse().unwrap(),
            commit: commit(),
            identity: Identity { id: Some("id1".into()), author: Some("acme".into()) },
            first_seen: Vec::new(),
            gated: false,
            private: false,
            disabled: false,
            license: LicenseClaims::read(Some(b"---\nlicense: mit\n---\n"), &json!({})),
        }
    }

    fn decide(keys: &str, facts: &RepoFacts) -> Result<Approved, Denial> {
        let set = policy(&format!("[licenses]\nallow = [\"mit\"]\n[[allow]]\nname = \"r\"\nrepo = \"acme/*\"\n{keys}"));
        let asked: Repo = "acme/x".parse().unwrap();
        let rule = set.decide_repo(&asked, day("2026-11-24")).unwrap();
        set.decide_facts(&rule, &asked, facts, day("2026-11-24"))
    }

    #[test]
    fn an_approval_carries_what_the_manifest_records() {
        let keys = "approved_by = \"legal@example.com\"\nticket = \"SEC-1\"\nexpires = \"2026-12-01\"";
        let approved = decide(keys, &facts("Acme/X")).unwrap();
        assert_eq!(approved.repo.id(), "Acme/X");
        assert_eq!(approved.rule.approved_by.as_deref(), Some("legal@example.com"));
        assert_eq!(approved.rule.ticket.as_deref(), Some("SEC-1"));
        assert_eq!(approved.license.to_string(), "mit");
        assert!(approved.warning.as_deref().is_some_and(|warning| warning.contains("in 7 days")));
        assert_eq!(approved.policy_sha256(), approved.rule.policy_sha256);
    }

    #[test]
    fn gated_private_disabled_and_unlicensed_repos_are_refused() {
        use DenialKind::{Disabled, Gated, LicenseUnknown};
        let gated = RepoFacts { gated: true, ..facts("acme/x") };
        let private = RepoFacts { private: true, ..facts("acme/x") };
        let disabled = RepoFacts { disabled: true, ..facts("acme/x") };
        let unlicensed = RepoFacts { license: LicenseClaims::default(), ..facts("acme/x") };
        let cases = [
            ("", &gated, Some(Gated)),
            ("gated = true", &gated, None),
            ("", &private, Some(Gated)),
            ("gated = true", &private, None),
            ("gated = true", &disabled, Some(Disabled)),
            ("", &unlicensed, Some(LicenseUnknown)),
        ];
        for (keys, facts, expected) in cases {
            assert_eq!(decide(keys, facts).err().map(|denial| denial.kind()), expected, "{keys:?} {facts:?}");
        }
    }

    #[test]
    fn another_owner_under_the_same_name_is_refused_until_the_rule_names_its_id() {
        let seen = |id: Option<&str>, author: Option<&str>| RepoFacts {
            first_seen: vec![Identity { id: id.map(Into::into), author: author.map(Into::into) }],
            ..facts("acme/x")
        };
        let changed = Some(DenialKind::OwnerChanged);
        let cases = [
            ("", seen(Some("id1"), Some("Acme")), None),
            ("", seen(Some("id0"), Some("acme")), changed),
            ("", seen(Some("id1"), Some("other")), changed),
            ("", seen(None, None), None),
            ("upstream_id = \"id1\"", seen(Some("id0"), Some("other")), None),
            ("upstream_id = \"id0\"", seen(Some("id1"), Some("acme")), changed),
            ("upstream_id = \"id0\"", facts("acme/x"), changed),
        ];
        for (keys, facts, expected) in cases {
            let denial = decide(keys, &facts).err();
            assert_eq!(denial.as_ref().map(Denial::kind), expected, "{keys:?} {facts:?}");
            assert!(denial.is_none_or(|denial| denial.remedy().contains("upstream_id = \"id1\"")));
        }
    }

    #[test]
    fn the_canonical_name_is_put_to_policy_again() {
        let moved = decide("", &facts("evil/x")).unwrap_err();
        assert_eq!(moved.kind(), DenialKind::Renamed);
        assert!(moved.reason().contains("evil/x"), "{moved}");
        let denied = decide("[[deny]]\nrepo = \"acme/y\"\nreason = \"no\"", &facts("acme/y")).unwrap_err();
        assert_eq!(denied.kind(), DenialKind::DenyRule);
    }

    #[test]
    fn a_pin_holds_under_either_name() {
        let pin_x = format!("[[allow]]\nname = \"x\"\nrepo = \"acme/x\"\npin = \"{OTHER}\"");
        let pin_y = format!("[[allow]]\nname = \"y\"\nrepo = \"acme/y\"\npin = \"{OTHER}\"");
        for keys in [pin_x, pin_y] {
            let denial = decide(&keys, &facts("acme/y")).unwrap_err();
            assert_eq!(denial.kind(), DenialKind::Pinned, "{denial}");
        }
    }
}
