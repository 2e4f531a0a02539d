//! Which repos to bring in: those of the command line, else those of `HF_REPOS`, else the policy's list.

use std::fmt;

use super::{Failure, RepoAtRevision, SyncArgs};
use crate::{
    hub::{Repo, Revision},
    policy::{EnvLists, PolicySet, Selection},
};

/// One revision of one repo.
pub(super) struct Wanted {
    pub(super) repo: Repo,
    pub(super) revision: Revision,
    pub(super) selection: Selection,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

/// All that is wanted, each once.
pub(super) fn wanted(args: &SyncArgs, lists: &EnvLists, policy: &PolicySet) -> Result<Vec<Wanted>, Failure> {
    let given = Selection::new(args.include.clone(), args.exclude.clone())
        .map_err(|error| Failure::Setup(format!("--{error}")))?;
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut want = |repo: &Repo, revision: &Revision, selection: &Selection| {
        let twice = |other: &Wanted| other.repo.same_name(repo) && other.revision == *revision;
        if !wanted.iter().any(twice) {
            let selection = if given.is_everything() { selection } else { &given };
            wanted.push(Wanted { repo: repo.clone(), revision: revision.clone(), selection: selection.clone() });
        }
    };
    if !args.repo.is_empty() {
        for RepoAtRevision { repo, revision } in &args.repo {
            want(repo, revision, &Selection::default());
        }
    } else if let Some(named) = lists.named() {
        let main = Revision::main();
        for (repo, revision) in named {
            want(repo, revision.as_ref().unwrap_or(&main), &Selection::default());
        }
    } else {
        for mirror in policy.mirrors() {
            for revision in &mirror.revisions {
                want(&mirror.repo, revision, &mirror.selection);
            }
        }
    }
    if wanted.is_empty() {
        let remedy = "name them with --repo, in HF_REPOS, or as [[mirror]] in the policy folder";
        return Err(Failure::Setup(format!("there is no repo to sync: {remedy}")));
    }
    Ok(wanted)
}
