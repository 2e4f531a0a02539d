//! Listings of what a commit has: its facts, its tree, some of its paths. Made from the snapshot, without what
//! policy hides.

use super::{Asker, Error, Gateway, Listing, RepoFacts, Resolved, Result, snapshot::Snapshot, view::View};
use crate::hub::{Repo, RepoPath, Revision, TreeNode, TreeQuery};

/// How many nodes one page of a tree has, unless the client asks for fewer. llama.cpp wants a whole tree
/// in one page (PROTOCOL 4.2); this is more than any model it can load has.
const PAGE_NODES: usize = 10_000;

/// More files than this are left out of a repo's info, as the Hub does; clients then ask for the tree.
const MAX_SIBLINGS: usize = 50_000;

impl Gateway {
    /// A repo's facts at a revision; its default branch if none is named.
    pub async fn facts(&self, asker: &Asker, asked: &Repo, revision: Option<&Revision>) -> Result<RepoFacts> {
        self.in_time(async {
            let main = Revision::main();
            let view = self.view(asker, asked, revision.unwrap_or(&main)).await?;
            let snapshot = self.whole(asker, &view.known).await?;
            let view = self.redecided(asked, view, snapshot.clone()).await?;
            let mut pieces = Vec::new();
            if snapshot.index.files <= MAX_SIBLINGS {
                for number in 0..snapshot.index.pieces() {
                    pieces.push(self.snapshots.piece(&snapshot, number).await?);
                }
            }
            let Resolved { repo, commit, stale, .. } = view.resolved;
            Ok(RepoFacts { repo, commit, facts: snapshot.facts.clone(), pieces, grant: view.grant, stale })
        })
        .await
    }

    /// A page of the tree at a revision, from the root or a folder.
    pub async fn tree(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
        folder: Option<&RepoPath>,
        query: &TreeQuery,
    ) -> Result<Listing> {
        self.in_time(async {
            let view = self.view(asker, asked, revision).await?;
            let snapshot = self.whole(asker, &view.known).await?;
            let view = self.redecided(asked, view, snapshot.clone()).await?;
            let (repo, commit) = (view.resolved.repo.clone(), view.resolved.commit);
            if let Some(folder) = folder {
                let found = self.snapshots.node(&snapshot, folder).await?;
                if !found.is_some_and(|node| node.folder) {
                    return Err(Error::EntryNotFound { repo, commit });
                }
            }
            let (nodes, next) = self.page(&view, &snapshot, folder, query).await?;
            let (warning, stale) = (view.grant.warning.clone(), view.resolved.stale);
            Ok(Listing { repo, commit, nodes, next, warning, stale })
        })
        .await
    }

    async fn page(
        &self,
        view: &View,
        snapshot: &Snapshot,
        folder: Option<&RepoPath>,
        query: &TreeQuery,
    ) -> Result<(Vec<TreeNode>, Option<String>)> {
        let (after, recursive) = (query.cursor.as_deref(), query.recursive);
        let limit = query.limit.map_or(PAGE_NODES, |limit| (limit as usize).clamp(1, PAGE_NODES));
        let from = after.and_then(|path| path.parse::<RepoPath>().ok());
        let start = from.as_ref().or(folder).and_then(|path| snapshot.index.piece_of(path)).unwrap_or(0);
        let below = folder.map(|folder| format!("{folder}/"));
        let mut nodes: Vec<TreeNode> = Vec::new();
        for number in start..snapshot.index.pieces() {
            let piece = self.snapshots.piece(snapshot, number).await?;
            for node in &piece.nodes {
                let path = node.path.as_str();
                if after.is_some_and(|after| path <= after)
                    || !node.is_listed(folder, recursive)
                    || !is_shown(view, node)
                {
                    // Sorted by path: once past the folder there is no more of it.
                    if below.as_ref().is_some_and(|below| path > below.as_str() && !path.starts_with(below)) {
                        return Ok((nodes, None));
                    }
                    continue;
                }
                if nodes.len() == limit {
                    let next = nodes.last().map(|last| last.path.to_string());
                    return Ok((nodes, next));
                }
                nodes.push(node.clone());
            }
        }
        Ok((nodes, None))
    }

    /// Those of the paths that exist at a revision.
    pub async fn paths_info(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
        paths: &[RepoPath],
    ) -> Result<Listing> {
        self.in_time(async {
            let view = self.settled_view(asker, asked, revision).await?;
            let mut nodes = self.nodes(asker, &view, paths).await?;
            nodes.retain(|node| is_shown(&view, node));
            let warning = view.grant.warning.clone();
            let Resolved { repo, commit, stale, .. } = view.resolved;
            Ok(Listing { repo, commit, nodes, next: None, warning, stale })
        })
        .await
    }
}

fn is_shown(view: &View, node: &TreeNode) -> bool {
    node.folder || !view.grant.approved.rule.hides(&node.path)
}
