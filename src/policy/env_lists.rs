//! `HF_REPOS` and `LICENSE_ALLOWLIST`, the plain mirror's variables: the policy where there is no folder, and only ever
//! a narrowing where there is one.

use std::collections::{BTreeSet, HashMap};

use super::{license::LicenseId, load::LoadError};
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

    pub(super) fn licenses(&self) -> Option<&BTreeSet<LicenseId>> {
        self.licenses.as_ref()
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
        let mut text = String::new();
        if let Some(repos) = &self.repos {
            let words = repos.iter().map(|(repo, revision)| match revision {
                Some(revision) => format!("{repo}@{revision}"),
                None => repo.to_string(),
            });
            text += &format!("HF_REPOS={}\n", words.collect::<Vec<_>>().join(","));
        }
        if let Some(licenses) = &self.licenses {
            let words: Vec<&str> = licenses.iter().map(LicenseId::as_str).collect();
            text += &format!("LICENSE_ALLOWLIST={}\n", words.join(","));
        }
        text
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
            &e.to_string(),
            "write org/name or org/name@revision, separated by commas",
        )
    };
    let (repo, revision) = word.split_once('@').map_or((word, None), |(repo, revision)| (repo, Some(revision)));
    let repo = repo.strip_prefix("models/").filter(|id| id.contains('/')).unwrap_or(repo);
    Ok((repo.parse().map_err(wrong)?, revision.map(str::parse).transpose().map_err(wrong)?))
}
