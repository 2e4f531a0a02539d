//! The one table from errors to what clients see: status, `X-Error-Code`, text; and what the log says. Causes,
//! store keys, hosts and tokens never reach a client. [`Face`] makes a response of it.
//!
//! The codes are those that clients test for (PROTOCOL 5.2). No error of the origin's side ever becomes a 404:
//! a client would remember it as "there is no such file".

use std::{any::Any, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use tracing::{error, warn};

use super::{
    Payload,
    admin::Problem,
    face::{Face, Form},
    layers::{Outcome, Visit},
};
use crate::{
    admin,
    gateway::{Error, Refusal},
    hub::{ClientKind, RouteError},
    policy::RefusalForm,
    store,
    telemetry::with_causes,
    upstream,
};

/// When to come back, where nothing better is known.
const COME_BACK: Duration = Duration::from_secs(5);
/// The Hub's own sentence for a repo that isn't there for this caller.
const NO_REPO: &str = "Repository not found";

/// Answers an error of the gateway's, and logs what operators must know.
pub(super) fn answer(error: Error, form: &Form, visit: &mut Visit) -> Response<Payload> {
    log(&error, visit);
    let face = face(error, form);
    if face.refusal.is_some() {
        visit.outcome = Outcome::Denied;
    }
    visit.commit = visit.commit.or(face.commit);
    visit.reason = Some(face.message.clone());
    face.respond(form.api)
}

fn face(error: Error, form: &Form) -> Face {
    match error {
        Error::Denied(refusal) => refused(refusal, form),
        // No X-Repo-Commit: with it, Python remembers "no such file" for ever.
        Error::Hidden { refusal, .. } => {
            let mut face = Face::new(StatusCode::NOT_FOUND, refusal.text.clone()).code("EntryNotFound");
            face.refusal = Some(refusal);
            face
        }
        Error::RepoNotFound(_) => Face::new(StatusCode::NOT_FOUND, NO_REPO).code("RepoNotFound"),
        Error::RevisionNotFound { revision, .. } => {
            Face::new(StatusCode::NOT_FOUND, format!("Invalid rev id: {revision}")).code("RevisionNotFound")
        }
        Error::EntryNotFound { commit, .. } => {
            let mut face = Face::new(StatusCode::NOT_FOUND, "Entry not found").code("EntryNotFound");
            face.commit = Some(commit);
            face
        }
        // A refusal in form: any other status hides the reason from most clients (PROTOCOL 5.3).
        error @ Error::NeverFits { .. } => refused(Refusal::of_ours(format!("hubgate: {error}")), form),
        Error::Upstream(error) => upstream_face(&error, form),
        Error::Store(error) => store_face(&error.kind, form),
        Error::Manifest(_) => busy("hubgate cannot use its manifest for now".into(), COME_BACK, form),
        Error::Insane(_) => {
            Face::new(StatusCode::BAD_GATEWAY, "hubgate: what the origin says of this commit makes no sense")
        }
        Error::Integrity { .. } => Face::new(
            StatusCode::BAD_GATEWAY,
            "hubgate: the origin sent other content than it had announced; nothing was stored",
        ),
        error @ Error::Spoiled { .. } => Face::new(StatusCode::CONFLICT, format!("hubgate: {error}")),
        Error::Busy { why, retry_after } => busy(format!("hubgate: {why}"), retry_after, form),
        Error::TooMany(what) => Face::new(StatusCode::BAD_REQUEST, what),
    }
}

/// A no that the client's own terminal must explain (DESIGN section 6).
fn refused(refusal: Refusal, form: &Form) -> Face {
    let mut face = Face::new(StatusCode::FORBIDDEN, refusal.text.clone());
    let gated = match form.refusal {
        RefusalForm::Auto => form.client.shows_gated_reason(),
        RefusalForm::Gated => true,
        RefusalForm::Plain => false,
    };
    face.code = gated.then_some("GatedRepo");
    face.refusal = Some(refusal);
    face
}

/// Try again: 503, but 429 to a GET of those clients that give up on 503 there and retry 429 (PROTOCOL
/// section 6).
fn busy(why: String, after: Duration, form: &Form) -> Face {
    let status = if form.get && retries_429_alone(form.client) {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Face::new(status, why).later(after)
}

/// `huggingface_hub` from 1.0 on gives up on a GET's 5xx at once, and waits out a 429.
fn retries_429_alone(client: ClientKind) -> bool {
    client.hub_version().is_some_and(|version| version.major >= 1)
}

fn upstream_face(error: &upstream::Error, form: &Form) -> Face {
    use upstream::ErrorKind;
    let text = format!("hubgate: {}", error.public_text());
    match &error.kind {
        ErrorKind::RepoNotFound => Face::new(StatusCode::NOT_FOUND, NO_REPO).code("RepoNotFound"),
        ErrorKind::RevisionNotFound => Face::new(StatusCode::NOT_FOUND, "Invalid rev id").code("RevisionNotFound"),
        ErrorKind::EntryNotFound => Face::new(StatusCode::NOT_FOUND, "Entry not found").code("EntryNotFound"),
        ErrorKind::Gated(_) | ErrorKind::Disabled | ErrorKind::Unavailable451 => refused(Refusal::of_ours(text), form),
        // Waiting doesn't help: somebody must change something.
        ErrorKind::TokenRefused
        | ErrorKind::ProxyAuth { .. }
        | ErrorKind::ProxyRefused { .. }
        | ErrorKind::HostNotAllowed(_)
        | ErrorKind::PrivateAddress(_)
        | ErrorKind::Malformed(_)
        | ErrorKind::WrongSize(_) => Face::new(StatusCode::BAD_GATEWAY, text),
        ErrorKind::RateLimited { retry_after } | ErrorKind::BudgetSpent { retry_after } => {
            // The origin may say minutes; a client would sleep as long (PROTOCOL section 6).
            busy(text, (*retry_after).min(Duration::from_secs(30)), form)
        }
        // A new name is known by now, and the next question is put under it.
        ErrorKind::Moved(_)
        | ErrorKind::Unreachable
        | ErrorKind::Timeout
        | ErrorKind::Server(_)
        | ErrorKind::BeyondProxy { .. }
        | ErrorKind::ProxyUnreachable => busy(text, COME_BACK, form),
        // An operator's choice, which no client should wait out.
        ErrorKind::Offline => Face::new(StatusCode::SERVICE_UNAVAILABLE, text).later(COME_BACK),
    }
}

fn store_face(kind: &store::ErrorKind, form: &Form) -> Face {
    use store::ErrorKind;
    match kind {
        ErrorKind::Unreachable | ErrorKind::Busy => {
            busy("hubgate cannot reach its store for now".into(), COME_BACK, form)
        }
        ErrorKind::Full(_) => {
            busy("hubgate has no room left to store this; ask its operator".into(), Duration::from_mins(1), form)
        }
        ErrorKind::PermissionDenied
        | ErrorKind::TooLarge(_)
        | ErrorKind::Misconfigured(_)
        | ErrorKind::Corrupt(_)
        | ErrorKind::Other(_) => {
            Face::new(StatusCode::INTERNAL_SERVER_ERROR, "hubgate's store failed; ask its operator")
        }
    }
}

/// Says in the log what an operator must know; what clients did wrong stands in the access line alone.
fn log(error: &Error, visit: &Visit) {
    let fault = match error {
        Error::Denied(_)
        | Error::Hidden { .. }
        | Error::RepoNotFound(_)
        | Error::RevisionNotFound { .. }
        | Error::EntryNotFound { .. }
        | Error::Spoiled { .. }
        | Error::TooMany(_)
        | Error::Busy { .. } => return,
        Error::NeverFits { .. } => "configuration",
        Error::Upstream(_) | Error::Insane(_) | Error::Integrity { .. } => "upstream",
        Error::Store(_) | Error::Manifest(_) => "store",
    };
    let repo = visit.repo.as_ref().map(tracing::field::display);
    let path = visit.path.as_ref().map(tracing::field::display);
    warn!(
        fault,
        repo,
        path,
        request_id = visit.id.to_str().unwrap_or("-"),
        error = with_causes(error),
        "a request failed"
    );
}

/// What an operator sees of a problem.
pub(super) struct AdminFace {
    pub(super) status: StatusCode,
    /// A stable word for programs.
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
}

/// The admin API's part of the table.
pub(super) fn of_admins(problem: &Problem) -> AdminFace {
    let (status, code) = match problem {
        Problem::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
        Problem::MissingScope { .. } => (StatusCode::FORBIDDEN, "missing_scope"),
        Problem::NoSuchPage => (StatusCode::NOT_FOUND, "no_such_page"),
        Problem::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "wrong_method"),
        Problem::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        Problem::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
        Problem::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Problem::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
        Problem::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        Problem::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        Problem::Admin(error) => match error {
            admin::Error::Off => (StatusCode::CONFLICT, "approvals_off"),
            admin::Error::SamePerson { .. } => (StatusCode::FORBIDDEN, "same_person"),
            admin::Error::Denied(_) | admin::Error::Overruled { .. } => (StatusCode::CONFLICT, "policy_denies"),
            admin::Error::Unknown(_) => (StatusCode::NOT_FOUND, "not_found"),
            admin::Error::Already(_) => (StatusCode::CONFLICT, "conflict"),
            admin::Error::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            // Never here: a problem is made of what lies beneath these.
            admin::Error::Store(_) | admin::Error::Manifest(_) | admin::Error::Busy { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "failed")
            }
        },
        Problem::Gateway(error) => {
            let form = Form { refusal: RefusalForm::Plain, client: ClientKind::of(None), api: true, get: false };
            let face = face(error.clone(), &form);
            if face.status.is_server_error() {
                warn!(error = with_causes(error), "a request of the admin API failed");
            }
            let code = if face.refusal.is_some() { "refused" } else { "failed" };
            return AdminFace { status: face.status, code, message: face.message, retry_after: face.retry_after };
        }
    };
    AdminFace { status, code, message: problem.message(), retry_after: None }
}

/// A URL that means a read and has a malformed part. The gateway has said yes to the repo, where there is one.
pub(super) fn malformed(error: &RouteError, form: &Form, visit: &mut Visit) -> Response<Payload> {
    visit.reason = Some(error.to_string());
    let face = match error {
        RouteError::Repo(problem) => {
            Face::new(StatusCode::NOT_FOUND, format!("{NO_REPO} ({problem})")).code("RepoNotFound")
        }
        RouteError::Revision { error, .. } => {
            Face::new(StatusCode::NOT_FOUND, format!("Invalid rev id: {}", error.value)).code("RevisionNotFound")
        }
        RouteError::Path { error, .. } => {
            Face::new(StatusCode::NOT_FOUND, format!("Entry not found ({error})")).code("EntryNotFound")
        }
    };
    face.respond(form.api)
}

/// A request that can't be understood: what is wrong, and what would do.
pub(super) fn bad_request(problem: &str, form: &Form) -> Response<Payload> {
    Face::new(StatusCode::BAD_REQUEST, problem).respond(form.api)
}

/// A body past what such a request may have.
pub(super) fn too_large(limit: usize, form: &Form) -> Response<Payload> {
    Face::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is larger than {limit} bytes; ask for fewer paths at once"),
    )
    .respond(form.api)
}

/// A body that stopped on its way.
pub(super) fn too_slow(limit: Duration, form: &Form) -> Response<Payload> {
    let text = format!("the request's body did not arrive within {} s", limit.as_secs());
    Face::new(StatusCode::REQUEST_TIMEOUT, text).respond(form.api)
}

/// A write route of the Hub's.
pub(super) fn read_only(what: &str, form: &Form, visit: &mut Visit) -> Response<Payload> {
    visit.outcome = Outcome::Denied;
    let text = format!("hubgate is read-only: it does not {what}. Write to the Hub itself");
    refused(Refusal::of_ours(text), &Form { refusal: RefusalForm::Plain, ..*form }).respond(form.api)
}

/// A file that this client refuses over plain HTTP, with the cure (DESIGN section 7).
pub(super) fn too_large_for_client(size: u64, form: &Form, visit: &mut Visit) -> Response<Payload> {
    visit.outcome = Outcome::Denied;
    let text = format!(
        "hubgate: {size} bytes are more than this version of huggingface_hub downloads over plain HTTP (50 GB): \
         upgrade to huggingface_hub 1.31 or newer, or fetch this URL with curl"
    );
    refused(Refusal::of_ours(text), form).respond(form.api)
}

/// Something of the Hub's that this gateway doesn't have, and what to do instead.
pub(super) fn not_here(message: &str, form: &Form) -> Response<Payload> {
    Face::new(StatusCode::NOT_FOUND, message).respond(form.api)
}

/// The Hub's answer to a path that means nothing.
pub(super) fn no_such_page(api: bool) -> Response<Payload> {
    let text = if api { "Sorry, we can't find the page you are looking for." } else { "Not Found" };
    Face::new(StatusCode::NOT_FOUND, text).respond(api)
}

/// `auth.anonymous = false`, and no known token: 401, or 403 in the form that has no code.
pub(super) fn unauthorized(form: &Form) -> Response<Payload> {
    let text = "hubgate: this gateway serves known clients only: set HF_TOKEN to the token that its operator gave you";
    let mut face = refused(Refusal::of_ours(text.into()), form);
    // Over https Python reads a 401 without a code as "no such repo", and the command line then offers to create it.
    if face.code.is_some() {
        face.status = StatusCode::UNAUTHORIZED;
    }
    challenge(face.respond(form.api))
}

/// Whoami for a caller without a name here (PROTOCOL 5.1: the Hub's own shape).
pub(super) fn nobody(has_token: bool, form: &Form) -> Response<Payload> {
    let text = if has_token {
        "hubgate does not check Hub tokens: no login is needed to read through it"
    } else {
        "Invalid username or password."
    };
    challenge(Face::new(StatusCode::UNAUTHORIZED, text).respond(form.api))
}

/// Says with which credentials a caller would be known, in the Hub's own words.
fn challenge(mut response: Response<Payload>) -> Response<Payload> {
    let how = HeaderValue::from_static("Bearer realm=\"Authentication required\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
    response
}

/// A connection past `server.limits.connections`.
pub(super) fn too_many_connections(form: &Form, visit: &mut Visit) -> Response<Payload> {
    let text = "hubgate: too many connections";
    (visit.route, visit.is_hubs) = ("turned_away", true);
    visit.reason = Some(text.into());
    busy(text.into(), COME_BACK, form).respond(form.api)
}

/// More bodies on their way than are held at once.
pub(super) fn too_many_bodies(form: &Form) -> Response<Payload> {
    busy("hubgate: too many requests with a body at once".into(), Duration::from_secs(1), form).respond(form.api)
}

/// The store has not been looked at yet, or can't be reached: nothing is known and nothing may be written.
pub(super) fn no_store_yet(form: &Form, visit: &mut Visit) -> Response<Payload> {
    let text = "hubgate is starting: its store has not answered yet";
    visit.route = "not_ready";
    visit.reason = Some(text.into());
    busy(text.into(), COME_BACK, form).respond(form.api)
}

/// What was withdrawn is not known: nothing may be served.
pub(super) fn withdrawals_not_read(form: &Form, visit: &mut Visit) -> Response<Payload> {
    let text = "hubgate is starting: the withdrawals have not been read yet; /-/readyz names one that can't be";
    visit.route = "not_ready";
    visit.reason = Some(text.into());
    busy(text.into(), COME_BACK, form).respond(form.api)
}

/// A defect of ours: the request's end, not the process's.
pub(super) fn panicked(panic: &Box<dyn Any + Send>, visit: &mut Visit) -> Response<Payload> {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    error!(
        panic = text.unwrap_or("?"),
        route = visit.route,
        request_id = visit.id.to_str().unwrap_or("-"),
        "a handler panicked"
    );
    visit.reason = Some("panic".into());
    Face::new(StatusCode::INTERNAL_SERVER_ERROR, "hubgate failed on this request; its log says more").respond(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Key;

    const NEW: &str = "unknown/None; hf_hub/2.4.0; python/3.11.2";
    const OLD: &str = "unknown/None; hf_hub/0.36.2; python/3.11.2";

    fn form(agent: &str, get: bool) -> Form {
        Form { refusal: RefusalForm::Auto, client: ClientKind::of(Some(agent)), api: false, get }
    }

    fn header<'r>(response: &'r Response<Payload>, name: &str) -> &'r str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn busy_is_the_status_that_the_client_tries_again() {
        let status = |agent, get| {
            let error = Error::Busy { why: "still fetching".into(), retry_after: Duration::from_millis(1500) };
            let response = face(error, &form(agent, get)).respond(false);
            assert_eq!(header(&response, "retry-after"), "1");
            response.status().as_u16()
        };
        assert_eq!(status(NEW, true), 429, "it gives up on a GET's 503 at once");
        assert_eq!(status(NEW, false), 503);
        assert_eq!(status(OLD, true), 503, "it gives up on 429 at once");
        assert_eq!(status("curl/8", true), 503);
    }

    #[test]
    fn whatever_passes_by_itself_is_429_to_a_client_that_gives_up_on_503() {
        use upstream::ErrorKind;
        let of_upstream = |kind| Error::Upstream(upstream::Error::new(kind));
        let status = |error| face(error, &form(NEW, true)).status.as_u16();
        for kind in [ErrorKind::Unreachable, ErrorKind::Timeout, ErrorKind::Server(502), ErrorKind::ProxyUnreachable] {
            let shown = kind.to_string();
            assert_eq!(status(of_upstream(kind)), 429, "{shown}");
        }
        assert_eq!(status(Error::from(store::Error::new(store::ErrorKind::Full("/spool".into())))), 429);
        assert_eq!(status(of_upstream(ErrorKind::Offline)), 503, "waiting it out helps nobody");
    }

    #[test]
    fn a_no_to_unknown_clients_is_a_401_only_with_a_code() {
        let cli = "huggingface-cli/None; hf_hub/2.4.0; python/3.11.2";
        for (agent, status, code) in [(NEW, 401, "GatedRepo"), ("curl/8", 401, "GatedRepo"), (cli, 403, "")] {
            let answer = unauthorized(&form(agent, true));
            assert_eq!((answer.status().as_u16(), header(&answer, "x-error-code")), (status, code), "{agent}");
            assert!(header(&answer, "x-error-message").contains("HF_TOKEN"), "{agent}");
        }
    }

    #[test]
    fn the_origins_long_waits_are_not_passed_on() {
        let error = upstream::Error::new(upstream::ErrorKind::RateLimited { retry_after: Duration::from_secs(280) });
        let response = face(Error::Upstream(error), &form(OLD, true)).respond(false);
        assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (503, "30"));
        assert_eq!(header(&response, "ratelimit"), "");
    }

    #[test]
    fn no_fault_behind_us_becomes_a_404_or_tells_of_keys_and_causes() {
        use upstream::ErrorKind;
        let upstream_faults = [
            ErrorKind::TokenRefused,
            ErrorKind::RateLimited { retry_after: Duration::from_secs(1) },
            ErrorKind::BudgetSpent { retry_after: Duration::from_secs(1) },
            ErrorKind::Unreachable,
            ErrorKind::Timeout,
            ErrorKind::Server(500),
            ErrorKind::ProxyAuth { schemes: vec!["NTLM".into()] },
            ErrorKind::ProxyRefused { status: 403, text: "secret page".into() },
            ErrorKind::BeyondProxy { status: 503, text: "secret page".into() },
            ErrorKind::ProxyUnreachable,
            ErrorKind::HostNotAllowed("evil.example".into()),
            ErrorKind::PrivateAddress("secret.example".into()),
            ErrorKind::Malformed("secret answer".into()),
            ErrorKind::Offline,
        ]
        .map(|kind| Error::Upstream(upstream::Error::new(kind)));
        let store_faults = [
            store::ErrorKind::Unreachable,
            store::ErrorKind::Busy,
            store::ErrorKind::PermissionDenied,
            store::ErrorKind::Full("secret volume".into()),
            store::ErrorKind::TooLarge(7),
            store::ErrorKind::Misconfigured("secret bucket".into()),
            store::ErrorKind::Corrupt("secret".into()),
            store::ErrorKind::Other("secret".into()),
        ]
        .map(|kind| Error::from(store::Error::new(kind).on(&Key::layout())));
        for error in upstream_faults.into_iter().chain(store_faults) {
            let shown = error.to_string();
            let face = face(error, &form(OLD, true));
            assert!(face.status.is_server_error(), "{shown}: {}", face.status);
            for secret in ["secret", "example", "layout.json"] {
                assert!(!face.message.contains(secret), "{shown}: {}", face.message);
            }
        }
    }
}
