//! An allow rule, and what it says of a revision.

use std::sync::Arc;

use time::{Date, Duration};

use super::{
    denial::{Denial, DenialKind},
    files::FileRules,
    license_id::LicenseId,
    lock::LockedRepo,
    overlay::APPROVAL,
    pattern::{RefPatterns, is_literal, is_special_ref, ref_name},
};
use crate::hub::{Commit, Repo, RepoKind, Revision, Sha256};

/// Days before `expires` from which a rule warns.
const WARNING_DAYS: i64 = 30;

/// One `[[allow]]` of the policy.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name in decisions and the manifest; the repo pattern where the policy gives none.
    pub name: String,
    /// The glob over repo ids, as written.
    pub repo: String,
    /// The kind of repo that it names.
    pub kind: RepoKind,
    /// The commit that branches and tags mean under this rule.
    pub pin: Option<Commit>,
    /// Whether a bounded range may be answered before the whole file is verified.
    pub ranges: Ranges,
    /// Whether a commit's files are served only once the hook has passed on it.
    pub hook: HookDemand,
    /// Whether gated or private upstream content is allowed.
    pub gated: bool,
    /// The largest file served, in bytes.
    pub max_file_size: Option<u64>,
    /// Upstream's own id of the repo (`_id`): the repo that was approved, whoever owned the name before.
    pub upstream_id: Option<String>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Where that is written down.
    pub ticket: Option<String>,
    /// The last day on which it holds, UTC.
    pub expires: Option<Date>,
    /// The file of the policy folder and the line where it stands: `repos.toml:12`.
    pub source: String,
    /// The digest of the policy it is part of.
    pub policy_sha256: Sha256,
    pub(super) revisions: Option<RefPatterns>,
    /// The revisions that `HF_REPOS` names for this repo.
    pub(super) narrowed: Option<RefPatterns>,
    /// What the lock has of the one repo that this is the rule for.
    pub(super) locked: Option<LockedRepo>,
    pub(super) files: FileRules,
    pub(super) accepted_licenses: Vec<LicenseId>,
}

/// What a bounded range may hold while its file is being fetched (DESIGN section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// Bytes as they come; the last block is withheld until the file is verified.
    #[default]
    Streamed,
    /// Only bytes of a verified file: a range waits for the whole fill.
    Verified,
}

/// What a rule asks of the hook (`hooks.commit_complete`) before a commit's files are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookDemand {
    /// Nothing: a hook that fails keeps a commit from being published, not from being served.
    #[default]
    Optional,
    /// Its newest run on the commit must have passed.
    Required,
}

/// What policy says of a revision that it doesn't refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionVerdict {
    /// Served: resolve it upstream or in the store as it is.
    Allowed,
    /// A branch or a tag, or a short spelling of the pin or a locked commit: means this commit.
    PinnedTo(Commit),
    /// A sha, or a name that git may read as one. Served only if its commit is stored under this repo, or lies in the
    /// history of a branch or tag that [`Rule::allows_ref`] allows, or if the origin lists a branch or tag of exactly
    /// this name and [`Rule::allows_ref`] allows it. Anyone can open a pull request on an approved repo; its commits
    /// resolve by their sha and are not approved by that.
    NeedsHistory,
}

impl Rule {
    /// What this rule says of a revision. Under a pin, branches and tags mean the pinned commit and any other sha is
    /// refused; `refs/pr/*` and `refs/convert/*` are served only where `revisions` names them. Under a lock each revision
    /// means what was locked for it, and there are no others.
    pub fn decide_revision(&self, revision: &Revision) -> Result<RevisionVerdict, Denial> {
        let text = revision.as_str();
        if self.is_locked() {
            return self.decide_locked_revision(revision);
        }
        if let Some(commit) = revision.as_commit() {
            return match self.pin {
                Some(pin) if pin == commit => Ok(RevisionVerdict::Allowed),
                Some(pin) => Err(self.not_the_pin(text, pin)),
                None if self.names_literally(text) => Ok(RevisionVerdict::Allowed),
                None if !self.may_name_sha(text) => Err(self.not_allowed(text)),
                None => Ok(RevisionVerdict::NeedsHistory),
            };
        }
        let name = ref_name(text);
        if revision.may_be_short_sha() && !self.names_literally(&name) {
            return match self.pin {
                Some(pin) if pin.to_string().starts_with(&text.to_ascii_lowercase()) => {
                    Ok(RevisionVerdict::PinnedTo(pin))
                }
                Some(pin) => Err(self.not_the_pin(text, pin)),
                None => Ok(RevisionVerdict::NeedsHistory),
            };
        }
        if !self.allows_ref(&name) {
            return Err(self.not_allowed(text));
        }
        Ok(self.pin.map_or(RevisionVerdict::Allowed, RevisionVerdict::PinnedTo))
    }

    /// Whether an admin's approval is where this rule comes from, not the reviewed folder, whose rules are never called so.
    pub(super) fn is_approval(&self) -> bool {
        self.name.starts_with(APPROVAL)
    }

    /// Whether a branch, tag or special ref of this name is allowed: what `/refs` lists, and whose history is approved
    /// where nothing is pinned.
    pub fn allows_ref(&self, name: &str) -> bool {
        let name = ref_name(name);
        let named = match &self.revisions {
            Some(patterns) => patterns.match_name(&name),
            None => !is_special_ref(&name),
        };
        named && self.narrowed.as_ref().is_none_or(|patterns| patterns.match_name(&name))
    }

    /// Whether the rule's `revisions` have this very name. `HF_REPOS` can't approve a sha that the rule doesn't.
    fn names_literally(&self, name: &str) -> bool {
        self.revisions.as_ref().is_some_and(|patterns| patterns.name_literally(name))
            && self.narrowed.as_ref().is_none_or(|patterns| patterns.name_literally(name))
    }

    /// Whether a sha may be served at all: `HF_REPOS` may name the only ones.
    pub(super) fn may_name_sha(&self, sha: &str) -> bool {
        self.narrowed.as_ref().is_none_or(|list| !list.are_commits() || list.name_literally(sha))
    }

    /// The refusal of a sha for which [`RevisionVerdict::NeedsHistory`] was said and nothing was found.
    pub fn outside_history(&self, revision: &Revision) -> Denial {
        let reason = format!("commit {revision} is in the history of no allowed branch or tag of {}", self.repo);
        let remedy = "Ask for a branch or a tag, or for the commit to be named by the rule's revisions after a review";
        self.deny(DenialKind::Revision, &reason, remedy)
    }

    /// The refusal of a commit on which the hook has not passed, where [`Rule::hook`] asks for it. `why` is what is
    /// known of the hook's last run.
    pub fn hook_not_passed(&self, repo: &str, commit: Commit, why: &str) -> Denial {
        let reason = format!("{repo}@{commit}: the rule says hook = \"required\", and {why}");
        let remedy = "Ask the operator to fetch the commit whole (hubgate sync) and to see what its hook says";
        self.deny(DenialKind::HookNotPassed, &reason, remedy)
    }

    fn not_the_pin(&self, revision: &str, pin: Commit) -> Denial {
        let reason = format!("revision {revision} is not the approved commit {pin} of {}", self.repo);
        self.deny(DenialKind::Pinned, &reason, &format!("Ask for {pin}, or for the pin to be moved after a review"))
    }

    pub(super) fn not_allowed(&self, revision: &str) -> Denial {
        let named = |what: &str, patterns: &Option<RefPatterns>| match patterns {
            Some(patterns) => format!("; {what}: {}", patterns.patterns().join(" ")),
            None => String::new(),
        };
        let named = named("the rule's revisions", &self.revisions) + &named("HF_REPOS", &self.narrowed);
        let reason = format!("revision {revision} of {} is not allowed{named}", self.repo);
        let remedy = if is_special_ref(&ref_name(revision)) {
            "Ask for a branch or a tag; pull requests and converted copies must be named by the rule's revisions"
        } else {
            "Ask for one of these, or for the revision to be added to the rule"
        };
        self.deny(DenialKind::Revision, &reason, remedy)
    }

    /// Refuses when the rule's last day is over.
    pub(super) fn check_expiry(&self, repo: &str, today: Date) -> Result<(), Denial> {
        match self.expires {
            Some(last) if today > last => Err(self.deny(
                DenialKind::Expired,
                &format!("{repo}: the approval ended after {last}"),
                "Ask for it to be reviewed and its expires to be moved",
            )),
            _ => Ok(()),
        }
    }

    /// One line from 30 days before the rule's last day on: when it ends and what then.
    pub fn expiry_warning(&self, today: Date) -> Option<String> {
        let last = self.expires?;
        let days = (last - today).whole_days();
        (today <= last && last <= today.saturating_add(Duration::days(WARNING_DAYS))).then(|| {
            let left = match days {
                0 => "today".to_owned(),
                1 => "tomorrow".to_owned(),
                n => format!("in {n} days"),
            };
            super::denial::one_line(&format!(
                "rule {} ends {left}, after {last}; then {} is refused",
                self.name, self.repo
            ))
        })
    }

    /// The patterns over branches and tags, as written; `None` means all of them.
    pub fn revisions(&self) -> Option<&[String]> {
        self.revisions.as_ref().map(RefPatterns::patterns)
    }

    /// The one repo that it names in full, if it does.
    pub fn named_repo(&self) -> Option<Repo> {
        is_literal(&self.repo).then(|| Repo::new(self.kind, &self.repo).ok())?
    }

    /// The revisions that it names in full; `main` where it names none and allows that.
    pub fn named_revisions(&self) -> Vec<Revision> {
        let literal = self.revisions().unwrap_or_default().iter().filter(|name| is_literal(name));
        let named: Vec<Revision> = literal.filter_map(|name| name.parse().ok()).collect();
        if named.is_empty() && self.allows_ref("main") { vec![Revision::main()] } else { named }
    }

    /// Licences that this rule accepts beyond those that the policy allows everywhere.
    pub fn accepted_licenses(&self) -> &[LicenseId] {
        &self.accepted_licenses
    }

    pub(super) fn deny(&self, kind: DenialKind, reason: &str, remedy: &str) -> Denial {
        Denial::new(kind, Some(&self.name), reason, remedy)
    }

    /// This rule, for the revisions of `HF_REPOS` only.
    pub(super) fn narrowed_to(&self, revisions: RefPatterns) -> Arc<Self> {
        Arc::new(Self { narrowed: Some(revisions), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{day, rule};

    const PIN: &str = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf";
    const OTHER: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn revisions_are_decided_by_name_pin_and_history() {
        use RevisionVerdict::{Allowed, NeedsHistory, PinnedTo};
        let pin = format!("pin = \"{PIN}\"");
        let pinned = PinnedTo(PIN.parse().unwrap());
        let denied = |kind| Err(kind);
        let named_sha = format!("revisions = [\"main\", \"{OTHER}\"]");
        let cases: Vec<(&str, &str, Result<RevisionVerdict, DenialKind>)> = vec![
            ("", "main", Ok(Allowed)),
            ("", "HEAD", Ok(Allowed)),
            ("", "feature/x", Ok(Allowed)),
            ("", OTHER, Ok(NeedsHistory)),
            ("", "1111111", Ok(NeedsHistory)),
            ("", "abcd", Ok(NeedsHistory)),
            ("", "v1-3-gabcdef1", Ok(NeedsHistory)),
            ("", "refs/pr/1", denied(DenialKind::Revision)),
            ("", "pr/1", denied(DenialKind::Revision)),
            ("", "refs/convert/parquet", denied(DenialKind::Revision)),
            ("revisions = [\"main\", \"v*\"]", "main", Ok(Allowed)),
            ("revisions = [\"main\", \"v*\"]", "refs/heads/main", Ok(Allowed)),
            ("revisions = [\"main\", \"v*\"]", "v2", Ok(Allowed)),
            ("revisions = [\"main\", \"v*\"]", "dev", denied(DenialKind::Revision)),
            ("revisions = [\"main\", \"v*\"]", OTHER, Ok(NeedsHistory)),
            ("revisions = [\"**\"]", "refs/pr/1", denied(DenialKind::Revision)),
            ("revisions = [\"refs/pr/*\"]", "refs/pr/1", Ok(Allowed)),
            ("revisions = [\"deadbeef\"]", "deadbeef", Ok(Allowed)),
            ("revisions = [\"dead*\"]", "deadbeef", Ok(NeedsHistory)),
            (&named_sha, OTHER, Ok(Allowed)),
            (&pin, "main", Ok(pinned)),
            (&pin, "v1", Ok(pinned)),
            (&pin, PIN, Ok(Allowed)),
            (&pin, &PIN[..7], Ok(pinned)),
            (&pin, OTHER, denied(DenialKind::Pinned)),
            (&pin, "1111111", denied(DenialKind::Pinned)),
            (&pin, "refs/pr/1", denied(DenialKind::Revision)),
        ];
        for (keys, revision, expected) in cases {
            let verdict = rule(keys).decide_revision(&revision.parse().unwrap());
            assert_eq!(verdict.map_err(|d| d.kind()), expected, "{revision} under {keys:?}");
        }
    }

    #[test]
    fn a_refused_sha_names_the_pin() {
        let denial = rule(&format!("pin = \"{PIN}\"")).decide_revision(&OTHER.parse().unwrap()).unwrap_err();
        assert!(denial.to_string().contains(PIN), "{denial}");
        assert_eq!(denial.rule(), Some("r"));
    }

    #[test]
    fn the_last_day_counts_and_the_warning_comes_thirty_days_before() {
        let rule = rule("expires = \"2027-06-30\"");
        let warns = |today| rule.expiry_warning(day(today));
        assert!(rule.check_expiry("a/b", day("2027-06-30")).is_ok());
        let denial = rule.check_expiry("a/b", day("2027-07-01")).unwrap_err();
        assert_eq!(denial.kind(), DenialKind::Expired);
        assert_eq!(warns("2027-05-30"), None);
        assert!(warns("2027-05-31").unwrap().contains("in 30 days"));
        assert!(warns("2027-06-30").unwrap().contains("today"));
        assert_eq!(warns("2027-07-01"), None);
    }
}
