//! Listings of what a commit has: its facts, its tree, some of its paths. Made from the snapshot, without what
//! policy hides. Where a tree is too large to keep, or takes long to come, facts go without their list of files, and a
//! folder's own list is asked for.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Asker, Error, Gateway, Listing, RepoFacts, Resolved, Result, known::Known, snapshot::Snapshot, view::View,
};
use crate::hub::{Repo, RepoPath, Revision, TreeNode, TreeQuery, cursor_after, read_cursor};

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
            let view = self.with_tree_if_it_comes(asker, asked, view).await?;
            let mut pieces = Vec::new();
            if let Known::Whole(snapshot) = &view.known
                && snapshot.index.files <= MAX_SIBLINGS
            {
                for number in 0..snapshot.index.pieces() {
                    pieces.push(self.snapshots.piece(snapshot, number).await?);
                }
            }
            let (facts, Resolved { repo, commit, stale, .. }) = (view.known.facts().clone(), view.resolved);
            Ok(RepoFacts { repo, commit, facts, pieces, grant: view.grant, stale })
        })
        .await
    }

    /// The view with its tree; without, where that takes long, or is not to be had.
    async fn with_tree_if_it_comes(&self, asker: &Asker, asked: &Repo, view: View) -> Result<View> {
        match &view.known {
            Known::Alone(..) => Ok(view),
            // The origin's own list of files is cut: so many are left out here too, or soon found to be too many.
            Known::Facts(fresh) if fresh.siblings.is_none() => Box::pin(self.wait_to_settle(asker, asked, view)).await,
            known => match self.whole(asker, known).await {
                Ok(snapshot) => self.redecided(asked, view, snapshot).await,
                Err(Error::TooMany(_)) => Ok(view),
                Err(error) => Err(error),
            },
        }
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
            let view = if query.recursive {
                let snapshot = self.whole(asker, &view.known).await?;
                self.redecided(asked, view, snapshot).await?
            } else {
                self.with_tree_if_it_comes(asker, asked, view).await?
            };
            let (repo, commit) = (view.resolved.repo.clone(), view.resolved.commit);
            if let (Some(folder), Known::Whole(snapshot)) = (folder, &view.known) {
                let found = self.snapshots.node(snapshot, folder).await?;
                if !found.is_some_and(|node| node.folder) {
                    return Err(Error::EntryNotFound { repo, commit });
                }
            }
            let (nodes, next) = self.page(asker, &view, folder, query).await?;
            let (warning, stale) = (view.grant.warning.clone(), view.resolved.stale);
            Ok(Listing { repo, commit, nodes, next, warning, stale })
        })
        .await
    }

    async fn page(
        &self,
        asker: &Asker,
        view: &View,
        folder: Option<&RepoPath>,
        query: &TreeQuery,
    ) -> Result<(Vec<TreeNode>, Option<String>)> {
        let after = match query.cursor.as_deref().map(read_cursor) {
            // Whoever makes cursors goes on until a page is empty.
            Some(None) => return Ok((Vec::new(), None)),
            read => read.flatten(),
        };
        let limit = query.limit.map_or(PAGE_NODES, |limit| (limit as usize).clamp(1, PAGE_NODES));
        let below = folder.map(|folder| format!("{folder}/"));
        let from = after.as_ref().and_then(|path| path.parse::<RepoPath>().ok());
        let mut nodes: Vec<TreeNode> = Vec::new();
        let mut pieces = match &view.known {
            Known::Whole(snapshot) => {
                let start = from.as_ref().or(folder).and_then(|path| snapshot.index.piece_of(path)).unwrap_or(0);
                let pieces = start..snapshot.index.pieces();
                stream::iter(pieces).then(|number| self.snapshots.piece(snapshot, number)).err_into().boxed()
            }
            _ => {
                let listed = self.folder(asker, view, folder).await?;
                stream::iter([Ok::<_, Error>(listed)]).boxed()
            }
        };
        while let Some(piece) = pieces.try_next().await? {
            for node in &piece.nodes {
                let path = node.path.as_str();
                // Sorted by path: once past the folder there is no more of it.
                if below.as_ref().is_some_and(|below| path > below.as_str() && !path.starts_with(below)) {
                    return Ok((nodes, None));
                }
                if after.as_ref().is_some_and(|after| path <= after.as_str())
                    || !node.is_listed(folder, query.recursive)
                    || !self.is_shown(view, node).await?
                {
                    continue;
                }
                if nodes.len() == limit {
                    let next = nodes.last().map(|last| cursor_after(&last.path));
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
            let mut nodes = Vec::new();
            for node in self.nodes(asker, &view, paths).await? {
                if self.is_shown(&view, &node).await? {
                    nodes.push(node);
                }
            }
            let warning = view.grant.warning.clone();
            let Resolved { repo, commit, stale, .. } = view.resolved;
            Ok(Listing { repo, commit, nodes, next: None, warning, stale })
        })
        .await
    }

    /// Whether policy shows a file, or anything in a folder. Of what is in a folder only the whole tree tells.
    async fn is_shown(&self, view: &View, node: &TreeNode) -> Result<bool> {
        let rule = &view.grant.approved.rule;
        match &view.known {
            _ if !node.folder => Ok(!rule.hides(&node.path)),
            Known::Whole(snapshot) => self.holds_any_shown(view, snapshot, &node.path).await,
            _ => Ok(true),
        }
    }

    async fn holds_any_shown(&self, view: &View, snapshot: &Snapshot, folder: &RepoPath) -> Result<bool> {
        let below = format!("{folder}/");
        for number in snapshot.index.piece_of(folder).unwrap_or(0)..snapshot.index.pieces() {
            let piece = self.snapshots.piece(snapshot, number).await?;
            let start = piece.nodes.partition_point(|node| node.path.as_str() < below.as_str());
            for node in &piece.nodes[start..] {
                if !node.path.as_str().starts_with(&below) {
                    return Ok(false);
                }
                if !node.folder && !view.grant.approved.rule.hides(&node.path) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
