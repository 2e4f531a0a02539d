//! What operators decided since the folder was reviewed: approvals and withdrawals, as rules of the policy's own schema.
//!
//! They are merged behind the folder's files and are part of the policy's text and digest, so that every decision can
//! be proven from what is stored. They never overrule the folder: a deny rule beats an approval, and a rule of the folder
//! that names the repo in full speaks instead of it. Nor do they overrule the lock: an approval's pin moves nothing that is
//! locked.

use std::fmt::Write as _;

use time::Date;

use super::{denial::one_line, license_id::LicenseId, source::Source};
use crate::hub::{Commit, Repo, Sha256};

/// How the names of approvals' rules begin. No rule of a folder is called so.
pub const APPROVAL: &str = "approval:";
/// How the names of withdrawals' rules begin.
pub const WITHDRAWAL: &str = "withdrawal:";

/// All of them, in the order in which they were decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// Repos that may come in.
    pub approvals: Vec<ExtraAllow>,
    /// What may not be served any more.
    pub denials: Vec<ExtraDeny>,
}

/// An allow rule for one repo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraAllow {
    /// The rule's name.
    pub name: String,
    /// The one repo.
    pub repo: Repo,
    /// The licence that was approved for it.
    pub licence: LicenseId,
    /// The one commit, where one was approved.
    pub pin: Option<Commit>,
    /// Whether gated upstream content was approved.
    pub gated: bool,
    /// The last day, UTC.
    pub expires: Date,
    /// Who approved it.
    pub approved_by: String,
    /// Where that is written down.
    pub ticket: Option<String>,
    /// Why.
    pub reason: String,
}

/// A deny rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraDeny {
    /// The rule's name.
    pub name: String,
    /// What is denied.
    pub what: DeniedThing,
    /// What the refused person reads.
    pub reason: String,
}

/// What a deny rule can name, beside a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedThing {
    /// A repo.
    Repo(Repo),
    /// A commit, of whatever repo.
    Commit(Commit),
    /// Content, under whatever name.
    Content(Sha256),
}

impl Overlay {
    /// Whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        self.approvals.is_empty() && self.denials.is_empty()
    }

    /// As files of the policy.
    pub(super) fn sources(&self) -> Vec<Source> {
        let approvals: String = self.approvals.iter().map(ExtraAllow::to_toml).collect();
        let withdrawals: String = self.denials.iter().map(ExtraDeny::to_toml).collect();
        let sources = [("approvals", approvals), ("withdrawals", withdrawals)].into_iter();
        let sources = sources.filter(|(_, text)| !text.is_empty());
        sources.map(|(name, text)| Source { name: name.into(), path: name.into(), text }).collect()
    }
}

impl ExtraAllow {
    /// The rule as it stands in a policy file.
    pub fn to_toml(&self) -> String {
        let mut text = format!("# {}\n[[allow]]\n", one_line(&self.reason));
        line(&mut text, "name", &self.name);
        line(&mut text, "repo", self.repo.id());
        line(&mut text, "kind", self.repo.kind().singular());
        if let Some(pin) = self.pin {
            line(&mut text, "pin", &pin.to_string());
        }
        if self.gated {
            text.push_str("gated = true\n");
        }
        let _ = writeln!(text, "license.accept = [{}]", quoted(self.licence.as_str()));
        line(&mut text, "approved_by", &self.approved_by);
        if let Some(ticket) = &self.ticket {
            line(&mut text, "ticket", ticket);
        }
        line(&mut text, "expires", &self.expires.to_string());
        text.push('\n');
        text
    }
}

impl ExtraDeny {
    /// The rule as it stands in a policy file.
    pub fn to_toml(&self) -> String {
        let mut text = "[[deny]]\n".to_owned();
        line(&mut text, "name", &self.name);
        match &self.what {
            DeniedThing::Repo(repo) => {
                line(&mut text, "repo", repo.id());
                line(&mut text, "kind", repo.kind().singular());
            }
            DeniedThing::Commit(commit) => line(&mut text, "commit", &commit.to_string()),
            DeniedThing::Content(sha256) => line(&mut text, "sha256", &sha256.to_string()),
        }
        line(&mut text, "reason", &self.reason);
        text.push('\n');
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{key} = {}", quoted(value));
}

/// A TOML string on one line, whatever stands in it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::policy::{
        DenialKind, EnvLists, PolicyHandle, PolicySet, Reload,
        tests::{commit, day, policy},
    };

    pub(in crate::policy) fn approval(repo: &str) -> ExtraAllow {
        ExtraAllow {
            name: format!("{APPROVAL}1"),
            repo: repo.parse().unwrap(),
            licence: LicenseId::new("gpl-3.0"),
            pin: None,
            gated: false,
            expires: day("2027-01-01"),
            approved_by: "anna".into(),
            ticket: Some("SEC-9 \"quoted\" \\ \u{1}".into()),
            reason: "needed\n[[deny]]".into(),
        }
    }

    fn withdrawal(what: DeniedThing) -> ExtraDeny {
        ExtraDeny { name: format!("{WITHDRAWAL}1"), what, reason: "leaked \"data\"".into() }
    }

    fn with(folder: &str, overlay: &Overlay) -> Arc<PolicySet> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), folder).unwrap();
        let handle = PolicyHandle::open(dir.path(), EnvLists::default()).unwrap();
        handle.preview(overlay).unwrap()
    }

    fn rule_of(set: &PolicySet, repo: &str) -> Result<String, DenialKind> {
        let rule = set.decide_repo(&repo.parse().unwrap(), day("2026-11-24"));
        rule.map(|rule| rule.name.clone()).map_err(|denial| denial.kind())
    }

    #[test]
    fn an_approval_is_a_rule_with_its_approver_and_part_of_text_and_digest() {
        let overlay = Overlay { approvals: vec![approval("datasets/acme/x")], denials: Vec::new() };
        let folder = "[[allow]]\nrepo = \"acme/*\"\n";
        let set = with(folder, &overlay);
        let rule = set.decide_repo(&"datasets/Acme/X".parse().unwrap(), day("2026-11-24")).unwrap();
        assert_eq!((rule.name.as_str(), rule.approved_by.as_deref()), ("approval:1", Some("anna")));
        assert_eq!(rule.ticket.as_deref(), Some("SEC-9 \"quoted\" \\ \u{1}"));
        assert_eq!(rule.expires, Some(day("2027-01-01")));
        assert_eq!((rule.policy_sha256, Sha256::of(set.text().as_bytes())), (set.digest(), set.digest()));
        assert!(set.text().contains("# needed [[deny]]\n"), "{}", set.text());
        assert_ne!(set.digest(), with(folder, &Overlay::default()).digest());
        assert_eq!(rule_of(&set, "acme/x").as_deref(), Ok("acme/*"), "the kind counts");
    }

    #[test]
    fn an_approval_never_overrules_the_folder() {
        let overlay = Overlay { approvals: vec![approval("acme/x")], denials: Vec::new() };
        let cases = [
            ("", Ok("approval:1")),
            ("[[allow]]\nname = \"glob\"\nrepo = \"acme/*\"", Ok("approval:1")),
            ("[[allow]]\nname = \"exact\"\nrepo = \"Acme/X\"", Ok("exact")),
            ("[[allow]]\nname = \"old\"\nrepo = \"acme/x\"\nexpires = \"2026-01-01\"", Err(DenialKind::Expired)),
            ("[[deny]]\nrepo = \"acme/*\"\nreason = \"no\"", Err(DenialKind::DenyRule)),
        ];
        for (folder, expected) in cases {
            let set = with(folder, &overlay);
            assert_eq!(rule_of(&set, "acme/x"), expected.map(ToOwned::to_owned), "{folder}");
        }
    }

    #[test]
    fn a_withdrawal_beats_every_rule() {
        let folder = "[licenses]\nallow = [\"mit\"]\n[[allow]]\nname = \"exact\"\nrepo = \"acme/x\"";
        let repo = DeniedThing::Repo("acme/x".parse().unwrap());
        let overlay = Overlay { approvals: vec![approval("acme/x")], denials: vec![withdrawal(repo)] };
        let set = with(folder, &overlay);
        let denial = set.decide_repo(&"acme/X".parse().unwrap(), day("2026-11-24")).unwrap_err();
        assert_eq!((denial.kind(), denial.rule()), (DenialKind::DenyRule, Some("withdrawal:1")));
        assert!(denial.reason().contains("leaked \"data\""), "{denial}");

        let content = Sha256::of(b"bad");
        let second = ExtraDeny { name: format!("{WITHDRAWAL}2"), ..withdrawal(DeniedThing::Commit(commit())) };
        let denials = vec![withdrawal(DeniedThing::Content(content)), second];
        let set = with(folder, &Overlay { approvals: Vec::new(), denials });
        let repo = "acme/x".parse().unwrap();
        assert!(!set.denied_contents.is_empty());
        assert_eq!(set.decide_digest(&repo, &content).unwrap_err().rule(), Some("withdrawal:1"));
        assert!(set.decide_digest(&repo, &Sha256::of(b"good")).is_ok());
        assert_eq!(set.decide_commit(&repo, commit()).unwrap_err().kind(), DenialKind::DenyRule);
        assert!(set.decide_commit(&repo, "1".repeat(40).parse().unwrap()).is_ok());
    }

    #[test]
    fn a_folder_can_deny_commits_and_contents_too() {
        let text = format!("[[deny]]\ncommit = \"{}\"\nreason = \"bad\"\n", commit());
        assert!(policy(&text).decide_commit(&"a/b".parse().unwrap(), commit()).is_err());
        let error = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("policy.toml"), text).unwrap();
            PolicySet::load(dir.path()).expect_err(text).to_string()
        };
        assert!(error("[[deny]]\nreason = \"x\"").contains("repo"));
        assert!(error("[[deny]]\nsha256 = \"12\"\nreason = \"x\"").contains("sha256"));
        assert!(error("[[deny]]\ncommit = \"main\"\nreason = \"x\"").contains("commit"));
        assert!(error(&format!("[[deny]]\nrepo = \"a/b\"\ncommit = \"{}\"\nreason = \"x\"", commit())).contains("one"));
        assert!(error("[[allow]]\nname = \"approval:1\"\nrepo = \"a/b\"").contains("approval:"));
    }

    #[test]
    fn the_overlay_outlives_a_change_of_the_folder_and_a_bad_folder() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("policy.toml"), text).unwrap();
        write("[[allow]]\nrepo = \"acme/a\"");
        let handle = PolicyHandle::open(dir.path(), EnvLists::default()).unwrap();
        let overlay = Overlay { approvals: vec![approval("acme/x")], denials: Vec::new() };
        assert_eq!(handle.set_overlay(overlay.clone()), Ok(Reload::Changed));
        assert_eq!(handle.set_overlay(overlay), Ok(Reload::Unchanged));
        assert_eq!(handle.reload(), Ok(Reload::Unchanged));
        write("[[allow]]\nrepo = \"acme/b\"");
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        assert!(rule_of(&handle.current(), "acme/x").is_ok() && rule_of(&handle.current(), "acme/b").is_ok());

        write("nonsense");
        assert!(handle.reload().is_err());
        let gone =
            Overlay { approvals: Vec::new(), denials: vec![withdrawal(DeniedThing::Repo("acme/b".parse().unwrap()))] };
        assert_eq!(handle.set_overlay(gone), Ok(Reload::Changed), "a withdrawal holds whatever the folder is");
        assert_eq!(rule_of(&handle.current(), "acme/b"), Err(DenialKind::DenyRule));
        assert_eq!(rule_of(&handle.current(), "acme/x"), Err(DenialKind::NoRule));
    }
}
