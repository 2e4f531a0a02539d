//! What a lock holds to, and what comes before it.

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
        first_seen: Vec::new(),
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
        first_seen: vec![Identity { id: Some(id.into()), author: Some(author.into()) }],
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
    entry
        .files
        .insert("known.json".parse().unwrap(), LockedFile { sha256: file(0, 'e', false).sha256, ..file(4, 'd', true) });
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
