//! `HF_REPOS` and `LICENSE_ALLOWLIST`, the plain mirror's variables: the policy where there is no folder, and only ever
//! a narrowing where there is one.

use std::collections::{BTreeSet, HashMap};

use super::{license_id::LicenseId, load_error::LoadError};
use crate::hub::{Repo, RepoKind, Revision};

/// The two lists as the environment gives them. Values are passed in, never read from the process here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnvLists {
    repos: Option<Vec<(Repo, Option<Revision>)>>,
    licenses: Option<BTreeSet<LicenseId>>,
}

impl EnvLists {
    /// Reads the values of `HF_REPOS` (repos such as `org/name`, `datasets/org/name` or `org/name@revision`) and of
    /// `LICENSE_ALLOWLIST` (licence ids); commas and white space separate. An empty value is as none.
    pub fn parse(hf_repos: Option<&str>, license_allowlist: Option<&str>) -> Result<Self, LoadError> {
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| c == ',' || c.is_whitespace())
                .filter(|w| !w.is_empty())
                .map(ToOwned::to_owned)
                .collect()
        };
        let list = |text: Option<&str>| text.map(words).filter(|words| !words.is_empty());
        let repos =
            list(hf_repos).map(|words| words.iter().map(|word| repo_at_revision(word)).collect()).transpose()?;
        let licenses = list(license_allowlist).map(|words| words.iter().map(|word| LicenseId::new(word)).collect());
        Ok(Self { repos, licenses })
    }

    /// Whether neither is set.
    pub fn is_empty(&self) -> bool {
        self.repos.is_none() && self.licenses.is_none()
    }

    /// The repos of `HF_REPOS` in their order, each with its revision if it has one; `None` where it is not set.
    pub fn named(&self) -> Option<&[(Repo, Option<Revision>)]> {
        self.repos.as_deref()
    }

    pub(super) fn licenses(&self) -> Option<&BTreeSet<LicenseId>> {
        self.licenses.as_ref()
    }

    /// The licences where the lists are the policy: the same ids as `licenses.allow` takes.
    pub(super) fn licenses_to_allow(&self) -> Result<BTreeSet<LicenseId>, LoadError> {
        for license in self.licenses.iter().flatten() {
            license.may_be_allowed().map_err(|mistake| {
                LoadError::of_environment("LICENSE_ALLOWLIST", license.as_str(), &mistake.problem, &mistake.remedy)
            })?;
        }
        Ok(self.licenses.clone().unwrap_or_default())
    }

    /// Each repo with the revisions named for it; no revision means all.
    pub(super) fn repos(&self) -> Option<Vec<(&Repo, Vec<&Revision>)>> {
        let mut repos: Vec<(&Repo, Vec<&Revision>, bool)> = Vec::new();
        for (repo, revision) in self.repos.as_ref()? {
            let index = repos.iter().position(|(known, ..)| known.same_name(repo)).unwrap_or_else(|| {
                repos.push((repo, Vec::new(), false));
                repos.len() - 1
            });
            let Some((_, revisions, all)) = repos.get_mut(index) else { continue };
            revisions.extend(revision);
            *all |= revision.is_none();
        }
        Some(repos.into_iter().map(|(repo, revisions, all)| (repo, if all { Vec::new() } else { revisions })).collect())
    }

    pub(super) fn narrowing(&self) -> Narrowing {
        Narrowing(self.repos().map(|repos| {
            let mut ids: HashMap<RepoKind, BTreeSet<String>> = HashMap::new();
            for (repo, _) in repos {
                ids.entry(repo.kind()).or_default().insert(repo.id().to_ascii_lowercase());
            }
            ids
        }))
    }

    /// The lists as they are recorded with the policy.
    pub(super) fn text(&self) -> String {
        let repos = self.repos.iter().map(|repos| {
            let words = repos.iter().map(|(repo, revision)| match revision {
                Some(revision) => format!("{repo}@{revision}"),
                None => repo.to_string(),
            });
            format!("HF_REPOS={}\n", words.collect::<Vec<_>>().join(","))
        });
        let licenses = self.licenses.iter().map(|licenses| {
            let words: Vec<&str> = licenses.iter().map(LicenseId::as_str).collect();
            format!("LICENSE_ALLOWLIST={}\n", words.join(","))
        });
        repos.chain(licenses).collect()
    }
}

/// The repos of `HF_REPOS`, where it is set.
#[derive(Debug, Default)]
pub(super) struct Narrowing(Option<HashMap<RepoKind, BTreeSet<String>>>);

impl Narrowing {
    /// Whether an id in lower case may pass.
    pub(super) fn names(&self, kind: RepoKind, id: &str) -> bool {
        self.0.as_ref().is_none_or(|ids| ids.get(&kind).is_some_and(|ids| ids.contains(id)))
    }
}

fn repo_at_revision(word: &str) -> Result<(Repo, Option<Revision>), LoadError> {
    let wrong = |e: crate::hub::ParseError| {
        LoadError::of_environment(
            "HF_REPOS",
            word,
            e.problem,
            "write org/name or org/name@revision, separated by commas",
        )
    };
    let (repo, revision) = word.split_once('@').map_or((word, None), |(repo, revision)| (repo, Some(revision)));
    let repo = repo.strip_prefix("models/").filter(|id| id.contains('/')).unwrap_or(repo);
    Ok((repo.parse().map_err(wrong)?, revision.map(str::parse).transpose().map_err(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        DenialKind, PolicySet, RevisionVerdict,
        tests::{commit, day},
    };

    const PIN: &str = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf";
    const OTHER: &str = "1111111111111111111111111111111111111111";

    fn lists(repos: Option<&str>, licenses: Option<&str>) -> EnvLists {
        EnvLists::parse(repos, licenses).unwrap()
    }

    fn revision(set: &PolicySet, repo: &str, revision: &str) -> Result<RevisionVerdict, DenialKind> {
        let rule = set.decide_repo(&repo.parse().unwrap(), day("2026-11-24")).map_err(|denial| denial.kind())?;
        rule.decide_revision(&revision.parse().unwrap()).map_err(|denial| denial.kind())
    }

    #[test]
    fn without_a_folder_the_lists_are_the_policy() {
        use RevisionVerdict::{Allowed, PinnedTo};
        let text = format!("acme/tiny, acme/a@v1 acme/a@v2\nacme/b@{PIN},datasets/acme/d");
        let set = PolicySet::from_env_lists(&lists(Some(&text), Some("Apache-2.0,mit"))).unwrap();
        let cases = [
            ("Acme/Tiny", "main", Ok(Allowed)),
            ("acme/a", "v2", Ok(Allowed)),
            ("acme/a", "main", Err(DenialKind::Revision)),
            ("acme/b", "main", Ok(PinnedTo(commit()))),
            ("datasets/acme/d", "main", Ok(Allowed)),
            ("acme/d", "main", Err(DenialKind::NoRule)),
        ];
        for (repo, asked, expected) in cases {
            assert_eq!(revision(&set, repo, asked), expected, "{repo}@{asked}");
        }
        assert!(set.licenses.allow.contains(&LicenseId::new("apache-2.0")));
        assert!(set.text().contains("HF_REPOS=acme/tiny,"));
    }

    #[test]
    fn licences_that_name_none_are_refused_where_the_lists_are_the_policy() {
        for (id, remedy) in [("other", "write other:NAME"), ("Unknown", "unknown = \"allow\"")] {
            let lists = lists(Some("acme/a"), Some(&format!("mit,{id}")));
            let error = PolicySet::from_env_lists(&lists).unwrap_err().to_string();
            let begins = format!("LICENSE_ALLOWLIST: {}: names no licence", id.to_lowercase());
            assert!(error.starts_with(&begins) && error.contains(remedy), "{error}");
            // Narrowed by them, a folder still decides what may come in.
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("repos.toml"), "[[allow]]\nrepo = \"acme/*\"").unwrap();
            PolicySet::load_narrowed(dir.path(), &lists).unwrap();
        }
    }

    #[test]
    fn the_lists_narrow_a_folder_and_never_widen_it() {
        use RevisionVerdict::{Allowed, NeedsHistory};
        let dir = tempfile::tempdir().unwrap();
        let text =
            "[licenses]\nallow = [\"mit\", \"isc\"]\n[[allow]]\nrepo = \"acme/*\"\nrevisions = [\"main\", \"v*\"]";
        std::fs::write(dir.path().join("repos.toml"), text).unwrap();
        let repos = format!("acme/a,acme/b@v1,acme/b@dev,acme/c@{PIN},other/x");
        let set = PolicySet::load_narrowed(dir.path(), &lists(Some(&repos), Some("mit,gpl-3.0"))).unwrap();
        let cases = [
            ("acme/a", "main", Ok(Allowed)),
            ("acme/z", "main", Err(DenialKind::NoRule)),
            ("other/x", "main", Err(DenialKind::NoRule)),
            ("acme/b", "v1", Ok(Allowed)),
            ("acme/b", "main", Err(DenialKind::Revision)),
            ("acme/b", "dev", Err(DenialKind::Revision)),
            ("acme/c", PIN, Ok(NeedsHistory)),
            ("acme/c", OTHER, Err(DenialKind::Revision)),
        ];
        for (repo, asked, expected) in cases {
            assert_eq!(revision(&set, repo, asked), expected, "{repo}@{asked}");
        }
        for (license, allowed) in [("mit", true), ("isc", false), ("gpl-3.0", false)] {
            let rule = set.decide_repo(&"acme/a".parse().unwrap(), day("2026-11-24")).unwrap();
            let claims = crate::policy::LicenseClaims {
                tags: crate::policy::Claim::of_tags([format!("license:{license}").as_str()]),
                ..Default::default()
            };
            let decided = set.licenses.decide(&rule, &"acme/a".parse().unwrap(), commit(), &claims);
            assert_eq!(decided.is_ok(), allowed, "{license}");
        }
        let unnarrowed = PolicySet::load(dir.path()).unwrap();
        assert_ne!(set.digest(), unnarrowed.digest(), "the lists are part of what was decided by");
    }

    #[test]
    fn a_bad_word_in_the_list_is_named() {
        for bad in ["a/b/c", "acme/x@a..b", "@main", "acme/x y/z@"] {
            let error = EnvLists::parse(Some(bad), None).expect_err(bad).to_string();
            let word = bad.split(' ').next_back().unwrap();
            assert!(error.starts_with(&format!("HF_REPOS: {word}: ")), "{error}");
        }
        assert!(lists(Some(" , "), Some("")).is_empty());
    }
}
