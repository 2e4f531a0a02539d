//! What a lock asks of what the rules let through: the commit that was reviewed, of the owner it had, with the files it
//! had. The pin of a reviewed rule counts before the lock; its files are then held against the lock where that has them. An
//! approval's pin does not: it was given to a token, and both must hold then.

use std::sync::Arc;

use super::{Lock, Locked, LockedFile};
use crate::{
    hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256},
    policy::{
        denial::{Denial, DenialKind},
        facts::Identity,
        pattern::ref_name,
        rule::{RevisionVerdict, Rule},
        set::PolicySet,
    },
};

/// Entries that a refusal names.
const NAMED: usize = 3;

/// What a lock has of one repo, as a part of the rule that speaks for it.
#[derive(Debug, Clone)]
pub(in crate::policy) struct LockedRepo {
    entries: Arc<[Arc<Locked>]>,
    /// The entry of the commit that is decided on.
    at: Option<Arc<Locked>>,
}

impl Rule {
    /// This rule, for a repo of which the lock has these entries.
    pub(in crate::policy) fn locked_to(&self, entries: &Arc<[Arc<Locked>]>) -> Arc<Self> {
        Arc::new(Self { locked: Some(LockedRepo { entries: entries.clone(), at: None }), ..self.clone() })
    }

    /// This rule, for a repo that was asked for under a name of which `asked` is the rule: what is locked under that name
    /// holds where upstream calls it by another one since.
    pub(in crate::policy) fn held_as(self: Arc<Self>, asked: &Self) -> Arc<Self> {
        match (&self.locked, &asked.locked) {
            (None, Some(locked)) => self.locked_to(&locked.entries),
            _ => self,
        }
    }

    /// This rule, for one commit of its repo: the files are held against what the lock has of that.
    #[must_use]
    pub fn at(self: Arc<Self>, commit: Commit) -> Arc<Self> {
        let Some(LockedRepo { entries, at: None }) = &self.locked else { return self };
        let Some(entry) = entries.iter().find(|entry| entry.commit == commit) else { return self };
        let locked = LockedRepo { entries: entries.clone(), at: Some(entry.clone()) };
        Arc::new(Self { locked: Some(locked), ..(*self).clone() })
    }

    /// The entries that count: those whose revision the rule still allows.
    fn locked_entries(&self) -> impl Iterator<Item = &Arc<Locked>> {
        let entries = self.locked.iter().flat_map(|locked| locked.entries.iter());
        entries.filter(|entry| match entry.revision.as_commit() {
            Some(_) => self.may_name_sha(entry.revision.as_str()),
            None => self.allows_ref(entry.revision.as_str()),
        })
    }

    /// The entry that a lock has for a branch or tag, where the lock decides what that means.
    pub fn locked(&self, name: &str) -> Option<&Arc<Locked>> {
        let name = ref_name(name);
        self.locked_entries().filter(|_| self.is_locked()).find(|entry| ref_name(entry.revision.as_str()) == name)
    }

    /// The commit that a branch or tag means by the rule's pin or by the lock, whatever upstream says.
    pub fn fixes(&self, name: &str) -> Option<Commit> {
        if self.is_locked() { self.locked(name).map(|entry| entry.commit) } else { self.pin }
    }

    /// Whether the lock decides what the revisions of this repo mean: no pin of the reviewed folder does.
    pub fn is_locked(&self) -> bool {
        self.locked.is_some() && (self.pin.is_none() || self.is_approval())
    }

    /// Whether a branch or tag is listed: allowed, and not kept out by the lock.
    pub fn shows_ref(&self, name: &str) -> bool {
        self.allows_ref(name) && (!self.is_locked() || self.locked(name).is_some())
    }

    /// A revision under which to ask about the repo as such: its pin, `main`, else the first that it names.
    pub fn default_revision(&self) -> Revision {
        if let Some(pin) = self.pin {
            return pin.into();
        }
        if self.is_locked() {
            let entry = self.locked("main").or_else(|| self.locked_entries().next());
            return entry.map_or_else(Revision::main, |entry| entry.commit.into());
        }
        let named = self.revisions().unwrap_or_default().iter().filter_map(|name| name.parse().ok());
        if self.allows_ref("main") { Revision::main() } else { named.into_iter().next().unwrap_or_else(Revision::main) }
    }

    /// What a revision means under a lock: what was locked for it, or nothing.
    pub(in crate::policy) fn decide_locked_revision(&self, revision: &Revision) -> Result<RevisionVerdict, Denial> {
        let text = revision.as_str();
        if let Some(commit) = revision.as_commit() {
            let is_locked = self.locked_entries().any(|entry| entry.commit == commit);
            return if is_locked { Ok(RevisionVerdict::Allowed) } else { Err(self.not_locked(text)) };
        }
        if let Some(entry) = self.locked(text) {
            return Ok(RevisionVerdict::PinnedTo(entry.commit));
        }
        if revision.may_be_short_sha() {
            let short = text.to_ascii_lowercase();
            let entry = self.locked_entries().find(|entry| entry.commit.to_string().starts_with(&short));
            return entry.map(|entry| RevisionVerdict::PinnedTo(entry.commit)).ok_or_else(|| self.not_locked(text));
        }
        if self.allows_ref(text) { Err(self.not_locked(text)) } else { Err(self.not_allowed(text)) }
    }

    /// Refuses a commit that was not locked, however it was come by.
    pub fn check_locked(&self, commit: Commit) -> Result<(), Denial> {
        let is_other = self.is_locked() && !self.locked_entries().any(|entry| entry.commit == commit);
        if is_other { Err(self.not_locked(&commit.to_string())) } else { Ok(()) }
    }

    /// Whose repo was reviewed.
    pub(in crate::policy) fn locked_identity(&self) -> Option<&Identity> {
        let LockedRepo { entries, at } = self.locked.as_ref()?;
        at.as_ref().or_else(|| entries.first()).map(|entry| &entry.identity)
    }

    /// Whether the commit that is decided on is locked without this file.
    pub(in crate::policy) fn lock_lacks(&self, path: &RepoPath) -> bool {
        self.locked_at().is_some_and(|entry| !entry.files.contains_key(path))
    }

    /// The refusal of a file that is not the one that was locked. A digest that is not known differs from none.
    pub(in crate::policy) fn decide_locked_file(
        &self,
        path: &RepoPath,
        size: u64,
        blob: Option<BlobId>,
    ) -> Result<(), Denial> {
        let Some((entry, locked)) = self.locked_at().and_then(|entry| Some((entry, entry.files.get(path)?))) else {
            return Ok(());
        };
        let sha256 = match blob {
            Some(BlobId::Sha256(sha256)) => Some(sha256),
            Some(BlobId::Git(_)) | None => None,
        };
        let found = LockedFile { size, blob: blob.unwrap_or(locked.blob), sha256 };
        if locked.is_same(&found) {
            return Ok(());
        }
        // Which digest differs: the git id, where both have one.
        let name = |file: &LockedFile| match (file.blob, blob) {
            (BlobId::Git(oid), Some(BlobId::Git(_))) => format!("git id {oid}"),
            _ => file.to_string(),
        };
        let (now, was) = (name(&found), name(locked));
        let (now, was) = match blob {
            None => (format!("{size} bytes"), format!("{} bytes", locked.size)),
            Some(_) if now == was => (format!("{now} and {size} bytes"), format!("{was} and {} bytes", locked.size)),
            Some(_) => (now, was),
        };
        Err(self.differs(entry, path, &now, &was))
    }

    /// The refusal of content that is not what was locked, once it is known.
    fn decide_locked_content(&self, path: &RepoPath, sha256: &Sha256) -> Result<(), Denial> {
        let Some(entry) = self.locked_at() else { return Ok(()) };
        match entry.files.get(path).and_then(|file| file.sha256) {
            Some(locked) if locked != *sha256 => {
                Err(self.differs(entry, path, &format!("sha256 {sha256}"), &format!("sha256 {locked}")))
            }
            _ => Ok(()),
        }
    }

    fn locked_at(&self) -> Option<&Arc<Locked>> {
        self.locked.as_ref()?.at.as_ref()
    }

    fn differs(&self, entry: &Locked, path: &RepoPath, now: &str, was: &str) -> Denial {
        let Locked { repo, commit, source, .. } = entry;
        let reason = format!("{path} of {}@{commit} has {now}, and the lock ({source}) has {was}", repo.id());
        let remedy = format!("Ask for a review: hubgate lock --diff {repo} shows what differs");
        self.deny(DenialKind::LockDiffers, &reason, &remedy)
    }

    fn not_locked(&self, revision: &str) -> Denial {
        let entries: Vec<&Arc<Locked>> = self.locked_entries().collect();
        let named: Vec<String> =
            entries.iter().take(NAMED).map(|entry| format!("{} at {}", entry.revision, entry.commit)).collect();
        let more = if entries.len() > NAMED { ", ..." } else { "" };
        let named = if named.is_empty() { "no revision that the rule allows".into() } else { named.join(", ") + more };
        let repo = self.locked.iter().flat_map(|locked| locked.entries.iter()).next();
        let repo = repo.map_or_else(|| self.repo.clone(), |entry| entry.repo.to_string());
        let reason = format!("revision {revision} of {repo} is not in the lock, which has {named}");
        let remedy = format!("Ask for one of these, or for a review and then hubgate lock --update {repo}");
        self.deny(DenialKind::NotLocked, &reason, &remedy)
    }
}

impl PolicySet {
    /// The lock in force, if there is one.
    pub fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref().map(|held| &*held.lock)
    }

    /// The lock's text and its sha256, which stands in [`PolicySet::text`].
    pub fn lock_text(&self) -> Option<(Sha256, &str)> {
        self.lock.as_ref().map(|held| (held.file.sha256, held.file.source.text.as_str()))
    }

    /// The rule for a repo that upstream calls `canonical`, if the lock has that name only.
    pub(in crate::policy) fn with_lock_of(&self, rule: Arc<Rule>, canonical: &Repo) -> Arc<Rule> {
        match self.lock().filter(|_| rule.locked.is_none()).and_then(|lock| lock.of(canonical)) {
            Some(entries) => rule.locked_to(entries),
            None => rule,
        }
    }

    /// Whether the digest of this file's content matters: if not, nobody need find it out for
    /// [`PolicySet::decide_content`].
    pub fn asks_for_content(&self, rule: &Rule, path: &RepoPath) -> bool {
        let is_locked =
            rule.locked_at().and_then(|entry| entry.files.get(path)).is_some_and(|file| file.sha256.is_some());
        is_locked || !self.denied_contents.is_empty()
    }

    /// Refuses content that a deny rule names, whatever its file is called, and content that is not what was locked.
    /// `rule` is the one of [`crate::policy::Approved`].
    pub fn decide_content(&self, rule: &Rule, repo: &Repo, path: &RepoPath, sha256: &Sha256) -> Result<(), Denial> {
        self.decide_digest(repo, sha256)?;
        rule.decide_locked_content(path, sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Approved, EnvLists, ExtraAllow, FileVerdict, LicenseClaims, Overlay, PolicyHandle, RepoFacts,
        load::tests::locked_policy,
        lock::tests::{ONE, TWO, file, lock, locked},
        overlay::tests::approval,
        tests::day,
    };

    const RULES: &str = "[licenses]\nallow = [\"mit\"]\n[files]\ndeny = [\"*.pkl\"]\n\
                         [[allow]]\nname = \"r\"\nrepo = \"acme/*\"\nrevisions = [\"main\", \"v*\", \"dead*\"]\n";

    fn policy(more: &str, entries: Vec<Locked>) -> PolicySet {
        locked_policy(&format!("{RULES}{more}"), &lock(entries).to_toml()).unwrap()
    }

    fn verdict(set: &PolicySet, repo: &str, revision: &str) -> Result<RevisionVerdict, DenialKind> {
        let rule = set.decide_repo(&repo.parse().unwrap(), day("2026-11-24")).map_err(|denial| denial.kind())?;
        rule.decide_revision(&revision.parse().unwrap()).map_err(|denial| denial.kind())
    }

    fn facts(canonical: &str, commit: &str) -> RepoFacts {
        RepoFacts {
            canonical: canonical.parse().unwrap(),
            commit: commit.parse().unwrap(),
            identity: Identity { id: Some("id1".into()), author: Some("acme".into()) },
            first_seen: None,
            gated: false,
            private: false,
            disabled: false,
            license: LicenseClaims::read(Some(b"---\nlicense: mit\n---\n"), &serde_json::json!({})),
        }
    }

    fn decide(set: &PolicySet, asked: &str, facts: &RepoFacts) -> Result<Approved, Denial> {
        let asked = asked.parse().unwrap();
        let rule = set.decide_repo(&asked, day("2026-11-24"))?;
        set.decide_facts(&rule, &asked, facts, day("2026-11-24"))
    }

    #[test]
    fn revisions_of_a_locked_repo_mean_what_was_locked_and_others_are_refused() {
        use DenialKind::{NotLocked, Revision as NotAllowed};
        use RevisionVerdict::{Allowed, NeedsHistory, PinnedTo};
        let (one, two) = (ONE.parse().unwrap(), TWO.parse().unwrap());
        let set = policy(
            "",
            vec![
                locked("acme/x", "main", ONE),
                locked("acme/x", "v1", TWO),
                locked("acme/x", "dev", &"3".repeat(40)),
                locked("acme/tag", "deadbeef", TWO),
            ],
        );
        let cases = [
            ("acme/x", "main", Ok(PinnedTo(one))),
            ("Acme/X", "refs/heads/main", Ok(PinnedTo(one))),
            ("acme/x", "HEAD", Ok(PinnedTo(one))),
            ("acme/x", "v1", Ok(PinnedTo(two))),
            ("acme/x", "v2", Err(NotLocked)),
            ("acme/x", "dev", Err(NotAllowed)),
            ("acme/x", "refs/pr/1", Err(NotAllowed)),
            ("acme/x", ONE, Ok(Allowed)),
            ("acme/x", TWO, Ok(Allowed)),
            ("acme/x", &"3".repeat(40), Err(NotLocked)),
            ("acme/x", &"4".repeat(40), Err(NotLocked)),
            ("acme/x", &ONE[..7], Ok(PinnedTo(one))),
            ("acme/x", "444444", Err(NotLocked)),
            ("acme/tag", "deadbeef", Ok(PinnedTo(two))),
            ("acme/free", "main", Ok(Allowed)),
            ("acme/free", ONE, Ok(NeedsHistory)),
        ];
        for (repo, revision, expected) in cases {
            assert_eq!(verdict(&set, repo, revision), expected, "{repo}@{revision}");
        }
        let rule = set.decide_repo(&"acme/x".parse().unwrap(), day("2026-11-24")).unwrap();
        let denial = rule.decide_revision(&"v2".parse().unwrap()).unwrap_err();
        let text = denial.to_string();
        assert!(
            text.contains(&format!("v2 of acme/x is not in the lock, which has main at {ONE}, v1 at {TWO}. ")),
            "{text}"
        );
        assert!(rule.shows_ref("v1") && !rule.shows_ref("v2") && !rule.shows_ref("dev"));
        assert_eq!((rule.fixes("v1"), rule.default_revision()), (Some(two), one.into()));
    }

    #[test]
    fn a_deny_rule_a_licence_and_a_pin_count_before_the_lock() {
        let pin = format!(
            "[[allow]]\nname = \"p\"\nrepo = \"acme/p\"\npin = \"{TWO}\"\n[[deny]]\nrepo = \"acme/no\"\nreason = \"no\"\n"
        );
        let set = policy(
            &pin,
            vec![locked("acme/p", "main", ONE), locked("acme/no", "main", ONE), locked("other/x", "main", ONE)],
        );
        assert_eq!(verdict(&set, "acme/no", "main"), Err(DenialKind::DenyRule));
        assert_eq!(verdict(&set, "other/x", "main"), Err(DenialKind::NoRule), "a lock allows nothing");
        assert_eq!(verdict(&set, "acme/p", "main"), Ok(RevisionVerdict::PinnedTo(TWO.parse().unwrap())));
        assert!(decide(&set, "acme/p", &facts("acme/p", TWO)).is_ok());
        let unlicensed = RepoFacts { license: LicenseClaims::default(), ..facts("acme/x", ONE) };
        let set = policy("", vec![locked("acme/x", "main", ONE)]);
        assert_eq!(decide(&set, "acme/x", &unlicensed).unwrap_err().kind(), DenialKind::LicenseUnknown);
    }

    #[test]
    fn an_approvals_pin_takes_nothing_out_from_under_the_lock() {
        let approved = |pin: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("models.lock");
            std::fs::write(dir.path().join("policy.toml"), RULES).unwrap();
            let entries = vec![locked("acme/x", "main", ONE), locked("acme/x", "v1", &"3".repeat(40))];
            std::fs::write(&path, lock(entries).to_toml()).unwrap();
            let approval = ExtraAllow { pin: Some(pin.parse().unwrap()), ..approval("acme/x") };
            let overlay = Overlay { approvals: vec![approval], denials: Vec::new() };
            PolicyHandle::open_locked(dir.path(), Some(path), EnvLists::default()).unwrap().preview(&overlay).unwrap()
        };
        let set = approved(TWO);
        let rule = set.decide_repo(&"acme/x".parse().unwrap(), day("2026-11-24")).unwrap();
        assert!(rule.name == "approval:1" && rule.is_locked());
        assert_eq!(verdict(&set, "acme/x", TWO), Err(DenialKind::NotLocked));
        assert_eq!(rule.fixes("main"), Some(ONE.parse().unwrap()));
        for commit in [ONE, TWO] {
            assert!(decide(&set, "acme/x", &facts("acme/x", commit)).is_err(), "{commit}");
        }
        let set = approved(ONE);
        let allowed = decide(&set, "acme/x", &facts("acme/x", ONE)).unwrap();
        assert!(allowed.rule.hides(&"new.json".parse().unwrap()), "the files are held against the lock");
        let other = decide(&set, "acme/x", &facts("acme/x", &"3".repeat(40))).unwrap_err();
        assert_eq!(other.kind(), DenialKind::Pinned, "of what is locked, an approval may take a part");
    }

    #[test]
    fn a_commit_or_an_owner_that_was_not_locked_is_refused_under_every_name() {
        let renamed = Locked { canonical: Some("acme/new".parse().unwrap()), ..locked("acme/old", "main", ONE) };
        let gpt = Locked { canonical: Some("openai-community/gpt2".parse().unwrap()), ..locked("gpt2", "main", ONE) };
        let gpt3 = locked("openai-community/gpt3", "main", ONE);
        let legacy = "[[allow]]\nname = \"g\"\nrepo = \"gpt*\"\n";
        let set = policy(legacy, vec![renamed, gpt, gpt3]);
        let cases = [
            ("acme/old", "acme/new", ONE, None),
            ("acme/new", "acme/new", ONE, None),
            ("acme/old", "acme/new", TWO, Some(DenialKind::NotLocked)),
            ("acme/old", "acme/newest", ONE, None),
            ("acme/old", "acme/newest", TWO, Some(DenialKind::NotLocked)),
            ("acme/other", "acme/new", TWO, Some(DenialKind::NotLocked)),
            ("gpt2", "openai-community/gpt2", TWO, Some(DenialKind::NotLocked)),
            ("gpt3", "openai-community/gpt3", TWO, Some(DenialKind::NotLocked)),
            ("gpt3", "openai-community/gpt3", ONE, None),
        ];
        for (asked, canonical, commit, expected) in cases {
            let denial = decide(&set, asked, &facts(canonical, commit)).err();
            assert_eq!(denial.as_ref().map(Denial::kind), expected, "{asked} -> {canonical}@{commit}");
        }
        let renamed = decide(&set, "acme/old", &facts("acme/newest", ONE)).unwrap();
        assert!(renamed.rule.hides(&"new.json".parse().unwrap()), "the files are held against the lock under any name");
        let set = policy(
            "[[allow]]\nname = \"y\"\nrepo = \"acme/y\"\nupstream_id = \"id2\"\n",
            vec![locked("acme/x", "main", ONE), locked("acme/y", "main", ONE)],
        );
        let other = |name| RepoFacts {
            identity: Identity { id: Some("id2".into()), author: Some("acme".into()) },
            ..facts(name, ONE)
        };
        assert_eq!(decide(&set, "acme/x", &other("acme/x")).unwrap_err().kind(), DenialKind::OwnerChanged);
        assert!(decide(&set, "acme/y", &other("acme/y")).is_ok(), "the rule's upstream_id is the newer review");
    }

    #[test]
    fn an_entry_that_does_not_say_whose_repo_it_was_leaves_the_first_seen_owner_in_force() {
        let seen = |id: &str, author: &str| RepoFacts {
            first_seen: Some(Identity { id: Some(id.into()), author: Some(author.into()) }),
            ..facts("acme/x", ONE)
        };
        let changed = Err(DenialKind::OwnerChanged);
        let cases = [
            (None, None, seen("id1", "acme"), Ok(())),
            (None, None, seen("id0", "acme"), changed),
            (None, None, seen("id1", "other"), changed),
            (Some("id1"), None, seen("id0", "other"), changed),
            (Some("id1"), None, seen("id0", "acme"), Ok(())),
            (None, Some("acme"), seen("id0", "other"), changed),
        ];
        for (id, author, facts, expected) in cases {
            let identity = Identity { id: id.map(Into::into), author: author.map(Into::into) };
            let set = policy("", vec![Locked { identity, ..locked("acme/x", "main", ONE) }]);
            let decided = decide(&set, "acme/x", &facts).map(drop).map_err(|denial| denial.kind());
            assert_eq!(decided, expected, "{id:?} {author:?} {facts:?}");
        }
    }

    #[test]
    fn files_are_held_against_the_lock_of_their_commit() {
        let mut entry = locked("acme/x", "main", ONE);
        entry.files.insert(
            "known.json".parse().unwrap(),
            LockedFile { sha256: file(0, 'e', false).sha256, ..file(4, 'd', true) },
        );
        entry.files.insert("weights.pkl".parse().unwrap(), file(4, 'f', false));
        let set = policy("", vec![entry]);
        let approved = decide(&set, "acme/x", &facts("acme/x", ONE)).unwrap();
        let rule = &approved.rule;
        let told = |path: &str, size, digit, git| match rule.decide_file(
            &path.parse().unwrap(),
            size,
            Some(file(size, digit, git).blob),
        ) {
            FileVerdict::Served => "served".to_owned(),
            FileVerdict::Hidden(denial) => format!("hidden: {denial}"),
            FileVerdict::Refused(denial) => format!("{}: {denial}", denial.kind().as_str()),
        };
        let (a, b, c) = ("a".repeat(40), "b".repeat(64), "c".repeat(64));
        let cases = [
            ("config.json", 2, 'a', true, "served".to_owned()),
            ("model.safetensors", 10, 'b', false, "served".into()),
            ("known.json", 4, 'd', true, "served".into()),
            ("known.json", 4, 'e', false, "served".into()),
            (
                "model.safetensors",
                10,
                'c',
                false,
                format!(
                    "lock_differs: Blocked by hubgate policy (rule r): model.safetensors of acme/x@{ONE} has sha256 {c}, and the lock (models.lock:5) has sha256 {b}. Ask for a review: hubgate lock --diff acme/x shows what differs."
                ),
            ),
            (
                "model.safetensors",
                11,
                'b',
                false,
                format!("has sha256 {b} and 11 bytes, and the lock (models.lock:5) has sha256 {b} and 10 bytes"),
            ),
            (
                "config.json",
                2,
                'c',
                true,
                format!("has git id {}, and the lock (models.lock:5) has git id {a}", "c".repeat(40)),
            ),
            (
                "config.json",
                2,
                'a',
                false,
                format!("has sha256 {}, and the lock (models.lock:5) has git id {a}", "a".repeat(64)),
            ),
            (
                "new.json",
                1,
                'a',
                true,
                "hidden: Blocked by hubgate policy (rule r): new.json is withheld (not in the lock)".into(),
            ),
            (
                "weights.pkl",
                4,
                'f',
                false,
                "hidden: Blocked by hubgate policy (rule r): weights.pkl is withheld (files.deny *.pkl)".into(),
            ),
        ];
        for (path, size, digit, git, expected) in cases {
            let told = told(path, size, digit, git);
            assert!(told.contains(&expected), "{path}: {told}\nexpected {expected}");
        }
        let repo = "acme/x".parse().unwrap();
        let content = |path: &str, digit| {
            set.decide_content(rule, &repo, &path.parse().unwrap(), &file(0, digit, false).sha256.unwrap())
                .map_err(|d| d.kind())
        };
        assert_eq!(content("known.json", 'e'), Ok(()));
        assert_eq!(content("known.json", 'a'), Err(DenialKind::LockDiffers));
        assert_eq!(content("config.json", '9'), Ok(()), "its sha256 was not known");
        let asks = |path: &str| set.asks_for_content(rule, &path.parse().unwrap());
        assert!(asks("known.json") && !asks("config.json") && !asks("new.json"));
    }
}
