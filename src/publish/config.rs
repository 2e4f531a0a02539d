//! The `[publish]` section.

use serde::Deserialize;

use crate::{
    hub::{Repo, Revision},
    policy::EnvLists,
    store::PublishPrefix,
};

/// `[publish]`: plain copies for workloads that read the bucket themselves (DESIGN section 9).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishConfig {
    /// What stands before the copies' keys, from the top of the bucket or of `store.local.path`. Nothing is published
    /// without it. It must not overlap the store's own keys.
    pub prefix: Option<String>,
    /// The repos to publish: `org/name` or `datasets/org/name`, each maybe with `@revision`. Without any, those of
    /// `HF_REPOS`, where that is set.
    pub repos: Vec<String>,
    /// Whether each commit is also kept below `<repo id>/@<commit>/`, until it is unpublished.
    pub by_commit: bool,
}

/// One of `publish.repos`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The repo, under the name that its workloads read.
    pub repo: Repo,
    /// The revision that is published; `main` where none is named.
    pub revision: Revision,
}

impl PublishConfig {
    /// The prefix, as a type.
    ///
    /// # Errors
    /// Says what is wrong with it, naming the key.
    pub fn place(&self) -> Result<Option<PublishPrefix>, String> {
        let place = self.prefix.as_deref().filter(|prefix| !prefix.is_empty()).map(str::parse).transpose();
        place.map_err(|problem: String| format!("publish.prefix (MINIO_PREFIX): {problem}"))
    }

    /// The repos, as types; where none are configured those of `HF_REPOS`, by the first revision named for each.
    ///
    /// # Errors
    /// As [`PublishConfig::wanted`].
    pub fn wanted_or(&self, lists: &EnvLists) -> Result<Vec<Wanted>, String> {
        if !self.repos.is_empty() {
            return self.wanted();
        }
        let mut all: Vec<Wanted> = Vec::new();
        for (repo, revision) in lists.named().unwrap_or_default() {
            if !all.iter().any(|other| other.repo.same_name(repo)) {
                let revision = revision.clone().unwrap_or_else(Revision::main);
                all.push(Wanted { repo: repo.clone(), revision });
            }
        }
        Ok(all)
    }

    /// The repos, as types.
    ///
    /// # Errors
    /// A name that is none, or two of which one would lie inside the other.
    pub fn wanted(&self) -> Result<Vec<Wanted>, String> {
        let mut all: Vec<Wanted> = Vec::with_capacity(self.repos.len());
        for text in &self.repos {
            let (repo, revision) = text.split_once('@').map_or((&**text, None), |(repo, rev)| (repo, Some(rev)));
            let repo: Repo = repo.parse().map_err(|error| format!("publish.repos: {text:?}: {error}"))?;
            let revision = revision.map_or_else(|| Ok(Revision::main()), str::parse);
            let revision = revision.map_err(|error| format!("publish.repos: {text:?}: {error}"))?;
            if all.iter().any(|other| other.repo.same_name(&repo)) {
                return Err(format!(
                    "publish.repos: {repo} is named twice, and its copies can be of one revision only"
                ));
            }
            if let Some(other) = all.iter().find(|other| lies_inside(&repo, &other.repo)) {
                return Err(format!(
                    "publish.repos: the copies of {repo} and {} would lie inside each other",
                    other.repo
                ));
            }
            all.push(Wanted { repo, revision });
        }
        Ok(all)
    }
}

/// Whether the copies of one of two repos would lie inside the other's folder: a legacy id of one label is another
/// repo's owner.
pub(super) fn lies_inside(one: &Repo, other: &Repo) -> bool {
    let holds =
        |outer: &Repo, inner: &Repo| inner.id().strip_prefix(outer.id()).is_some_and(|rest| rest.starts_with('/'));
    one.kind() == other.kind() && (holds(one, other) || holds(other, one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(repos: &[&str]) -> Result<Vec<Wanted>, String> {
        PublishConfig { repos: repos.iter().map(ToString::to_string).collect(), ..PublishConfig::default() }.wanted()
    }

    #[test]
    fn repos_are_read_with_their_revisions() {
        let all = wanted(&["org/name", "datasets/org/name@v1", "gpt2@refs/pr/1"]).unwrap();
        let texts: Vec<String> = all.iter().map(|wanted| format!("{} {}", wanted.repo, wanted.revision)).collect();
        assert_eq!(texts, ["org/name main", "datasets/org/name v1", "gpt2 refs/pr/1"]);
    }

    #[test]
    fn without_repos_of_its_own_the_plain_mirrors_list_counts() {
        let lists = EnvLists::parse(Some("org/name@v1, org/name, datasets/a/b"), None).unwrap();
        let texts = |config: PublishConfig| -> Vec<String> {
            config.wanted_or(&lists).unwrap().iter().map(|it| format!("{} {}", it.repo, it.revision)).collect()
        };
        assert_eq!(texts(PublishConfig::default()), ["org/name v1", "datasets/a/b main"]);
        let own = PublishConfig { repos: vec!["x/y".into()], ..PublishConfig::default() };
        assert_eq!(texts(own), ["x/y main"]);
    }

    #[test]
    fn what_can_not_be_published_side_by_side_is_named() {
        for (repos, says) in [
            (&["org/name", "Org/Name@v1"][..], "named twice"),
            (&["gpt2", "gpt2/x"], "inside each other"),
            (&["a b"], "publish.repos: \"a b\""),
            (&["org/name@a..b"], "publish.repos: \"org/name@a..b\""),
        ] {
            let error = wanted(repos).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(wanted(&["gpt2", "gpt2-xl", "datasets/gpt2/x"]).is_ok());
    }
}
