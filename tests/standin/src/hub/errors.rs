//! The Hub's refusals, word for word (as recorded from it).

use serde_json::json;

use crate::answer::Answer;
use crate::repo::Repo;

const CHALLENGE: &str = "Bearer realm=\"Authentication required\", charset=\"UTF-8\"";

/// Whether an error is told in JSON (`/api/`) or as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Text,
}

fn error(form: Form, status: u16, code: Option<&str>, message: &str) -> Answer {
    let answer = match form {
        Form::Json => Answer::json(status, &json!({ "error": message })),
        Form::Text => Answer::text(status, message.to_owned()),
    };
    let answer = answer.header("x-error-message", message);
    match code {
        Some(code) => answer.header("x-error-code", code),
        None => answer,
    }
}

/// A repo that is not there, or not for this caller: whoever is not logged in learns nothing.
pub(crate) fn repo_not_found(form: Form, logged_in: bool) -> Answer {
    if logged_in { error(form, 404, Some("RepoNotFound"), "Repository not found") } else { not_logged_in(form) }
}

pub(crate) fn not_logged_in(form: Form) -> Answer {
    error(form, 401, None, "Invalid username or password.").header("www-authenticate", CHALLENGE)
}

pub(crate) fn token_refused(form: Form) -> Answer {
    error(form, 401, None, "Invalid credentials in Authorization header").header("www-authenticate", CHALLENGE)
}

pub(crate) fn revision_not_found(form: Form, revision: &str) -> Answer {
    error(form, 404, Some("RevisionNotFound"), &format!("Invalid rev id: {revision}"))
}

pub(crate) fn entry_not_found(form: Form, commit: &str) -> Answer {
    error(form, 404, Some("EntryNotFound"), "Entry not found")
        .header("x-repo-commit", commit)
        .header("accept-ranges", "bytes")
}

pub(crate) fn gated(form: Form, repo: &Repo, logged_in: bool) -> Answer {
    let what = format!("Access to {} {} is restricted", repo.name.kind.singular(), repo.name.id);
    if logged_in {
        let page = format!("https://huggingface.co/{}", repo.name);
        let message = format!("{what} and you are not in the authorized list. Visit {page} to ask for access.");
        return error(form, 403, Some("GatedRepo"), &message);
    }
    let message = format!("{what}. You must have access to it and be authenticated to access it. Please log in.");
    error(form, 401, Some("GatedRepo"), &message).header("www-authenticate", CHALLENGE)
}

pub(crate) fn disabled(form: Form) -> Answer {
    error(form, 403, None, "Access to this resource is disabled.")
}

pub(crate) fn unavailable_for_legal_reasons(form: Form) -> Answer {
    error(form, 451, None, "Access to this resource is unavailable for legal reasons.")
}

pub(crate) fn bad_request(message: &str) -> Answer {
    error(Form::Json, 400, None, message)
}

pub(crate) fn no_such_page(form: Form) -> Answer {
    let message = "Sorry, we can't find the page you are looking for.";
    match form {
        Form::Json => error(form, 404, None, message),
        Form::Text => web_page(404, message),
    }
}

pub(crate) fn rate_limited(reset: u64) -> Answer {
    let text = "We had to rate limit your IP (127.0.0.1). To continue using our service, create a HF account or login to \
                your existing account, and make sure you pass a HF_TOKEN if you're using the API.";
    Answer::text(429, text)
        .header("ratelimit", format!("\"api\";r=0;t={reset}"))
        .header("ratelimit-policy", "\"fixed window\";\"api\";q=500;w=300")
}

pub(crate) fn web_page(status: u16, message: &str) -> Answer {
    let page =
        format!("<!DOCTYPE html>\n<html><head><title>Hub</title></head><body><h1>{message}</h1></body></html>\n");
    Answer::text(status, page).header("content-type", "text/html; charset=utf-8")
}
