//! The Hub's routes: each [`HubRoute`] to the question for the gateway that it means.

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body::Body;

use super::{Ask, Payload, Shared, api, error, layers::Visit, respond};
use crate::{
    admin,
    gateway::{Error, Refusal},
    hub::{HubRoute, Repo, Revision, RouteError},
};

/// Why a route has no answer of its own.
pub(super) enum Refused {
    /// The gateway said so.
    Gateway(Error),
    /// The answer is made already.
    Answered(Box<Response<Payload>>),
}

impl From<Response<Payload>> for Refused {
    fn from(response: Response<Payload>) -> Self {
        Self::Answered(Box::new(response))
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Gateway(error)
    }
}

pub(super) type Answer = Result<Response<Payload>, Refused>;

/// Whether a path, without the prefix of `public_url`, is the API's.
pub(super) fn is_api(path: &str) -> bool {
    path.trim_start_matches('/').starts_with("api/")
}

impl Shared {
    /// Answers a request that is not below `/-/`.
    pub(super) async fn hub<B>(&self, ask: &Ask<'_>, path: &str, body: B, visit: &mut Visit) -> Response<Payload>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let form = &ask.form;
        if is_datasets_server(&ask.parts.headers) {
            visit.route = "datasets_server";
            return error::not_here("hubgate has no datasets-server", form);
        }
        if let Some(shown) = self.shown.get(ask.parts).await
            && self.gateway.shows_still(&shown.file, shown.day)
        {
            (visit.route, visit.commit) = (shown.route, Some(shown.file.commit));
            (visit.repo, visit.path) = (Some(shown.file.repo.clone()), Some(shown.file.path.clone()));
            let answer = self.send(ask, &shown, visit).await;
            return self.concluded(ask, answer, visit);
        }
        let route = match HubRoute::parse(&ask.parts.method, path, ask.parts.uri.query()) {
            Ok(route) => route,
            Err(problem) => return Box::pin(self.malformed(ask, &problem, visit)).await,
        };
        visit.route = route.name();
        visit.repo = route.repo().cloned();
        let answer = match self.ask(ask, &route, body, visit).await {
            Err(Refused::Gateway(first)) if is_nobody(&first) => match route.other_reading() {
                Some(other) => Box::pin(self.ask_again(ask, &other, first, visit)).await,
                None => Err(first.into()),
            },
            answer => answer,
        };
        self.concluded(ask, answer, visit)
    }

    fn concluded(&self, ask: &Ask<'_>, answer: Answer, visit: &mut Visit) -> Response<Payload> {
        match answer {
            Ok(response) => response,
            Err(Refused::Answered(response)) => *response,
            Err(Refused::Gateway(problem)) => {
                self.note_refusal(ask, &problem, visit);
                error::answer(problem, &ask.form, visit)
            }
        }
    }

    /// A repo that a client was refused may be what somebody should review.
    fn note_refusal(&self, ask: &Ask<'_>, problem: &Error, visit: &Visit) {
        if let (Error::Denied(Refusal { text, rule, kind: Some(kind), .. }), Some(repo)) = (problem, &visit.repo) {
            let (who, rule) = (&ask.asker.label(), rule.as_deref());
            self.admin.note_refusal(&admin::Refused { repo, who, kind: *kind, rule, text });
        }
    }

    /// The other meaning of a URL that has two, where the first is of a repo that policy doesn't name or that
    /// isn't there; see [`HubRoute::other_reading`].
    async fn ask_again(&self, ask: &Ask<'_>, other: &HubRoute, first: Error, visit: &mut Visit) -> Answer {
        let before = (visit.route, visit.repo.take());
        (visit.route, visit.repo) = (other.name(), other.repo().cloned());
        match self.ask(ask, other, http_body_util::Empty::new(), visit).await {
            // A rule names the first and it isn't there; of the second nothing is known either.
            Err(Refused::Gateway(second)) if is_nobody(&second) && matches!(first, Error::RepoNotFound(_)) => {
                (visit.route, visit.repo) = before;
                Err(first.into())
            }
            answer => answer,
        }
    }

    async fn ask<B>(&self, ask: &Ask<'_>, route: &HubRoute, body: B, visit: &mut Visit) -> Answer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let form = &ask.form;
        match route {
            HubRoute::Resolve { repo, revision, path } | HubRoute::Raw { repo, revision, path } => {
                let raw = matches!(route, HubRoute::Raw { .. });
                visit.path = Some(path.clone());
                self.file(ask, &respond::Wanted { repo, revision, path, raw }, visit).await
            }
            HubRoute::ResolveCache { repo, commit, path } => {
                visit.path = Some(path.clone());
                let revision = Revision::from(*commit);
                self.file(ask, &respond::Wanted { repo, revision: &revision, path, raw: false }, visit).await
            }
            // All but files are boxed: the largest answer's state would be moved about for each of theirs.
            HubRoute::RepoInfo { repo, revision, query } => {
                Box::pin(self.repo_info(ask, repo, revision.as_ref(), query, visit)).await
            }
            HubRoute::Tree { repo, revision, path, query } => {
                Box::pin(self.tree(ask, repo, revision, path.as_ref(), query, visit)).await
            }
            HubRoute::PathsInfo { repo, revision } => Box::pin(self.paths_info(ask, repo, revision, body, visit)).await,
            HubRoute::Refs { repo, include_prs } => Box::pin(self.refs(ask, repo, *include_prs)).await,
            HubRoute::Commits { repo, revision, query } => {
                Box::pin(self.commits(ask, repo, revision, query, visit)).await
            }
            HubRoute::RepoList { kind, query } => Box::pin(self.repo_list(ask, *kind, query)).await,
            HubRoute::AuthCheck { repo } => {
                self.gateway.authorise(&ask.asker, repo).await?;
                Ok(api::json(b"{}".to_vec()))
            }
            HubRoute::Whoami => Ok(api::whoami(ask)),
            // These tell nothing of any repo, so that policy need not be asked.
            HubRoute::XetReadToken { .. } => Ok(error::not_here(NO_XET, form)),
            HubRoute::Git { .. } => Ok(error::not_here(NO_GIT, form)),
            HubRoute::AgentHarnesses | HubRoute::Telemetry => Ok(error::no_such_page(true)),
            HubRoute::Write { what, .. } => Ok(error::read_only(what, form, visit)),
            HubRoute::Unknown { .. } => Ok(error::no_such_page(form.api)),
        }
    }

    /// A malformed part of a URL. Policy is asked about the repo first: what it refuses, it refuses whatever
    /// follows, and nobody learns what a refused repo holds (PROTOCOL 16, 47).
    async fn malformed(&self, ask: &Ask<'_>, problem: &RouteError, visit: &mut Visit) -> Response<Payload> {
        visit.route = "malformed";
        let form = &ask.form;
        let repo: Option<&Repo> = match problem {
            RouteError::Repo(_) => None,
            RouteError::Revision { repo, .. } | RouteError::Path { repo, .. } => Some(repo),
        };
        if let Some(repo) = repo {
            visit.repo = Some(repo.clone());
            if let Err(refused) = self.gateway.authorise(&ask.asker, repo).await {
                return error::answer(refused, form, visit);
            }
        }
        error::malformed(problem, form, visit)
    }
}

/// Whether this is said of a repo that isn't there, or of one that no rule names.
fn is_nobody(error: &Error) -> bool {
    match error {
        Error::RepoNotFound(_) => true,
        Error::Denied(refusal) => refusal.rule.is_none(),
        _ => false,
    }
}

const NO_XET: &str = "hubgate serves plain files, no Xet: set HF_HUB_DISABLE_XET=1, or delete the trees folder of this \
                      repo in the Hugging Face cache, which remembers Xet hashes from before";
const NO_GIT: &str = "hubgate does not serve git: use `hf download` or snapshot_download, which need no git";

/// datasets derives this host from the endpoint; where its name resolves to us, a fast no spares 100 s of
/// waiting (PROTOCOL 4.5).
fn is_datasets_server(headers: &HeaderMap) -> bool {
    headers.get(header::HOST).is_some_and(|host| host.as_bytes().starts_with(b"datasets-server."))
}
