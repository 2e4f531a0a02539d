//! The JSON of the API: what the gateway found, in the Hub's shapes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    Ask, Payload, Shared, auth, error, face,
    hub::{Answer, Refused},
    layers::Visit,
};
use crate::hub::{
    Commit, CommitsQuery, HubRoute, InfoQuery, ListQuery, PathsInfoRequest, Repo, RepoKind, RepoPath, Revision,
    TreeQuery, info_answer,
};

/// Largest body of a paths-info request in bytes: some 20,000 paths.
const LARGEST_BODY: usize = 2 * 1024 * 1024;

/// How many such bodies are read at once.
pub(super) const BODIES: usize = 64;

/// Commits of one page at most, as on the Hub.
const PAGE_COMMITS: usize = 1000;

/// How long it may take to arrive. A client that stops in the middle gives its connection back.
const BODY_WITHIN: Duration = Duration::from_secs(30);

impl Shared {
    pub(super) async fn repo_info(
        &self,
        ask: &Ask<'_>,
        repo: &Repo,
        revision: Option<&Revision>,
        query: &InfoQuery,
        visit: &mut Visit,
    ) -> Answer {
        let facts = self.gateway.facts(&ask.asker, repo, revision).await?;
        visit.about(facts.commit, facts.stale);
        let body = info_answer(facts.info(), &facts.repo, facts.commit, facts.files(), query)
            .map_err(|error| unwritten(ask, &error))?;
        Ok(about(json(body), facts.commit, facts.warning()))
    }

    pub(super) async fn tree(
        &self,
        ask: &Ask<'_>,
        repo: &Repo,
        revision: &Revision,
        folder: Option<&RepoPath>,
        query: &TreeQuery,
        visit: &mut Visit,
    ) -> Answer {
        visit.path = folder.cloned();
        let listing = self.gateway.tree(&ask.asker, repo, revision, folder, query).await?;
        visit.about(listing.commit, listing.stale);
        let mut response = written(ask, &listing.nodes)?;
        if let Some(cursor) = listing.next {
            // The next page is of the same commit, wherever the branch goes meanwhile.
            let next = HubRoute::Tree {
                repo: repo.clone(),
                revision: listing.commit.into(),
                path: folder.cloned(),
                query: TreeQuery { cursor: Some(cursor), ..query.clone() },
            };
            self.link_next(ask, &next, &mut response)?;
        }
        Ok(about(response, listing.commit, listing.warning.as_ref()))
    }

    pub(super) async fn paths_info<B>(
        &self,
        ask: &Ask<'_>,
        repo: &Repo,
        revision: &Revision,
        body: B,
        visit: &mut Visit,
    ) -> Answer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let form = &ask.form;
        // Policy first, whatever is wrong with the question (PROTOCOL 16, 47), and before anything is held for it.
        self.gateway.names(repo)?;
        let Ok(place) = self.bodies.try_acquire() else { return Err(Refused::from(error::too_many_bodies(form))) };
        let Ok(body) = timeout(BODY_WITHIN, Limited::new(body, LARGEST_BODY).collect()).await else {
            return Err(Refused::from(error::too_slow(BODY_WITHIN, form)));
        };
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(problem) if problem.is::<LengthLimitError>() => {
                return Err(Refused::from(error::too_large(LARGEST_BODY, form)));
            }
            Err(problem) => {
                return Err(Refused::from(error::bad_request(&format!("the body broke off: {problem}"), form)));
            }
        };
        let content_type = ask.parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let request = match PathsInfoRequest::parse(content_type, &body) {
            Ok(request) => request,
            Err(problem) => {
                self.gateway.authorise(&ask.asker, repo).await?;
                return Err(Refused::from(error::bad_request(&problem.to_string(), form)));
            }
        };
        drop((body, place));
        // A path that no commit can hold is one that isn't there, and those are left out.
        let paths: Vec<RepoPath> =
            request.paths.iter().filter_map(|path| path.trim_matches('/').parse().ok()).collect();
        let listing = self.gateway.paths_info(&ask.asker, repo, revision, &paths).await?;
        visit.about(listing.commit, listing.stale);
        let response = written(ask, &listing.nodes)?;
        Ok(about(response, listing.commit, listing.warning.as_ref()))
    }

    pub(super) async fn refs(&self, ask: &Ask<'_>, repo: &Repo, include_prs: bool) -> Answer {
        let mut refs = self.gateway.refs(&ask.asker, repo).await?;
        if include_prs {
            refs.pull_requests.get_or_insert_default();
        } else {
            refs.pull_requests = None;
        }
        written(ask, &refs)
    }

    pub(super) async fn commits(
        &self,
        ask: &Ask<'_>,
        repo: &Repo,
        revision: &Revision,
        query: &CommitsQuery,
        visit: &mut Visit,
    ) -> Answer {
        let (commit, history) = self.gateway.commits(&ask.asker, repo, revision).await?;
        visit.commit = Some(commit);
        let page = query.page.unwrap_or(0);
        let limit = query.limit.map_or(PAGE_COMMITS, |limit| PAGE_COMMITS.min(limit as usize));
        let start = history.len().min((page as usize).saturating_mul(limit));
        let end = history.len().min(start.saturating_add(limit));
        let mut response = written(ask, &history[start..end])?;
        if end < history.len() {
            let query = CommitsQuery { page: Some(page + 1), ..query.clone() };
            let next = HubRoute::Commits { repo: repo.clone(), revision: commit.into(), query };
            self.link_next(ask, &next, &mut response)?;
        }
        response.headers_mut().insert("x-total-count", history.len().into());
        Ok(about(response, commit, None))
    }

    pub(super) async fn repo_list(&self, ask: &Ask<'_>, kind: RepoKind, query: &ListQuery) -> Answer {
        let (repos, next) = self.gateway.repos(&ask.asker, kind, query).await?;
        let expand = &query.expand;
        let wanted = |key: &String| expand.is_empty() || expand.contains(key) || matches!(&**key, "id" | "_id");
        let infos = repos.iter().map(|repo| repo.info().as_object().into_iter().flatten());
        let infos = infos.map(|info| info.filter(|(key, _)| wanted(key)).collect::<BTreeMap<_, _>>());
        let mut response = written(ask, &infos.collect::<Vec<_>>())?;
        if let Some(cursor) = next {
            let query = ListQuery { cursor: Some(cursor), ..query.clone() };
            self.link_next(ask, &HubRoute::RepoList { kind, query }, &mut response)?;
        }
        Ok(response)
    }

    /// `Link: <...>; rel="next"`, absolute: a relative one makes some clients stop after the first page
    /// without a word (PROTOCOL 4.4).
    fn link_next(&self, ask: &Ask<'_>, next: &HubRoute, response: &mut Response<Payload>) -> Result<(), Refused> {
        let base = self.addresses.base(ask.peer, &ask.parts.uri, &ask.parts.headers);
        let link = base.and_then(|base| HeaderValue::try_from(format!("<{base}{next}>; rel=\"next\"")).ok());
        let Some(link) = link else {
            let problem = "a listing in pages needs a Host header, to say where the next page is";
            return Err(Refused::from(error::bad_request(problem, &ask.form)));
        };
        response.headers_mut().insert(header::LINK, link);
        Ok(())
    }
}

/// A client that hubgate knows is told its own name. A Hub token is none of ours to judge.
pub(super) fn whoami(ask: &Ask<'_>) -> Response<Payload> {
    let Some(name) = &ask.asker.name else {
        return error::nobody(auth::bearer(&ask.parts.headers).is_some(), &ask.form);
    };
    let name = &**name;
    let body = serde_json::json!({
        "type": "user",
        "id": name,
        "name": name,
        "fullname": name,
        "isPro": false,
        "canPay": false,
        "emailVerified": false,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": {"displayName": name, "role": "read"}},
    });
    json(body.to_string().into_bytes())
}

fn written(ask: &Ask<'_>, value: &(impl Serialize + ?Sized)) -> Answer {
    serde_json::to_vec(value).map(json).map_err(|error| unwritten(ask, &error))
}

/// Serialising our own values into memory doesn't fail; were it to, the client hears so.
fn unwritten(ask: &Ask<'_>, problem: &serde_json::Error) -> Refused {
    Refused::from(error::bad_request(&format!("this answer can't be written as JSON: {problem}"), &ask.form))
}

/// An answer in JSON.
pub(super) fn json(body: Vec<u8>) -> Response<Payload> {
    let length = body.len();
    let mut response = Response::new(Payload::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Authorization"));
    response
}

/// Adds which commit an answer is about, and what the client should be warned of.
fn about(mut response: Response<Payload>, commit: Commit, warning: Option<&Arc<str>>) -> Response<Payload> {
    if let Ok(commit) = HeaderValue::try_from(commit.to_string()) {
        response.headers_mut().insert("x-repo-commit", commit);
    }
    if let Some(warning) = warning.and_then(|warning| face::warning_header(warning)) {
        response.headers_mut().insert("x-hf-warning", warning);
    }
    response
}
