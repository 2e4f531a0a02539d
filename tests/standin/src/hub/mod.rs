//! The Hub origin: from a parsed request to an answer.
//!
//! The order of checks is the Hub's own: token, repo, access, revision, entry.

mod errors;
mod info;
mod lists;
mod resolve;
mod tree;

use std::sync::Arc;

use serde_json::json;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::faults::{FaultKind, Struck};
use crate::repo::{Commit, Gated, Repo, RepoName};
use crate::route::{Call, Route};
use crate::world::{Caller, Found};

use errors::Form;
pub(crate) use errors::rate_limited;
pub(crate) use resolve::serve_file;

/// Answers a request to the Hub.
pub(crate) async fn answer(ask: &Ask, route: Route) -> Answer {
    let form = form(ask);
    if ask.caller == Caller::Refused {
        return errors::token_refused(form);
    }
    match route {
        Route::Whoami if ask.caller == Caller::Anonymous => errors::not_logged_in(Form::Json),
        Route::Whoami => whoami(),
        Route::List(kind) => lists::list(ask, kind),
        Route::Unknown => errors::no_such_page(form),
        Route::Repo { name, call, around } => {
            of_repo(ask, &name, call, &around, form).await.unwrap_or_else(|refusal| refusal)
        }
    }
}

/// The answers that scripted faults give in place of the real one.
pub(crate) fn scripted(ask: &Ask, struck: &Struck) -> Option<Answer> {
    let form = form(ask);
    Some(match &struck.kind {
        FaultKind::RateLimited { reset } => errors::rate_limited(*reset),
        FaultKind::Html { code } => errors::web_page(*code, "This is a web page"),
        FaultKind::TokenRefused => errors::token_refused(form),
        FaultKind::RepoGone { code: 451 } => errors::unavailable_for_legal_reasons(form),
        FaultKind::RepoGone { code } => errors::repo_not_found(form, *code == 404),
        FaultKind::RedirectTo { location } => {
            let target = format!("{}{}", ask.path, ask.raw_query);
            Answer::redirect(302, &location.replace("{target}", &target))
        }
        FaultKind::Status { code, body, headers } => {
            headers.iter().fold(Answer::text(*code, body.clone()), |answer, (name, value)| {
                answer.header(name.clone(), value.as_str())
            })
        }
        _ => return None,
    })
}

fn form(ask: &Ask) -> Form {
    if ask.path.starts_with("/api/") && !ask.path.starts_with("/api/resolve-cache/") { Form::Json } else { Form::Text }
}

async fn of_repo(
    ask: &Ask,
    name: &RepoName,
    call: Call,
    around: &(String, String),
    form: Form,
) -> Result<Answer, Answer> {
    let logged_in = ask.caller != Caller::Anonymous;
    let found = ask.state.world().find(name);
    let repo = match found {
        Found::Here(repo) => repo,
        Found::Moved(id) => {
            let location = format!("{}{id}{}{}", around.0, around.1, ask.raw_query);
            return Ok(Answer::redirect(307, &location));
        }
        Found::Missing => return Err(errors::repo_not_found(form, logged_in)),
    };
    let access = ask.caller == Caller::Granted && repo.access;
    if repo.private && !access {
        return Err(errors::repo_not_found(form, logged_in));
    }
    if repo.disabled {
        return Err(errors::disabled(form));
    }
    let closed = repo.gated != Gated::No && !access;
    let refuse_gated = || errors::gated(form, &repo, logged_in);
    let commit = |revision: &str| {
        let revision = revision.trim_end_matches('/');
        repo.resolve(revision).ok_or_else(|| errors::revision_not_found(form, revision))
    };
    match call {
        Call::AuthCheck if closed => Err(refuse_gated()),
        Call::AuthCheck => Ok(Answer::text(200, "OK")),
        Call::Resolve { revision, path } => {
            if closed && !matches!(path.as_str(), "README.md" | "LICENSE" | "LICENSE.md" | "LICENSE.txt") {
                return Err(refuse_gated());
            }
            resolve::resolve(ask, &repo, &*commit(&revision)?, &path)
        }
        Call::ResolveCache { commit: id, path } => {
            if closed {
                return Err(refuse_gated());
            }
            resolve::resolve_cache(ask, &repo, &*commit(&id)?, &path)
        }
        Call::Raw { revision, path } => {
            if closed {
                return Err(refuse_gated());
            }
            resolve::raw(ask, &*commit(&revision)?, &path)
        }
        Call::XetToken { .. } if closed => Err(refuse_gated()),
        Call::XetToken { revision } => {
            commit(&revision)?;
            Ok(xet_token(ask))
        }
        Call::Info { revision } => {
            let commit = commit(revision.as_deref().unwrap_or("main"))?;
            info::info(ask, &repo, &commit)
        }
        Call::Scan => Ok(Answer::json(200, &info::security(&repo))),
        Call::Tree { revision, path } => tree::tree(ask, &repo, &commit(&revision)?, &path, closed).await,
        Call::PathsInfo { revision } => tree::paths_info(ask, &repo, &commit(&revision)?, closed),
        Call::Refs => Ok(refs(ask, &repo)),
        Call::Commits { revision } => commits(ask, &repo, &commit(&revision)?),
    }
}

fn whoami() -> Answer {
    Answer::json(
        200,
        &json!({
            "type": "user", "id": "63ea00000000000000000001", "name": "standin", "fullname": "Stand-in", "email": "standin@example.com",
            "emailVerified": true, "canPay": false, "billingMode": "prepaid", "periodEnd": 1_793_491_200, "isPro": false,
            "avatarUrl": "/avatars/00000000000000000000000000000000.svg", "orgs": [],
            "auth": { "type": "access_token", "accessToken": {
                "displayName": "service", "role": "read", "createdAt": "2026-01-05T08:00:00.000Z" } },
        }),
    )
}

/// Leads to the CDN listener, where a Xet request is counted as one and refused.
fn xet_token(ask: &Ask) -> Answer {
    let cas = ask.state.urls().cdn;
    let (token, expires) = ("xet_standin", 4_102_444_800_u64);
    Answer::json(200, &json!({ "accessToken": token, "exp": expires, "casUrl": cas }))
        .header("x-xet-cas-url", cas)
        .header("x-xet-access-token", token)
        .header("x-xet-token-expiration", expires.to_string())
}

fn refs(ask: &Ask, repo: &Repo) -> Answer {
    let under = |prefix: &str| -> Vec<_> {
        let named = |(reference, commit): (&String, &String)| {
            let name = reference.strip_prefix(prefix)?.to_owned();
            Some(json!({ "name": name, "ref": reference, "targetCommit": commit }))
        };
        repo.refs.iter().filter_map(named).collect()
    };
    let mut answer = json!({
        "tags": under("refs/tags/"), "branches": under("refs/heads/"), "converts": under("refs/convert/"),
    });
    if ask.flag("include_prs") {
        answer["pullRequests"] = under("refs/pr/").into();
    }
    Answer::json(200, &answer)
}

/// Commits of one page, unless `limit` asks for fewer.
const COMMITS_PAGE: usize = 50;

fn commits(ask: &Ask, repo: &Repo, head: &Arc<Commit>) -> Result<Answer, Answer> {
    let number = |key: &str, default: usize| match ask.param(key) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| errors::bad_request(&format!("Invalid {key}: must be a number"))),
    };
    let limit = number("limit", COMMITS_PAGE)?.clamp(1, 1000);
    let page = number("p", 0)?;
    let history = repo.history(head);
    let formatted = ask.params("expand").contains(&"formatted");
    let shown = history.iter().skip(page * limit).take(limit).map(|commit| {
        let mut line = json!({
            "id": commit.id, "title": commit.title, "message": "",
            "authors": [{ "user": commit.author, "avatar": "/avatars/00000000000000000000000000000000.svg" }],
            "date": crate::repo::iso_date(commit.when),
        });
        if formatted {
            line["formatted"] = json!({ "title": commit.title, "message": "" });
        }
        line
    });
    let mut answer = Answer::json(200, &shown.collect::<Vec<_>>()).header("x-total-count", history.len().to_string());
    if (page + 1) * limit < history.len() {
        answer = answer.header("link", next_link(ask, &[("limit", limit.to_string()), ("p", (page + 1).to_string())]));
    }
    Ok(answer)
}

/// `<...>; rel="next"`: the same request with these query keys set.
fn next_link(ask: &Ask, set: &[(&str, String)]) -> String {
    let kept = ask.raw_query.trim_start_matches('?').split('&').filter(|part| {
        let key = part.split('=').next().unwrap_or_default();
        !part.is_empty() && set.iter().all(|(name, _)| *name != key)
    });
    let encode =
        |value: &str| percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
    let added = set.iter().map(|(key, value)| format!("{key}={}", encode(value)));
    let query = kept.map(str::to_owned).chain(added).collect::<Vec<_>>().join("&");
    format!("<{}{}?{query}>; rel=\"next\"", ask.base(), ask.path)
}
