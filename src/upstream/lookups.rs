//! The short questions: what is this repo, what is in this commit, does this branch lead to it.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use http::{HeaderMap, Method};
use serde::de::DeserializeOwned;
use url::{Url, form_urlencoded};

use super::{
    Error, ErrorKind, Purpose, Result, Upstream,
    backoff::Backoff,
    budget::BudgetClass,
    exchange::{Ask, Lane, shown},
    pages::pages,
    refusal::is_page,
};
use crate::hub::{
    Commit, CommitInfo, CommitsQuery, HubRoute, InfoQuery, Refs, Repo, RepoInfo, RepoPath, Revision, TreeEntry,
    TreeQuery,
};

/// The largest answer that is read whole: the info of a repo of 300,000 files is about half of it.
const ANSWER_LIMIT: usize = 64 << 20;

/// Paths in one paths-info request.
const PATHS_PER_REQUEST: usize = 500;

/// Commits a page; the Hub gives up to so many.
const COMMITS_PER_PAGE: u32 = 1000;

/// Pages of a history that are read in search of one commit.
const HISTORY_PAGES: usize = 50;

/// A larger JSON is parsed off the worker threads.
const PARSED_INLINE: usize = 1 << 20;

/// One look at a revision.
#[derive(Debug, Clone)]
pub struct Look {
    /// The repo under the name that the Hub itself uses, in its spelling.
    pub repo: Repo,
    /// The commit that the revision means now.
    pub commit: Commit,
    /// All that the Hub says of the repo at that commit.
    pub info: RepoInfo,
}

/// Whether a commit is in the history of a branch or tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InHistory {
    /// It is.
    Yes,
    /// The whole history was read: it isn't.
    No,
    /// It isn't among this many of the latest commits, and no more were read.
    NotAmong(usize),
}

/// How much of an answer is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// All; more is an error.
    Whole(usize),
    /// The beginning.
    Start(usize),
}

/// An answer that was read.
pub(super) struct Fetched {
    pub(super) headers: HeaderMap,
    pub(super) url: Url,
    method: Method,
    body: Bytes,
}

impl Upstream {
    /// Looks a revision up: its commit, the repo's canonical name and facts. [`ErrorKind::Moved`] where it has another
    /// name than was asked for, in more than its letters.
    pub async fn look(&self, repo: &Repo, revision: &Revision, purpose: Purpose) -> Result<Look> {
        let route = HubRoute::RepoInfo {
            repo: repo.clone(),
            revision: Some(revision.clone()),
            // No query: one that names properties gets only those.
            query: InfoQuery::default(),
        };
        let fetched = self.fetch(&self.question(&route, purpose)?, Limit::Whole(ANSWER_LIMIT)).await?;
        let info: RepoInfo = fetched.json().await?;
        let commit = info.sha.ok_or_else(|| Error::malformed("a repo's info without its commit"))?;
        if let Some(asked) = revision.as_commit().filter(|asked| *asked != commit) {
            return Err(Error::malformed(format!("asked for commit {asked}, told about {commit}")));
        }
        let repo = Repo::new(repo.kind(), &info.id).map_err(|error| Error::malformed(error.to_string()))?;
        Ok(Look { repo, commit, info })
    }

    /// The whole tree of a commit, page by page, in the Hub's order. Ends after an error; what came before
    /// one is a part, never to be taken for the whole.
    pub fn tree(
        self: &Arc<Self>,
        repo: &Repo,
        commit: Commit,
        purpose: Purpose,
        rest: Purpose,
    ) -> BoxStream<'static, Result<Vec<TreeEntry>>> {
        let query = TreeQuery { recursive: true, ..TreeQuery::default() };
        let route = HubRoute::Tree { repo: repo.clone(), revision: commit.into(), path: None, query };
        self.pages(&route, purpose, rest)
    }

    /// What is right in a folder of a commit, or in its root, page by page.
    pub fn folder(
        self: &Arc<Self>,
        repo: &Repo,
        commit: Commit,
        path: Option<&RepoPath>,
        purpose: Purpose,
    ) -> BoxStream<'static, Result<Vec<TreeEntry>>> {
        let (repo, revision, path) = (repo.clone(), commit.into(), path.cloned());
        self.pages(&HubRoute::Tree { repo, revision, path, query: TreeQuery::default() }, purpose, purpose)
    }

    /// How many requests [`Upstream::paths_info`] of so many paths makes.
    pub fn paths_info_requests(paths: usize) -> usize {
        paths.div_ceil(PATHS_PER_REQUEST)
    }

    /// What the commit has at these paths; those that it doesn't have are left out.
    pub async fn paths_info(
        &self,
        repo: &Repo,
        commit: Commit,
        paths: &[RepoPath],
        purpose: Purpose,
    ) -> Result<Vec<TreeEntry>> {
        let route = HubRoute::PathsInfo { repo: repo.clone(), revision: commit.into() };
        let mut found = Vec::new();
        for some in paths.chunks(PATHS_PER_REQUEST) {
            // The serializer is not Send, so it must not live on to the await below.
            let form = {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for path in some {
                    form.append_pair("paths", path.as_str());
                }
                form.append_pair("expand", "false").finish()
            };
            let ask = Ask { method: Method::POST, form: Some(form.into()), ..self.question(&route, purpose)? };
            let entries: Vec<TreeEntry> = self.fetch(&ask, Limit::Whole(ANSWER_LIMIT)).await?.json().await?;
            let asked: HashSet<&RepoPath> = some.iter().collect();
            if let Some(stray) = entries.iter().find(|entry| !asked.contains(&entry.path)) {
                return Err(Error::malformed(format!("paths-info of {:?}, which was not asked", stray.path.as_str())));
            }
            found.extend(entries);
        }
        Ok(found)
    }

    /// Branches and tags; pull requests too, which may be thousands, where they are asked for.
    pub async fn refs(&self, repo: &Repo, include_prs: bool, purpose: Purpose) -> Result<Refs> {
        let route = HubRoute::Refs { repo: repo.clone(), include_prs };
        self.fetch(&self.question(&route, purpose)?, Limit::Whole(ANSWER_LIMIT)).await?.json().await
    }

    /// The history of a revision, latest first, in pages of up to 1,000; take as many as are wanted.
    pub fn commits(
        self: &Arc<Self>,
        repo: &Repo,
        revision: &Revision,
        purpose: Purpose,
    ) -> BoxStream<'static, Result<Vec<CommitInfo>>> {
        let query = CommitsQuery { limit: Some(COMMITS_PER_PAGE), ..CommitsQuery::default() };
        self.pages(&HubRoute::Commits { repo: repo.clone(), revision: revision.clone(), query }, purpose, purpose)
    }

    /// Whether a revision's history has this commit, and how many pages of it were asked for: 51 at most.
    pub async fn history_contains(
        self: &Arc<Self>,
        repo: &Repo,
        revision: &Revision,
        commit: Commit,
        purpose: Purpose,
    ) -> Result<(InHistory, usize)> {
        let mut pages = self.commits(repo, revision, purpose).take(HISTORY_PAGES + 1).enumerate();
        let (mut read, mut asked) = (0, 0);
        while let Some((number, page)) = pages.next().await {
            if number == HISTORY_PAGES {
                return Ok((InHistory::NotAmong(read), number + 1));
            }
            let page = page?;
            if page.iter().any(|known| known.id == commit) {
                return Ok((InHistory::Yes, number + 1));
            }
            read += page.len();
            asked = number + 1;
        }
        Ok((InHistory::No, asked))
    }

    /// `README.md` at a commit, its first `limit` bytes; `None` where the commit has none.
    pub async fn readme(&self, repo: &Repo, commit: Commit, limit: usize, purpose: Purpose) -> Result<Option<Bytes>> {
        let path = "README.md".parse().map_err(|error: crate::hub::ParseError| Error::malformed(error.to_string()))?;
        let route = HubRoute::Resolve { repo: repo.clone(), revision: commit.into(), path };
        match self.fetch(&self.question(&route, purpose)?, Limit::Start(limit)).await {
            Ok(fetched) => Ok(Some(fetched.body)),
            Err(error) if error.kind == ErrorKind::EntryNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn pages<T>(
        self: &Arc<Self>,
        route: &HubRoute,
        purpose: Purpose,
        rest: Purpose,
    ) -> BoxStream<'static, Result<Vec<T>>>
    where
        T: DeserializeOwned + Send + 'static,
    {
        match self.question(route, purpose) {
            Ok(ask) => pages(self.clone(), ask, rest),
            Err(error) => futures_util::stream::iter([Err(error)]).boxed(),
        }
    }

    pub(super) fn question(&self, route: &HubRoute, purpose: Purpose) -> Result<Ask> {
        let class = match route {
            HubRoute::Resolve { .. } | HubRoute::Raw { .. } => BudgetClass::Resolvers,
            HubRoute::Git { .. } | HubRoute::Unknown { .. } => BudgetClass::Pages,
            _ => BudgetClass::Api,
        };
        let url = self.exchange.url(&route.to_string())?;
        let repo = route.repo().cloned();
        Ok(Ask { repo, method: Method::GET, url, class, purpose, lane: Lane::LookUps, range: None, form: None })
    }

    /// Asks, and reads the answer, with retries of both.
    pub(super) async fn fetch(&self, ask: &Ask, limit: Limit) -> Result<Fetched> {
        self.check_online()?;
        let mut backoff = Backoff::default();
        loop {
            let result = self.fetch_once(ask, limit).await;
            self.record.note(&result);
            match result {
                Err(error) if backoff.wait_after(&error).await => {}
                result => return result,
            }
        }
    }

    async fn fetch_once(&self, ask: &Ask, limit: Limit) -> Result<Fetched> {
        let mut answer = self.exchange.ask(ask).await?;
        let shown = shown(&ask.method, &answer.url);
        if is_page(&answer.headers) {
            return Err(answer.into_page_error().await.asking(&shown));
        }
        let body = match limit {
            Limit::Whole(limit) => answer.body.whole(limit).await,
            Limit::Start(limit) => answer.body.start(limit).await.map(|(start, _)| start),
        };
        let body = body.map_err(|error| error.asking(&shown))?;
        Ok(Fetched { headers: answer.headers, url: answer.url, method: ask.method.clone(), body })
    }
}

impl Fetched {
    pub(super) async fn json<T: DeserializeOwned + Send + 'static>(self) -> Result<T> {
        let body = self.body;
        let parsed = if body.len() <= PARSED_INLINE {
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        } else {
            let parse = move || serde_json::from_slice(&body).map_err(|error| error.to_string());
            tokio::task::spawn_blocking(parse).await.unwrap_or_else(|error| Err(error.to_string()))
        };
        parsed.map_err(|problem| Error::malformed(problem).asking(&shown(&self.method, &self.url)))
    }
}
