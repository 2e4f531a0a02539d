//! The CDN origin: files by their hash, for whoever has a signed URL.
//!
//! Xet requests arrive here too (the stand-in's `casUrl` leads here); they are counted and refused.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::counters::Class;
use crate::faults::FaultKind;
use crate::hub::serve_file;

/// Repo id and hash of a CDN path.
fn parse(path: &str) -> Option<(&str, &str)> {
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["xet-bridge-us", id, hash] | ["repos", _, _, id, hash] => Some((id, hash)),
        _ => None,
    }
}

/// What a request to the CDN is, and the file that it is for.
pub(crate) fn classify(state: &crate::state::State, path: &str) -> (Class, Option<String>) {
    match parse(path) {
        Some((id, hash)) => {
            let file = state.world().blob(id, hash).map(|(repo, path, _)| format!("{}/{path}", repo.name()));
            (Class::Cdn, file)
        }
        None if path.starts_with("/v1/") || path.starts_with("/v2/") => (Class::Cas, None),
        None => (Class::Other, None),
    }
}

pub(crate) fn answer(ask: &Ask) -> Answer {
    let Some((id, hash)) = parse(&ask.path) else {
        return Answer::text(404, "there is no CAS server at this stand-in");
    };
    if !is_signed(ask) {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
        return Answer::text(403, text).header("content-type", "application/xml");
    }
    let found = ask.state.world().blob(id, hash);
    let Some((_, _, file)) = found else {
        return Answer::text(404, "not found");
    };
    let lie: i64 = ask
        .strike(|kind| matches!(kind, FaultKind::LieSize { .. }))
        .iter()
        .map(|struck| if let FaultKind::LieSize { by } = struck.kind { by } else { 0 })
        .sum();
    let answer = serve_file(ask, &file.content, file.size.saturating_add_signed(lie), hash)
        .header("access-control-allow-origin", "*")
        .header("access-control-expose-headers", "*")
        .header("content-type", "application/octet-stream");
    match ask.param("response-content-disposition") {
        Some(disposition) => answer.header("content-disposition", disposition),
        None => answer,
    }
}

fn is_signed(ask: &Ask) -> bool {
    let expires = ask.param("Expires").and_then(|expires| expires.parse::<u64>().ok()).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let signature = ask.state.signature(&ask.path, expires);
    expires > now && ask.param("Signature") == Some(signature.as_str())
}
