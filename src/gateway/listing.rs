//! Listings: a repo's facts, trees, refs and commits, and which repos are here. Made from what is held;
//! filtered by the same decisions as the files.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use time::{Date, OffsetDateTime};

use super::{
    Asker, Error, Gateway, Listing, RepoFacts, Resolved, Result,
    commit::from_upstream,
    refs::RefRecord,
    snapshot::Snapshot,
    view::{Known, View},
};
use crate::{
    hub::{Commit, CommitInfo, ListQuery, RefInfo, Refs, Repo, RepoKind, RepoPath, Revision, TreeNode, TreeQuery},
    policy::{PolicySet, Rule},
    store::{Key, Prefix},
    upstream::{self, OnGone},
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
            let Resolved { repo, commit, stale, .. } = view.resolved;
            Ok(RepoFacts { repo, commit, info, files, warning, stale })
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

    /// Branches, tags and special refs that the rule allows: upstream's, else those that were looked at.
    pub async fn refs(&self, asker: &Asker, asked: &Repo) -> Result<Refs> {
        self.in_time(async {
            let (rule, repo) = self.authorised(asker, asked).await?;
            let mut refs = self.held_refs(asker, &repo, names_requests(&rule)).await?;
            let requests = refs.pull_requests.iter_mut();
            for list in [&mut refs.branches, &mut refs.tags, &mut refs.converts].into_iter().chain(requests) {
                list.retain(|found| rule.allows_ref(asked_as(found)));
            }
            if let Some(pin) = rule.pin {
                mean(&mut refs, pin);
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
                    Err(error) if self.serves_what_is_gone(&error) => None,
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

    /// Whether what is stored of a repo is served though upstream says that the repo is gone (I10).
    fn serves_what_is_gone(&self, error: &upstream::Error) -> bool {
        error.is_gone() && self.config.on_gone == OnGone::Serve
    }

    /// Whether the asker may read the repo at all.
    pub async fn authorise(&self, asker: &Asker, asked: &Repo) -> Result<()> {
        self.in_time(async { self.authorised(asker, asked).await.map(drop) }).await
    }

    /// A page of the infos of the repos of a kind that are stored and allowed, as `query` selects them, in the
    /// order of their ids; and where the next page starts.
    pub async fn repos(
        &self,
        _asker: &Asker,
        kind: RepoKind,
        query: &ListQuery,
    ) -> Result<(Vec<Value>, Option<String>)> {
        self.in_time(self.repos_unhurried(kind, query)).await
    }

    async fn repos_unhurried(&self, kind: RepoKind, query: &ListQuery) -> Result<(Vec<Value>, Option<String>)> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let identities = Prefix::identities();
        let keys: Vec<_> = self.store.list(&identities).map_ok(|meta| meta.key).try_collect().await?;
        let names = keys.iter().filter_map(Key::identified);
        let mut wanted: Vec<Repo> = names.filter(|repo| repo.kind() == kind && is_wanted(repo, query)).collect();
        wanted.sort_unstable();
        let has_tag = |info: &Value, wanted: &String| {
            info.get("tags").and_then(Value::as_array).is_some_and(|tags| tags.iter().any(|tag| tag == wanted))
        };
        let limit = query.limit.map_or(usize::MAX - 1, |limit| limit as usize);
        let mut found: Vec<(Repo, Value)> = futures_util::stream::iter(wanted)
            .map(|repo| {
                let policy = &policy;
                async move { Ok::<_, Error>(self.stored_info(policy, today, &repo).await?.map(|info| (repo, info))) }
            })
            .buffered(8)
            .try_filter_map(|found| async { Ok(found) })
            .try_filter(|(_, info)| std::future::ready(query.filter.iter().all(|wanted| has_tag(info, wanted))))
            .take(limit + 1)
            .try_collect()
            .await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(repo, _)| repo.id().to_owned());
        Ok((found.into_iter().map(|(_, info)| info).collect(), next))
    }

    /// The info of a repo listed under its own name, at the commit that its default revision was last seen at,
    /// if policy shows it.
    async fn stored_info(&self, policy: &Arc<PolicySet>, today: Date, repo: &Repo) -> Result<Option<Value>> {
        let Ok(rule) = policy.decide_repo(repo, today) else { return Ok(None) };
        let identity = self.identities.of(repo).await?;
        if identity.is_none_or(|identity| identity.canonical != *repo) {
            return Ok(None);
        }
        let revision = default_revision(&rule);
        let commit = match revision.as_commit() {
            Some(pin) => pin,
            None => match self.refs.last(repo, &revision).await? {
                Some(seen) => seen.commit,
                None => return Ok(None),
            },
        };
        let Some(snapshot) = self.snapshots.find(repo, commit).await? else { return Ok(None) };
        let info = snapshot.facts.info.clone();
        let resolved = Resolved { repo: repo.clone(), commit, revision, stale: false };
        match self.grant(policy, &rule, repo, &resolved, &Known::Whole(snapshot), today).await {
            Ok(_) => Ok(Some(info)),
            Err(Error::Denied(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The rule that speaks for a repo and the repo's canonical name.
    async fn authorised(&self, asker: &Asker, asked: &Repo) -> Result<(Arc<Rule>, Repo)> {
        let rule = self.policy.current().decide_repo(asked, OffsetDateTime::now_utc().date());
        let rule = rule.map_err(|denial| self.denied(&denial))?;
        let view = self.view(asker, asked, &default_revision(&rule)).await?;
        Ok((view.grant.approved.rule.clone(), view.resolved.repo))
    }

    async fn held_refs(&self, asker: &Asker, repo: &Repo, requests: bool) -> Result<Refs> {
        let name = (repo.clone(), requests);
        if let Some(refs) = self.ref_lists.get(&name).await {
            return Ok((*refs).clone());
        }
        if !self.upstream_is_out() {
            self.limits.admit(asker).await?;
            match self.upstream.refs(repo, requests, asker.purpose()).await {
                Ok(refs) => {
                    self.refs.keep_list(repo, &refs).await?;
                    self.ref_lists.insert(name, Arc::new(refs.clone())).await;
                    return Ok(refs);
                }
                Err(error) if error.is_outage() => self.note_outage(Some(&error)),
                Err(error) if self.serves_what_is_gone(&error) => {}
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

/// Under a pin all names mean one commit; llama.cpp takes from here which commit to ask for.
fn mean(refs: &mut Refs, pin: Commit) {
    let requests = refs.pull_requests.iter_mut().flatten();
    for found in refs.branches.iter_mut().chain(&mut refs.tags).chain(&mut refs.converts).chain(requests) {
        found.target_commit = pin;
    }
}

/// The name by which clients ask for a ref, and rules allow it: short for a branch or tag, full for the others.
/// `refs/convert/parquet` has the short name `parquet`, which may be a branch's too.
pub(super) fn asked_as(found: &RefInfo) -> &str {
    if found.full_name.starts_with("refs/heads/") || found.full_name.starts_with("refs/tags/") {
        &found.name
    } else {
        &found.full_name
    }
}

/// Whether a rule names pull requests, of which a repo may have thousands.
pub(super) fn names_requests(rule: &Rule) -> bool {
    const OTHERS: [&str; 3] = ["refs/heads/", "refs/tags/", "refs/convert/"];
    let is_special = |name: &&String| name.starts_with("refs/") || name.starts_with("pr/");
    let names = rule.revisions().unwrap_or_default().iter();
    names.filter(is_special).any(|name| !OTHERS.iter().any(|prefix| name.starts_with(prefix)))
}

fn is_shown(view: &View, node: &TreeNode) -> bool {
    node.folder || !view.grant.approved.rule.hides(&node.path)
}

fn is_wanted(repo: &Repo, query: &ListQuery) -> bool {
    let id = repo.id().to_ascii_lowercase();
    let search = query.search.as_ref().is_none_or(|search| id.contains(&search.to_ascii_lowercase()));
    let owner = id.split_once('/').map_or("", |(owner, _)| owner);
    let after = query.cursor.as_ref().is_none_or(|cursor| repo.id() > cursor.as_str());
    search && after && query.author.as_ref().is_none_or(|author| owner.eq_ignore_ascii_case(author))
}

fn lone_commit(commit: Commit, info: &Value) -> CommitInfo {
    let date = info.get("lastModified").and_then(Value::as_str).unwrap_or_default().to_owned();
    CommitInfo { id: commit, title: String::new(), message: String::new(), authors: Vec::new(), date, formatted: None }
}
