use serde_json::json;

use super::*;
use crate::policy::{
    Identity, LicenseClaims,
    tests::{commit, day, policy},
};

const POLICY: &str = r#"
    [licenses]
    allow = ["apache-2.0"]
    [files]
    deny = ["*.bin"]
    [[allow]]
    name = "tiny"
    repo = "acme/tiny"
    pin = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    max_file_size = "1 kB"
    approved_by = "legal@example.com"
    ticket = "SEC-1"
    expires = "2026-12-01"
    [[allow]]
    name = "all"
    repo = "acme/*"
"#;

fn facts(license: &str) -> RepoFacts {
    RepoFacts {
        canonical: "acme/tiny".parse().unwrap(),
        commit: commit(),
        identity: Identity { id: None, author: Some("acme".into()) },
        first_seen: Vec::new(),
        gated: false,
        private: false,
        disabled: false,
        license: LicenseClaims::read(Some(format!("---\nlicense: {license}\n---\n").as_bytes()), &json!({})),
    }
}

/// Refused files, as the gateway finds them out.
fn refused(path: &str, denial: Denial) -> HashMap<RepoPath, Denial> {
    HashMap::from([(path.parse().unwrap(), denial)])
}

fn blob() -> BlobId {
    BlobId::Sha256(Sha256::of(b"x"))
}

fn ask(
    repo: &str,
    revision: &str,
    facts: Option<&RepoFacts>,
    files: Option<&[(RepoPath, u64, BlobId)]>,
) -> Explanation {
    let question = Question {
        repo: &repo.parse().unwrap(),
        revision: &revision.parse().unwrap(),
        locked: None,
        in_history: None,
        refused: None,
        facts,
        files,
        refused_files: &HashMap::new(),
        notes: &[],
        contact: Some("legal@example.com"),
    };
    explain(&policy(POLICY), &question, day("2026-11-24"))
}

#[test]
fn an_allowed_repo_is_explained_to_the_last_file() {
    let files: Vec<(RepoPath, u64, BlobId)> =
        [("config.json", 10), ("model.safetensors", 500), ("m.bin", 1), ("x.gguf", 1001)]
            .map(|(path, size)| (path.parse().unwrap(), size, blob()))
            .into();
    let answer = ask("acme/tiny", "main", Some(&facts("apache-2.0")), Some(&files));
    let text = answer.to_string();
    let digest = answer.policy_sha256.to_string();
    assert_eq!(
        text.replace(&digest, "DIGEST"),
        "model acme/tiny @ main\n  \
         policy    DIGEST\n  \
         rule      tiny, approved by legal@example.com, ticket SEC-1, expires 2026-12-01\n  \
         repo      ok       rule tiny (policy.toml:6) names acme/tiny\n  \
         revision  ok       main means the pinned commit c9745ed1d9f207416be6d2e6f8de32d1f16199bf\n  \
         upstream  ok       commit c9745ed1d9f207416be6d2e6f8de32d1f16199bf, neither gated nor private, owner acme\n  \
         licence   ok       apache-2.0, found in the README.md front matter\n  \
         files     ok       2 of 4 files are served, 510 bytes; 1 withheld, 1 too large\n                     \
         m.bin is withheld (files.deny *.bin)\n                     \
         x.gguf has 1001 bytes, more than max_file_size allows (1000 bytes)\n  \
         note      rule tiny ends in 7 days, after 2026-12-01; then acme/tiny is refused\n\
         Allowed.\n"
    );
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["verdict"], "allowed");
    assert_eq!(json["license"]["ids"], json!(["apache-2.0"]));
    assert_eq!(json["files"]["withheld"][0]["path"], "m.bin");
}

#[test]
fn a_refusal_shows_the_stage_and_the_text_that_clients_see() {
    let mpl = facts("mpl-2.0");
    let other = "1111111111111111111111111111111111111111";
    let cases = [
        (ask("evil/x", "main", None, None), "repo"),
        (ask("acme/tiny", other, None, None), "revision"),
        (ask("acme/tiny", "main", Some(&mpl), None), "licence"),
        (ask("acme/tiny", "main", Some(&facts("apache-2.0")), Some(&[("m.bin".parse().unwrap(), 1, blob())])), "files"),
    ];
    for (answer, stage) in cases {
        let last = answer.steps.last().unwrap();
        assert_eq!((last.stage, last.verdict, answer.verdict), (stage, Verdict::Refused, Verdict::Refused));
        let message = answer.denial.as_ref().unwrap().message(Some("legal@example.com"));
        assert!(answer.to_string().ends_with(&format!("Refused. Clients see: {message}\n")), "{answer}");
    }
}

#[test]
fn a_locked_repo_is_explained_by_its_lock() {
    use crate::policy::{load::tests::locked_policy, lock::tests::*};
    let entry = locked("acme/tiny", "main", ONE);
    let config = entry.files[&"config.json".parse::<RepoPath>().unwrap()];
    let text = POLICY.replace("pin = \"c9745ed1d9f207416be6d2e6f8de32d1f16199bf\"", "");
    let set = locked_policy(&text, &lock(vec![entry]).to_toml()).unwrap();
    let facts = RepoFacts { commit: ONE.parse().unwrap(), ..facts("apache-2.0") };
    let other = ("model.safetensors".parse().unwrap(), 10, file(10, 'c', false).blob);
    let files = [("config.json".parse().unwrap(), 2, config.blob), other, ("new".parse().unwrap(), 1, config.blob)];
    let (repo, revision) = (&"acme/tiny".parse().unwrap(), &"main".parse().unwrap());
    let question = Question {
        repo,
        revision,
        locked: None,
        in_history: None,
        refused: None,
        facts: Some(&facts),
        files: Some(&files),
        refused_files: &HashMap::new(),
        notes: &[],
        contact: None,
    };
    let told = explain(&set, &question, day("2026-11-24")).to_string();
    for line in [
        &format!("  revision  ok       main means the locked commit {ONE} (models.lock:5)\n"),
        "  files     ok       1 of 3 files are served, 2 bytes; 1 withheld, 1 too large or not as locked\n",
        "new is withheld (not in the lock)\n",
        &format!("model.safetensors of acme/tiny@{ONE} has sha256 cccc"),
    ] {
        assert!(told.contains(line), "{told}\n{line}");
    }
    let question = Question { revision: &"v1".parse().unwrap(), facts: None, files: None, ..question };
    let told = explain(&set, &question, day("2026-11-24"));
    let last = told.steps.last().unwrap();
    assert_eq!((last.stage, last.verdict), ("revision", Verdict::Refused));
    assert!(last.text.contains("v1 of acme/tiny is not in the lock"), "{}", last.text);
}

#[test]
fn what_is_not_known_is_said_to_be_unknown() {
    let answer = ask("acme/tiny", "main", None, None);
    assert_eq!(answer.verdict, Verdict::Undecided);
    let answer = ask("acme/x", "1111111", None, None);
    assert_eq!(answer.steps[1].verdict, Verdict::Undecided);
}

#[test]
fn what_the_gateway_refuses_before_the_facts_is_told_as_clients_are_told() {
    let (set, today) = (policy(POLICY), day("2026-11-24"));
    let (repo, revision) = ("acme/x".parse().unwrap(), "main".parse().unwrap());
    let moved = set.decide_names(&repo, &"evil/x".parse().unwrap(), today).unwrap_err();
    let question = Question {
        repo: &repo,
        revision: &revision,
        locked: None,
        in_history: None,
        refused: Some(&moved),
        facts: None,
        files: None,
        refused_files: &HashMap::new(),
        notes: &[],
        contact: None,
    };
    let answer = explain(&set, &question, today);
    let last = answer.steps.last().unwrap();
    assert_eq!((last.stage, answer.verdict), ("upstream", Verdict::Refused));
    assert_eq!((answer.denial, answer.message.as_deref()), (Some(moved.clone()), Some(&*moved.message(None))));
}

#[test]
fn files_that_are_refused_for_content_or_hook_are_not_counted_as_served() {
    let (set, today) = (policy(POLICY), day("2026-11-24"));
    let rule = set.decide_repo(&"acme/tiny".parse().unwrap(), today).unwrap();
    let files = [("a".parse().unwrap(), 1, blob()), ("b".parse().unwrap(), 1, blob())];
    let answer = |files: &[(RepoPath, u64, BlobId)], refused_files: &HashMap<RepoPath, Denial>| {
        let question = Question {
            repo: &"acme/tiny".parse().unwrap(),
            revision: &"main".parse().unwrap(),
            locked: None,
            in_history: None,
            refused: None,
            facts: Some(&facts("apache-2.0")),
            files: Some(files),
            refused_files,
            notes: &[],
            contact: None,
        };
        explain(&set, &question, today)
    };
    let withdrawn = Denial::new(DenialKind::DenyRule, Some("w"), "content is denied", "Use another");
    let told = answer(&files, &refused("a", withdrawn));
    assert_eq!((told.verdict, told.files.as_ref().unwrap().served), (Verdict::Allowed, 1));
    assert!(told.to_string().contains("  content   refused  1 of 2 files: content is denied\n"), "{told}");
    let unseen = rule.hook_not_passed("acme/tiny", commit(), "it has not run on this commit yet");
    let told = answer(&files[..1], &refused("a", unseen.clone()));
    assert_eq!((told.verdict, told.denial.as_ref()), (Verdict::Refused, Some(&unseen)));
    assert_eq!(told.files.as_ref().unwrap().served, 0);
}
