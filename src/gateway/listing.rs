//! Listings: a repo's facts, trees, refs and commits, and which repos are here. Made from what is held;
//! filtered by the same decisions as the files.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    Asker, Error, Gateway, Listing, RepoFacts, Result, commit::from_upstream, refs::RefRecord, snapshot::Snapshot,
    view::View,
};
use crate::{
    hub::{Commit, CommitInfo, ListQuery, RefInfo, Refs, Repo, RepoKind, RepoPath, Revision, TreeNode, TreeQuery},
    policy::Rule,
    store::{Key, Prefix},
};

/// How many nodes one page of a tree has, unless the client asks for fewer. llama.cpp wants a whole tree
/// in one page (PROTOCOL 4.2); this is more than any model it can load has.
const PAGE_NODES: usize = 10_000;

/// More files than this are left out of a repo's info, as the Hub does; clients then ask for the tree.
const MAX_SIBLINGS: usize = 50_000;

/// How long refs and commits from upstream are held.
pub(super) const REFS_TTL: Duration = Duration::from_mins(1);

impl Gateway {
    /// A repo's facts at a revision; its default branch if none is named.
    pub async fn facts(&self, asker: &Asker, asked: &Repo, revision: Option<&Revision>) -> Result<RepoFacts> {
        self.in_time(async {
            let main = Revision::main();
            let view = self.view(asker, asked, revision.unwrap_or(&main)).await?;
            let snapshot = self.whole(asker, &view.known).await?;
            let view = self.redecided(asked, view, snapshot.clone()).await?;
            let mut files = Vec::new();
            if snapshot.index.files <= MAX_SIBLINGS {
                for number in 0..snapshot.index.pieces() {
                    let piece = self.snapshots.piece(&snapshot, number).await?;
                    files.extend(piece.nodes.iter().filter(|node| !node.folder && is_shown(&view, node)).cloned());
                }
            }
            let info = snapshot.facts.info.clone();
            let warning = view.grant.warning.clone();
            Ok(RepoFacts { repo: view.resolved.repo, commit: view.resolved.commit, info, files, warning })
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
            Ok(Listing { repo, commit, nodes, next, warning: view.grant.warning.clone() })
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
            let (repo, commit, warning) = (view.resolved.repo, view.resolved.commit, view.grant.warning.clone());
            Ok(Listing { repo, commit, nodes, next: None, warning })
        })
        .await
    }

    /// Branches, tags and special refs that the rule allows: upstream's, else those that were looked at.
    pub async fn refs(&self, asker: &Asker, asked: &Repo) -> Result<Refs> {
        self.in_time(async {
            let (rule, repo) = self.authorised(asker, asked).await?;
            let mut refs = self.held_refs(asker, &repo).await?;
            for list in [&mut refs.branches, &mut refs.tags, &mut refs.converts] {
                keep_allowed(list, &rule);
            }
            if let Some(list) = &mut refs.pull_requests {
                list.retain(|found| rule.allows_ref(&found.full_name));
            }
            Ok(refs)
        })
        .await
    }

    /// The newest commits of an allowed revision.
    pub async fn commits(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<(Commit, Vec<CommitInfo>)> {
        self.in_time(async {
            let view = self.view(asker, asked, revision).await?;
            let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
            let name = (repo.clone(), commit);
            if let Some(commits) = self.commit_lists.get(&name).await {
                return Ok((commit, (*commits).clone()));
            }
            if let Some(commits) = self.snapshots.history(repo, commit).await? {
                self.commit_lists.insert(name, Arc::new(commits.clone())).await;
                return Ok((commit, commits));
            }
            let found = if self.upstream_is_out() {
                None
            } else {
                self.limits.admit(asker).await?;
                match self.upstream.commits(repo, &commit.into(), asker.purpose()).next().await.transpose() {
                    Ok(commits) => commits,
                    Err(error) if error.is_outage() => {
                        self.note_outage(Some(&error));
                        None
                    }
                    Err(error) => return Err(from_upstream(error, repo, &commit.into())),
                }
            };
            let Some(commits) = found else {
                // The one commit that is known for certain.
                return Ok((commit, vec![lone_commit(commit, &view.known.facts().info)]));
            };
            self.snapshots.keep_history(repo, commit, &commits).await?;
            self.commit_lists.insert(name, Arc::new(commits.clone())).await;
            Ok((commit, commits))
        })
        .await
    }

    /// Whether the asker may read the repo at all.
    pub async fn authorise(&self, asker: &Asker, asked: &Repo) -> Result<()> {
        self.in_time(async { self.authorised(asker, asked).await.map(drop) }).await
    }

    /// The infos of the repos of a kind that are stored and allowed, as `query` selects them.
    pub async fn repos(&self, _asker: &Asker, kind: RepoKind, query: &ListQuery) -> Result<Vec<Value>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let identities = Prefix::identities();
        let keys: Vec<_> = self.store.list(&identities).map_ok(|meta| meta.key).try_collect().await?;
        let names = keys.iter().filter_map(Key::identified);
        let wanted = names.filter(|repo| repo.kind() == kind && policy.decide_repo(repo, today).is_ok());
        let wanted: Vec<Repo> = wanted.filter(|repo| is_wanted(repo, query)).collect();
        let mut found: Vec<_> = futures_util::stream::iter(wanted)
            .map(|repo| async move { self.stored_info(&repo).await })
            .buffered(8)
            .try_filter_map(|info| async { Ok(info) })
            .try_collect()
            .await?;
        let has_tag = |info: &Value, wanted: &String| {
            info.get("tags").and_then(Value::as_array).is_some_and(|tags| tags.iter().any(|tag| tag == wanted))
        };
        found.retain(|info| query.filter.iter().all(|wanted| has_tag(info, wanted)));
        Ok(found)
    }

    /// The info of the newest commit that `main` was seen at, of a repo listed under its own name.
    async fn stored_info(&self, repo: &Repo) -> Result<Option<Value>> {
        let Some(identity) = self.identities.of(repo).await? else { return Ok(None) };
        if identity.canonical != *repo {
            return Ok(None);
        }
        let Some(main) = self.refs.last(repo, &Revision::main()).await? else { return Ok(None) };
        let snapshot = self.snapshots.find(repo, main.commit).await?;
        Ok(snapshot.map(|snapshot| snapshot.facts.info.clone()))
    }

    /// The rule that speaks for a repo and the repo's canonical name.
    async fn authorised(&self, asker: &Asker, asked: &Repo) -> Result<(Arc<Rule>, Repo)> {
        let rule = self.policy.current().decide_repo(asked, OffsetDateTime::now_utc().date());
        let rule = rule.map_err(|denial| self.denied(&denial))?;
        let view = self.view(asker, asked, &default_revision(&rule)).await?;
        Ok((view.grant.approved.rule.clone(), view.resolved.repo))
    }

    async fn held_refs(&self, asker: &Asker, repo: &Repo) -> Result<Refs> {
        if let Some(refs) = self.ref_lists.get(repo).await {
            return Ok((*refs).clone());
        }
        if !self.upstream_is_out() {
            self.limits.admit(asker).await?;
            match self.upstream.refs(repo, asker.purpose()).await {
                Ok(refs) => {
                    self.refs.keep_list(repo, &refs).await?;
                    self.ref_lists.insert(repo.clone(), Arc::new(refs.clone())).await;
                    return Ok(refs);
                }
                Err(error) if error.is_outage() => self.note_outage(Some(&error)),
                Err(error) => return Err(from_upstream(error, repo, &Revision::main())),
            }
        }
        if let Some(refs) = self.refs.last_list(repo).await? {
            return Ok(refs);
        }
        let mut refs = Refs::default();
        for record in self.refs.all(repo).await? {
            if record.revision.may_be_short_sha() || record.revision.as_str() == "HEAD" {
                continue;
            }
            add_ref(&mut refs, &record);
        }
        Ok(refs)
    }
}

/// A revision that the rule allows, to ask about the repo as such: its pin, `main`, else the first that
/// it names.
fn default_revision(rule: &Rule) -> Revision {
    if let Some(pin) = rule.pin {
        return pin.into();
    }
    let named = rule.revisions().unwrap_or_default().iter().filter_map(|name| name.parse().ok());
    if rule.allows_ref("main") { Revision::main() } else { named.into_iter().next().unwrap_or_else(Revision::main) }
}

/// A ref that was looked at, among those of its sort. Whether a name is a branch or a tag was not asked; a
/// branch is what clients look for.
fn add_ref(refs: &mut Refs, record: &RefRecord) {
    let (name, target_commit) = (record.revision.as_str(), record.commit);
    let info = |name: &str, full_name: String| RefInfo { name: name.to_owned(), full_name, target_commit };
    if let Some(short) = name.strip_prefix("refs/convert/") {
        refs.converts.push(info(short, name.to_owned()));
    } else if let Some(number) = name.strip_prefix("refs/pr/") {
        refs.pull_requests.get_or_insert_default().push(info(number, name.to_owned()));
    } else {
        refs.branches.push(info(name, format!("refs/heads/{name}")));
    }
}

fn keep_allowed(list: &mut Vec<RefInfo>, rule: &Rule) {
    list.retain(|found| {
        let name = if found.full_name.starts_with("refs/convert/") { &found.full_name } else { &found.name };
        rule.allows_ref(name)
    });
}

fn is_shown(view: &View, node: &TreeNode) -> bool {
    node.folder || !view.grant.approved.rule.hides(&node.path)
}

fn is_wanted(repo: &Repo, query: &ListQuery) -> bool {
    let id = repo.id().to_ascii_lowercase();
    let search = query.search.as_ref().is_none_or(|search| id.contains(&search.to_ascii_lowercase()));
    let owner = id.split_once('/').map_or("", |(owner, _)| owner);
    search && query.author.as_ref().is_none_or(|author| owner.eq_ignore_ascii_case(author))
}

fn lone_commit(commit: Commit, info: &Value) -> CommitInfo {
    let date = info.get("lastModified").and_then(Value::as_str).unwrap_or_default().to_owned();
    CommitInfo { id: commit, title: String::new(), message: String::new(), authors: Vec::new(), date, formatted: None }
}
