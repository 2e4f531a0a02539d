//! All that the stand-in serves: repos, their former names, and who may see what.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use crate::describe::RepoBuilder;
use crate::file::File;
use crate::repo::{Kind, Repo, RepoName};

/// The token that the stand-in knows unless it is told another.
pub const DEFAULT_TOKEN: &str = "hf_standin_service_token";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    /// A known token with access to private and gated repos.
    Granted,
    /// A known token without.
    Stranger,
    /// A token that nobody issued.
    Refused,
}

/// Where a name leads.
pub(crate) enum Found {
    Here(Arc<Repo>),
    /// Another spelling or a former name: the canonical id.
    Moved(String),
    Missing,
}

#[derive(Default)]
pub(crate) struct World {
    repos: BTreeMap<RepoName, Arc<Repo>>,
    /// Former ids, in lower case.
    moved: HashMap<(Kind, String), String>,
    pub(crate) token: String,
    pub(crate) stranger_token: Option<String>,
}

impl World {
    pub(crate) fn new(token: String, stranger_token: Option<String>) -> Self {
        Self { token, stranger_token, ..Self::default() }
    }

    pub(crate) fn add(&mut self, builder: RepoBuilder) -> io::Result<()> {
        let (repo, aliases) = builder.build()?;
        for alias in aliases {
            self.moved.insert((repo.name.kind, alias.to_lowercase()), repo.name.id.clone());
        }
        self.repos.insert(repo.name.clone(), Arc::new(repo));
        Ok(())
    }

    pub(crate) fn repo(&self, name: &RepoName) -> Option<&Arc<Repo>> {
        self.repos.get(name)
    }

    pub(crate) fn repo_mut(&mut self, name: &RepoName) -> Option<&mut Repo> {
        self.repos.get_mut(name).map(Arc::make_mut)
    }

    pub(crate) fn remove(&mut self, name: &RepoName) -> bool {
        self.repos.remove(name).is_some()
    }

    pub(crate) fn rename(&mut self, from: &RepoName, to: &str) -> bool {
        let Some(repo) = self.repos.remove(from) else {
            return false;
        };
        let mut repo = Arc::unwrap_or_clone(repo);
        self.moved.insert((from.kind, from.id.to_lowercase()), to.to_owned());
        to.clone_into(&mut repo.name.id);
        to.split_once('/').map_or("", |(owner, _)| owner).clone_into(&mut repo.author);
        self.repos.insert(repo.name.clone(), Arc::new(repo));
        true
    }

    pub(crate) fn find(&self, name: &RepoName) -> Found {
        if let Some(repo) = self.repos.get(name) {
            return Found::Here(repo.clone());
        }
        let lower = name.id.to_lowercase();
        let same = self.repos.keys().find(|known| known.kind == name.kind && known.id.to_lowercase() == lower);
        match same.map(|known| &known.id).or_else(|| self.moved.get(&(name.kind, lower))) {
            Some(id) => Found::Moved(id.clone()),
            None => Found::Missing,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Repo>> {
        self.repos.values()
    }

    /// The file that a CDN path means.
    pub(crate) fn blob(&self, object_id: &str, hash: &str) -> Option<(Arc<Repo>, String, Arc<File>)> {
        let named = |repo: &&Arc<Repo>| repo.object_id == object_id;
        let repo = self.repos.values().find(|repo| named(repo) && repo.blobs.contains_key(hash));
        let repo = repo.or_else(|| self.repos.values().find(|repo| repo.blobs.contains_key(hash)))?;
        let (path, file) = repo.blobs.get(hash)?;
        Some((repo.clone(), path.clone(), file.clone()))
    }

    pub(crate) fn caller(&self, authorization: Option<&str>) -> Caller {
        let Some(authorization) = authorization else {
            return Caller::Anonymous;
        };
        match authorization.strip_prefix("Bearer ") {
            Some(token) if token == self.token => Caller::Granted,
            Some(token) if Some(token) == self.stranger_token.as_deref() => Caller::Stranger,
            _ => Caller::Refused,
        }
    }
}
