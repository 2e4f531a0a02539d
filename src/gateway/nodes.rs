//! Single files and folders of a commit: from its tree, and where that is not here, by name.
//!
//! What is stored is known without its tree: the manifest's entry says all that a tree would.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{
    Asker, Error, Gateway, Result,
    known::Known,
    snapshot::{BadSnapshot, Bounds, Piece, gather},
    view::View,
};
use crate::{
    hub::{Commit, Repo, RepoPath, TreeNode},
    upstream::{Purpose, Upstream},
};

/// How many entries of the manifest are read at a time; so many are looked for before upstream is asked.
const ENTRIES_AT_ONCE: usize = 16;

/// What is asked about at once, and so one look-up.
pub(super) type NodesKey = (Repo, Commit, Arc<[RepoPath]>);

/// A folder of a commit, or its root.
pub(super) type FolderKey = (Repo, Commit, Option<RepoPath>);

impl Gateway {
    /// What is right in a folder of a commit whose tree is not here, sorted by path: asked for by itself.
    pub(super) async fn folder(&self, asker: &Asker, view: &View, path: Option<&RepoPath>) -> Result<Arc<Piece>> {
        let name: FolderKey = (view.resolved.repo.clone(), view.resolved.commit, path.cloned());
        if let Some(listed) = self.folders.get(&name).await {
            return Ok(listed);
        }
        if let Known::Alone(_, why) = &view.known {
            return Err(why.clone());
        }
        let purpose = asker.purpose();
        let work = || {
            let (gateway, name) = (self.clone(), name.clone());
            async move { gateway.learn_folder(name, purpose).await }
        };
        self.folder_flights.join(name.clone(), self.limits.fare(asker, 1), work).await
    }

    async fn learn_folder(self, name: FolderKey, purpose: Purpose) -> Result<Arc<Piece>> {
        let (repo, commit, path) = (&name.0, name.1, name.2.as_ref());
        let pages = self.upstream.folder(&self.called(repo).await?, commit, path, purpose);
        let bounds = Bounds { nodes: self.config.limits.tree_nodes, large: &self.large_trees };
        let (mut nodes, _place) = match gather(repo, commit, pages, None, bounds).await {
            Ok(gathered) => gathered,
            Err(BadSnapshot::Upstream(error)) => {
                self.note_outage(repo, Some(&error));
                return Err(self.failed(repo, &commit.into(), error).await);
            }
            Err(bad @ BadSnapshot::TooLarge { .. }) => return Err(Error::TooMany(bad.to_string())),
            Err(bad @ BadSnapshot::Insane { .. }) => return Err(Error::Insane(bad.to_string())),
        };
        if let Some(stray) = nodes.iter().find(|node| !node.is_listed(path, false)) {
            return Err(Error::Insane(format!(
                "{repo}@{commit}: a folder's list names {}, which is not in it",
                stray.path
            )));
        }
        nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let listed = Arc::new(Piece { nodes });
        self.folders.insert(name, listed.clone()).await;
        Ok(listed)
    }

    /// One file or folder of a commit.
    pub(super) async fn node(&self, asker: &Asker, view: &View, path: &RepoPath) -> Result<TreeNode> {
        let found = match &view.known {
            Known::Whole(whole) => self.snapshots.node(whole, path).await?,
            _ => Box::pin(self.nodes(asker, view, std::slice::from_ref(path))).await?.pop(),
        };
        let not_there = || Error::EntryNotFound { repo: view.resolved.repo.clone(), commit: view.resolved.commit };
        found.ok_or_else(not_there)
    }

    /// Those of the paths that the commit has, in their order. While its tree is not here, they are asked for
    /// by name.
    pub(super) async fn nodes(&self, asker: &Asker, view: &View, paths: &[RepoPath]) -> Result<Vec<TreeNode>> {
        let Known::Whole(whole) = &view.known else { return Box::pin(self.single_nodes(asker, view, paths)).await };
        let mut found = Vec::with_capacity(paths.len().min(1000));
        for path in paths {
            found.extend(self.snapshots.node(whole, path).await?);
        }
        Ok(found)
    }

    /// The same without the tree: what was asked a moment ago, then what is stored, then upstream.
    async fn single_nodes(&self, asker: &Asker, view: &View, paths: &[RepoPath]) -> Result<Vec<TreeNode>> {
        let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
        let mut found: Vec<Option<TreeNode>> = Vec::with_capacity(paths.len().min(1000));
        for path in paths {
            found.push(self.single_nodes.get(&(repo.clone(), commit, path.clone())).await);
        }
        let unknown = paths.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(path, _)| path.clone());
        let unknown: Arc<[RepoPath]> = unknown.collect();
        if !unknown.is_empty() {
            let nodes = self.nodes_by_name(asker, view, unknown).await?;
            let nodes: HashMap<&RepoPath, &TreeNode> = nodes.iter().map(|node| (&node.path, node)).collect();
            for (found, path) in found.iter_mut().zip(paths) {
                if found.is_none() {
                    *found = nodes.get(path).map(|node| (*node).clone());
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    async fn nodes_by_name(&self, asker: &Asker, view: &View, paths: Arc<[RepoPath]>) -> Result<Arc<Vec<TreeNode>>> {
        let are_few = paths.len() <= ENTRIES_AT_ONCE;
        if are_few && let Some(stored) = self.stored_nodes(view, &paths).await? {
            return Ok(stored);
        }
        let why = match &view.known {
            Known::Alone(_, why) => why.clone(),
            _ => match self.ask_for_nodes(asker, view, paths.clone()).await {
                Err(error) if self.stored_stands_in(&error) => error,
                answer => return answer,
            },
        };
        // Of a list that is long some may be stored; only if all are, nothing is missing from the answer.
        if !are_few && let Some(stored) = self.stored_nodes(view, &paths).await? {
            return Ok(stored);
        }
        Err(why)
    }

    /// The nodes of these paths as the manifest's entries have them, if all of them are stored.
    async fn stored_nodes(&self, view: &View, paths: &[RepoPath]) -> Result<Option<Arc<Vec<TreeNode>>>> {
        let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
        let entries = futures_util::stream::iter(paths.iter().cloned())
            .map(|path| async move { self.manifest.entry(repo, commit, &path).await })
            .buffered(ENTRIES_AT_ONCE);
        let stored = entries.try_take_while(|entry| std::future::ready(Ok(entry.is_some())));
        let nodes: Vec<TreeNode> = stored
            .try_filter_map(|entry| async move {
                Ok(entry.and_then(|entry| TreeNode::of_blob(entry.path.clone(), entry.size, entry.etag)))
            })
            .try_collect()
            .await?;
        Ok((nodes.len() == paths.len()).then(|| Arc::new(nodes)))
    }

    async fn ask_for_nodes(&self, asker: &Asker, view: &View, paths: Arc<[RepoPath]>) -> Result<Arc<Vec<TreeNode>>> {
        let fare = self.limits.fare(asker, Upstream::paths_info_requests(paths.len()));
        let purpose = asker.purpose();
        let name: NodesKey = (view.resolved.repo.clone(), view.resolved.commit, paths);
        let work = || {
            let (gateway, name) = (self.clone(), name.clone());
            async move { gateway.learn_nodes(name, purpose).await }
        };
        self.node_flights.join(name.clone(), fare, work).await
    }

    async fn learn_nodes(self, (repo, commit, paths): NodesKey, purpose: Purpose) -> Result<Arc<Vec<TreeNode>>> {
        let entries = self.upstream.paths_info(&self.called(&repo).await?, commit, &paths, purpose).await;
        self.note_outage(&repo, entries.as_ref().err());
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return Err(self.failed(&repo, &commit.into(), error).await),
        };
        let mut nodes = Vec::with_capacity(entries.len());
        for entry in entries {
            nodes.push(entry.into_node().map_err(|masked| Error::Insane(format!("{repo}@{commit}: {masked}")))?);
        }
        for node in &nodes {
            self.single_nodes.insert((repo.clone(), commit, node.path.clone()), node.clone()).await;
        }
        Ok(Arc::new(nodes))
    }
}
