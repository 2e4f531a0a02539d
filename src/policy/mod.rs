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
//! Apart from loading a folder ([`PolicyHandle`]) everything here is pure: no network, no store, and the day is an
//! argument. It never knows who asks or what is stored.

mod config;
mod denial;
mod env_lists;
mod facts;
mod files;
mod front_matter;
mod handle;
mod license;
mod load;
mod pattern;
mod rule;
mod schema;
mod set;

pub use config::{PolicyConfig, RefusalForm};
pub use denial::{Denial, DenialKind};
pub use env_lists::EnvLists;
pub use facts::{Approved, Identity, RepoFacts};
pub use files::FileVerdict;
pub use front_matter::license_of;
pub use handle::{PolicyHandle, Reload, today};
pub use license::{Claim, LicenseClaims, LicenseFound, LicenseId, LicenseSource};
pub use load::LoadError;
pub use rule::{Ranges, RevisionVerdict, Rule};
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

    pub(crate) fn commit() -> Commit {
        "c9745ed1d9f207416be6d2e6f8de32d1f16199bf".parse().unwrap()
    }
}
