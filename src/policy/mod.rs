//! Policy: which repos, revisions, licences and files may come in, decided from values.
//!
//! A policy is a folder of TOML files under review ([`PolicySet`]); its default is deny. It is asked in stages, since
//! nothing may be sent upstream for a repo that no rule names, and what upstream says comes later:
//!
//! 1. [`PolicySet::decide_repo`]: the name alone gives the [`Rule`] that speaks for it, or a [`Denial`];
//! 2. [`Rule::decide_revision`]: served, pinned, or to be found in an allowed branch's history;
//! 3. [`PolicySet::decide_facts`]: the canonical name, owner, gate and licence, from upstream's answer: [`Approved`];
//! 4. [`Rule::decide_file`]: each file.
//!
//! What operators decided since (approvals, withdrawals) is merged in as an [`Overlay`]. A [`Lock`] holds what the rules let
//! through to what was reviewed.
//!
//! Apart from loading a folder ([`PolicyHandle`]) everything here is pure: no network, no store, and the day is an
//! argument. It never knows who asks or what is stored.

mod check;
mod code;
mod config;
mod denial;
mod env_lists;
mod explain;
mod facts;
mod files;
mod front_matter;
mod handle;
mod license;
mod license_id;
mod load;
mod load_error;
mod lock;
mod merge;
mod mirror;
mod overlay;
mod pattern;
mod rule;
mod schema;
mod set;
mod source;

pub use check::{Finding, Severity, check};
pub use code::{RunsCode, runs_code};
pub use config::{PolicyConfig, RefusalForm};
pub use denial::{Denial, DenialKind};
pub use env_lists::EnvLists;
pub use explain::{Explanation, FileReason, FileSummary, Question, RuleSummary, Step, Verdict, explain};
pub use facts::{Approved, Identity, RepoFacts};
pub use files::FileVerdict;
pub use front_matter::{README_BYTES, kept_front_matter, license_of};
pub use handle::{PolicyHandle, Reload, today};
pub use license::{Claim, LicenseClaims, LicenseFound, LicenseSource};
pub use license_id::LicenseId;
pub use load_error::LoadError;
pub use lock::{Change, FileChange, Lock, LockChange, Locked, LockedFile, is_same_ref};
pub use mirror::{Mirror, Selection, SelectionError};
pub use overlay::{APPROVAL, DeniedThing, ExtraAllow, ExtraDeny, Overlay, WITHDRAWAL};
pub use rule::{HookDemand, Ranges, RevisionVerdict, Rule};
pub use set::PolicySet;

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use time::{Date, macros::format_description};

    use super::*;
    use crate::hub::Commit;

    /// A policy of one file.
    pub(crate) fn policy(text: &str) -> PolicySet {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("policy.toml"), text).unwrap();
        PolicySet::load(dir.path()).unwrap()
    }

    /// The rule `r` for `acme/x`, with these further keys.
    pub(crate) fn rule(keys: &str) -> Arc<Rule> {
        rule_in("", keys)
    }

    /// The same, after some other tables.
    pub(crate) fn rule_in(tables: &str, keys: &str) -> Arc<Rule> {
        let set = policy(&format!("{tables}\n[[allow]]\nname = \"r\"\nrepo = \"acme/x\"\n{keys}"));
        Arc::clone(&set.rules()[0])
    }

    pub(crate) fn day(text: &str) -> Date {
        Date::parse(text, format_description!("[year]-[month]-[day]")).unwrap()
    }

    #[test]
    fn the_shipped_policy_loads_and_allows_what_its_readme_says() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policy");
        let set = PolicySet::load(&dir).unwrap();
        let today = day("2026-11-24");
        let gravest = check(&set, today, None).into_iter().map(|finding| finding.severity).min();
        assert_eq!(gravest, Some(Severity::Note), "the example has nothing to warn of");
        let rule = |repo: &str| set.decide_repo(&repo.parse().unwrap(), today).map(|rule| rule.name.clone());
        for (repo, name) in [
            ("sentence-transformers/all-MiniLM-L6-v2", "minilm"),
            ("BAAI/bge-small-en-v1.5", "bge-small-en"),
            ("gpt2", "gpt2"),
        ] {
            assert_eq!(rule(repo), Ok(name.to_owned()));
        }
        assert!(rule("acme/tiny").is_err(), "the stand-in's model: on the real Hub anybody may have that name");
        assert_eq!(rule("acme/tiny-uncensored").unwrap_err().kind(), DenialKind::DenyRule);

        // The tree of the real repo, as far as formats go.
        let minilm = set.decide_repo(&"sentence-transformers/all-MiniLM-L6-v2".parse().unwrap(), today).unwrap();
        let served: Vec<&str> =
            ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "train_script.py"]
                .into_iter()
                .filter(|path| !minilm.hides(&path.parse().unwrap()))
                .collect();
        assert_eq!(served, ["config.json", "model.safetensors"]);
    }

    /// Commented-out rules are examples too: they must load once somebody takes the `# ` away.
    #[test]
    fn the_rules_that_the_shipped_policy_comments_out_load_too() {
        let shipped = include_str!("../../policy/repos.toml");
        let keys = ["[[", "name =", "repo =", "pin =", "expires =", "gated =", "license.", "kind =", "revisions ="];
        let text: Vec<&str> = shipped
            .lines()
            .map(|line| {
                line.strip_prefix("# ").filter(|rest| keys.iter().any(|key| rest.starts_with(key))).unwrap_or(line)
            })
            .collect();
        let text = text.join("\n").replace("<the 40 hex digits of the reviewed commit>", &commit().to_string());
        let set = policy(&text);
        assert_eq!(set.rules().len(), 6);
        assert!(set.rules().iter().any(|rule| rule.pin == Some(commit())));
    }

    pub(crate) fn commit() -> Commit {
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf".parse().unwrap()
    }
}
