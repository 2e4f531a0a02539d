//! A whole policy, as loaded, and which of its rules speaks for a repo.

use std::{collections::HashMap, sync::Arc};

use time::Date;

use super::{
    denial::{Denial, DenialKind},
    env_lists::Narrowing,
    license::LicensePolicy,
    lock::{Lock, LockFile},
    mirror::Mirror,
    pattern::RepoPatterns,
    rule::Rule,
};
use crate::hub::{Commit, Repo, RepoKind, Revision, Sha256};

/// An immutable policy: all files of a folder, or the environment's lists. Default: deny.
#[derive(Debug)]
pub struct PolicySet {
    pub(super) rules: Vec<Arc<Rule>>,
    pub(super) denies: Vec<DenyRule>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) denied_commits: HashMap<Commit, DenyRule>,
    pub(super) denied_contents: HashMap<Sha256, DenyRule>,
    pub(super) licenses: LicensePolicy,
    pub(super) files_deny: Vec<String>,
    pub(super) allow_names: PerKind<RepoPatterns>,
    pub(super) deny_names: PerKind<RepoPatterns>,
    pub(super) narrowing: Narrowing,
    /// Rules as they hold for single repos: those that `HF_REPOS` limits to some revisions, and locked ones.
    pub(super) narrowed: HashMap<(RepoKind, String), Arc<Rule>>,
    pub(super) lock: Option<LockInForce>,
    pub(super) text: String,
    pub(super) digest: Sha256,
    /// Why there is no rule at all, where the folder is missing or empty.
    pub(super) absence: Option<String>,
}

/// A lock with its text, which policies share.
#[derive(Debug)]
pub(super) struct LockInForce {
    pub(super) lock: Arc<Lock>,
    pub(super) file: Arc<LockFile>,
}

/// One `[[deny]]` of the policy.
#[derive(Debug)]
pub(super) struct DenyRule {
    pub(super) name: String,
    /// The pattern over repos; or the commit or sha256, as written.
    pub(super) repo: String,
    /// `None`: every kind.
    pub(super) kind: Option<RepoKind>,
    pub(super) reason: String,
    pub(super) source: String,
}

/// One value for each kind of repo.
#[derive(Debug)]
pub(super) struct PerKind<T>([T; 3]);

impl<T> PerKind<T> {
    pub(super) fn try_new<E>(mut make: impl FnMut(RepoKind) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self([make(RepoKind::Model)?, make(RepoKind::Dataset)?, make(RepoKind::Space)?]))
    }

    pub(super) fn of(&self, kind: RepoKind) -> &T {
        let [model, dataset, space] = &self.0;
        match kind {
            RepoKind::Model => model,
            RepoKind::Dataset => dataset,
            RepoKind::Space => space,
        }
    }
}

impl PolicySet {
    /// The rule that speaks for a repo, or why it is refused. `today` is the day in UTC.
    ///
    /// Deny beats allow, always. Of the allow rules that match, the most specific one speaks: an id in full before any
    /// glob, then the glob with more letters and digits, then the one that stands first (files in the order of their
    /// names). So it does not depend on how a folder is cut into files, and a rule for one repo can narrow what a glob
    /// allows. It alone speaks: when it has expired, the repo is refused, and no wider rule behind it steps in.
    pub fn decide_repo(&self, repo: &Repo, today: Date) -> Result<Arc<Rule>, Denial> {
        let id = repo.id().to_ascii_lowercase();
        self.check_denied(repo, &id)?;
        let index = self.allow_names.of(repo.kind()).find(&id);
        let Some(rule) = index.and_then(|index| self.rules.get(index)) else { return Err(self.no_rule(repo)) };
        rule.check_expiry(repo.id(), today)?;
        if !self.narrowing.names(repo.kind(), &id) {
            return Err(Denial::new(
                DenialKind::NoRule,
                Some(&rule.name),
                &format!("{} {} is not in HF_REPOS, which limits the policy here", repo.kind(), repo.id()),
                "Ask for it to be added to HF_REPOS, or for HF_REPOS to be unset",
            ));
        }
        if !self.narrowed.is_empty()
            && let Some(rule) = self.narrowed.get(&(repo.kind(), id))
        {
            return Ok(Arc::clone(rule));
        }
        Ok(Arc::clone(rule))
    }

    /// The rule that speaks for content that a client asked for as `asked` and that upstream calls `canonical`: deny on
    /// either name wins, and both must be allowed. The canonical name's rule governs, since content is stored and asked
    /// for under that name too. A legacy one-label id needs no second rule: it has no owner who could hand it on, and
    /// the Hub itself moved it (`gpt2` to `openai-community/gpt2`).
    pub fn decide_names(&self, asked: &Repo, canonical: &Repo, today: Date) -> Result<Arc<Rule>, Denial> {
        let rule = self.decide_repo(asked, today)?;
        if asked.same_name(canonical) {
            return Ok(rule);
        }
        if asked.kind() != canonical.kind() {
            return Err(rule.deny(
                DenialKind::Renamed,
                &format!("{} {} leads to the {} {}", asked.kind(), asked.id(), canonical.kind(), canonical.id()),
                "Ask for the repo under its own name",
            ));
        }
        match self.decide_repo(canonical, today) {
            Ok(canonical_rule) => Ok(canonical_rule.held_as(&rule)),
            Err(denial) if denial.kind() == DenialKind::NoRule && is_hubs_own_move(asked, canonical) => {
                Ok(self.with_lock_of(rule, canonical))
            }
            Err(denial) => Err(Denial::new(
                if denial.kind() == DenialKind::NoRule { DenialKind::Renamed } else { denial.kind() },
                denial.rule().or(Some(&rule.name)),
                &format!("{} is now {} on the Hub, and {}", asked.id(), canonical.id(), denial.reason()),
                denial.remedy(),
            )),
        }
    }

    fn check_denied(&self, repo: &Repo, id: &str) -> Result<(), Denial> {
        let index = self.deny_names.of(repo.kind()).find(id);
        let Some(deny) = index.and_then(|index| self.denies.get(index)) else { return Ok(()) };
        Err(Denial::new(
            DenialKind::DenyRule,
            Some(&deny.name),
            &format!("{} {} is denied: {}", repo.kind(), repo.id(), deny.reason),
            "Use another repo, or ask for the deny rule to be reviewed",
        ))
    }

    /// Whether an allow rule names a repo, be it expired or kept out by `HF_REPOS`.
    pub fn has_rule_for(&self, repo: &Repo) -> bool {
        self.allow_names.of(repo.kind()).find(&repo.id().to_ascii_lowercase()).is_some()
    }

    /// Refuses a repo that a deny rule names, whether any rule allows it or not.
    pub fn decide_denied(&self, repo: &Repo) -> Result<(), Denial> {
        self.check_denied(repo, &repo.id().to_ascii_lowercase())
    }

    /// Refuses a commit that a deny rule names.
    pub fn decide_commit(&self, repo: &Repo, commit: Commit) -> Result<(), Denial> {
        let Some(deny) = self.denied_commits.get(&commit) else { return Ok(()) };
        Err(Denial::new(
            DenialKind::DenyRule,
            Some(&deny.name),
            &format!("commit {commit} of {} is denied: {}", repo.id(), deny.reason),
            "Use another commit, or ask for the deny rule to be reviewed",
        ))
    }

    /// Refuses content that a deny rule names, whatever its file is called.
    pub fn decide_digest(&self, repo: &Repo, sha256: &Sha256) -> Result<(), Denial> {
        let Some(deny) = self.denied_contents.get(sha256) else { return Ok(()) };
        Err(Denial::new(
            DenialKind::DenyRule,
            Some(&deny.name),
            &format!("content {sha256} in {} is denied: {}", repo.id(), deny.reason),
            "Use another file, or ask for the deny rule to be reviewed",
        ))
    }

    fn no_rule(&self, repo: &Repo) -> Denial {
        let (kind, id) = (repo.kind(), repo.id());
        let (why, remedy) = match &self.absence {
            Some(absence) => (
                format!("{kind} {id} is not allowed, as nothing is: {absence}"),
                "Write the policy (the shipped policy folder is an example) or set HF_REPOS and LICENSE_ALLOWLIST"
                    .into(),
            ),
            None => (
                format!("no allow rule names the {kind} {id}"),
                format!("Ask for a rule with repo = \"{id}\" and kind = \"{kind}\" after a review"),
            ),
        };
        Denial::new(DenialKind::NoRule, None, &why, &remedy)
    }

    /// The sha256 of [`PolicySet::text`], under which it is stored: any changed byte or file name shows.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// All files with their names and lengths, in the order of their names, as it is stored under
    /// `policies/<digest>`. Of a lock it has the digest, under which its own text is stored beside it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The patterns of `[files] deny`, which every rule starts from.
    pub fn denied_files(&self) -> &[String] {
        &self.files_deny
    }

    /// All allow rules, in the order in which they stand.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The repos to keep here as a whole, in the order in which they stand. No two entries name the same revision
    /// of a repo.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// The entry that names a revision of a repo, where one does.
    pub fn mirror_of(&self, repo: &Repo, revision: &Revision) -> Option<&Mirror> {
        self.mirrors.iter().find(|mirror| mirror.repo.same_name(repo) && mirror.revisions.contains(revision))
    }
}

/// Whether a move from one name to another can only be the Hub's own: from `name` to `org/name`.
fn is_hubs_own_move(asked: &Repo, canonical: &Repo) -> bool {
    let name = canonical.id().split_once('/').map(|(_, name)| name);
    !asked.id().contains('/') && name.is_some_and(|name| name.eq_ignore_ascii_case(asked.id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{day, policy};

    const POLICY: &str = r#"
        [[allow]]
        name = "wide"
        repo = "acme/*"
        [[allow]]
        name = "tiny"
        repo = "Acme/Tiny"
        expires = "2027-01-31"
        [[allow]]
        name = "data"
        repo = "acme/*"
        kind = "dataset"
        [[allow]]
        name = "legacy"
        repo = "gpt2"
        [[allow]]
        name = "bad"
        repo = "acme/bad"
        [[deny]]
        repo = "*/bad"
        reason = "Content policy 4.2"
        [[deny]]
        name = "no spaces"
        repo = "*/*"
        kind = "space"
        reason = "Spaces are code"
    "#;

    fn decide(set: &PolicySet, repo: &str, today: &str) -> String {
        match set.decide_repo(&repo.parse().unwrap(), day(today)) {
            Ok(rule) => rule.name.clone(),
            Err(denial) => denial.to_string(),
        }
    }

    #[test]
    fn deny_beats_allow_and_the_most_specific_rule_speaks() {
        let set = policy(POLICY);
        let cases = [
            ("acme/other", "wide"),
            ("ACME/Other", "wide"),
            ("acme/tiny", "tiny"),
            ("datasets/acme/tiny", "data"),
            ("gpt2", "legacy"),
            (
                "acme/bad",
                "Blocked by hubgate policy (rule deny */bad): model acme/bad is denied: Content policy 4.2. \
                 Use another repo, or ask for the deny rule to be reviewed.",
            ),
            (
                "datasets/x/bad",
                "Blocked by hubgate policy (rule deny */bad): dataset x/bad is denied: Content policy 4.2. \
                 Use another repo, or ask for the deny rule to be reviewed.",
            ),
            (
                "spaces/acme/tiny",
                "Blocked by hubgate policy (rule no spaces): space acme/tiny is denied: Spaces are code. \
                 Use another repo, or ask for the deny rule to be reviewed.",
            ),
            (
                "acme",
                "Blocked by hubgate policy: no allow rule names the model acme. \
                 Ask for a rule with repo = \"acme\" and kind = \"model\" after a review.",
            ),
        ];
        for (repo, expected) in cases {
            assert_eq!(decide(&set, repo, "2026-11-24"), expected, "{repo}");
        }
    }

    #[test]
    fn an_expired_rule_does_not_hand_its_repo_to_a_wider_one() {
        let set = policy(POLICY);
        assert_eq!(decide(&set, "acme/tiny", "2027-01-31"), "tiny");
        let text = decide(&set, "acme/tiny", "2027-02-01");
        assert!(text.starts_with("Blocked by hubgate policy (rule tiny): acme/tiny: the approval ended"), "{text}");
    }

    #[test]
    fn both_names_of_a_renamed_repo_must_be_allowed_and_the_canonical_ones_rule_governs() {
        use DenialKind::{DenyRule, Expired, Renamed};
        let set = policy(POLICY);
        let cases = [
            ("acme/x", "ACME/X", "2026-11-24", Ok("wide")),
            ("acme/x", "acme/tiny", "2026-11-24", Ok("tiny")),
            ("acme/x", "acme/tiny", "2027-02-01", Err(Expired)),
            ("acme/x", "evil/x", "2026-11-24", Err(Renamed)),
            ("acme/x", "acme/bad", "2026-11-24", Err(DenyRule)),
            ("acme/bad", "acme/x", "2026-11-24", Err(DenyRule)),
            ("acme/x", "datasets/acme/x", "2026-11-24", Err(Renamed)),
            ("gpt2", "openai-community/gpt2", "2026-11-24", Ok("legacy")),
            ("gpt2", "openai-community/gpt3", "2026-11-24", Err(Renamed)),
        ];
        for (asked, canonical, today, expected) in cases {
            let decided = set.decide_names(&asked.parse().unwrap(), &canonical.parse().unwrap(), day(today));
            let decided = decided.as_ref().map(|rule| rule.name.as_str()).map_err(Denial::kind);
            assert_eq!(decided, expected, "{asked} -> {canonical}");
        }
    }

    #[test]
    fn every_decision_names_the_policy_whose_text_has_this_digest() {
        let set = policy(POLICY);
        assert_eq!(set.digest(), Sha256::of(set.text().as_bytes()));
        assert!(set.text().contains("policy.toml") && set.text().contains(POLICY));
        assert!(set.rules().iter().all(|rule| rule.policy_sha256 == set.digest()));
        assert_ne!(set.digest(), policy(&format!("{POLICY}\n")).digest());
    }

    #[test]
    fn a_missing_folder_denies_everything_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let missing = PolicySet::load(&dir.path().join("policy")).unwrap();
        let text = decide(&missing, "a/b", "2026-11-24");
        assert!(text.contains("does not exist") && text.contains("HF_REPOS"), "{text}");
        let empty = PolicySet::load(dir.path()).unwrap();
        assert!(decide(&empty, "a/b", "2026-11-24").contains("has no *.toml file"));
    }
}
