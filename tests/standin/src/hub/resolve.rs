//! `/resolve/`, `/api/resolve-cache/` and `/raw/`: the bytes of files, or the way to them.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::errors::{self, Form};
use crate::answer::{Answer, Payload};
use crate::ask::Ask;
use crate::content::Content;
use crate::faults::FaultKind;
use crate::file::{File, Lfs};
use crate::repo::{Commit, Gated, Repo};

/// What `encodeURIComponent` leaves alone.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'(')
    .remove(b')');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

/// Size and identity of a file as this request is told them.
pub(super) struct Facts {
    pub(super) size_lie: i64,
    pub(super) digest_lie: bool,
}

impl Facts {
    pub(super) fn of(ask: &Ask) -> Self {
        let mut facts = Self { size_lie: 0, digest_lie: false };
        for struck in ask.strike(FaultKind::is_of_facts) {
            match struck.kind {
                FaultKind::LieSize { by } => facts.size_lie += by,
                FaultKind::LieDigest => facts.digest_lie = true,
                _ => {}
            }
        }
        facts
    }

    pub(super) fn size(&self, size: u64) -> u64 {
        size.saturating_add_signed(self.size_lie)
    }

    /// A lie has the same form: its last digit is another.
    pub(super) fn digest(&self, hash: &str) -> String {
        let mut hash = hash.to_owned();
        if self.digest_lie {
            let last = if hash.ends_with('0') { '1' } else { '0' };
            hash.pop();
            hash.push(last);
        }
        hash
    }
}

pub(super) fn resolve(ask: &Ask, repo: &Repo, commit: &Commit, path: &str) -> Result<Answer, Answer> {
    let file = commit.tree.file(path).ok_or_else(|| errors::entry_not_found(Form::Text, &commit.id))?;
    if let Some(lfs) = &file.lfs {
        return Ok(to_cdn(ask, repo, commit, path, &file, lfs));
    }
    let plain = |answer: Answer| {
        answer
            .header("x-repo-commit", commit.id.as_str())
            .header("accept-ranges", "bytes")
            .header("content-disposition", disposition(ask, path))
            .header("content-security-policy", "default-src 'none'; sandbox")
    };
    // Whether a repo is gated decides, not who asks.
    if repo.gated != Gated::No || repo.private {
        return Ok(plain(serve_regular(ask, path, &file)));
    }
    let kind = repo.name.kind.plural();
    let etag = Facts::of(ask).digest(&file.blob_id);
    let encoded = path.split('/').map(encode).collect::<Vec<_>>().join("/");
    let asked = encode(&ask.path);
    let location =
        format!("/api/resolve-cache/{kind}/{}/{}/{encoded}?{asked}=&etag=%22{etag}%22", repo.name.id, commit.id);
    Ok(plain(Answer::redirect(307, &location)).header("x-hub-cache", "MISS"))
}

pub(super) fn resolve_cache(ask: &Ask, repo: &Repo, commit: &Commit, path: &str) -> Result<Answer, Answer> {
    let file = commit.tree.file(path).ok_or_else(|| errors::entry_not_found(Form::Text, &commit.id))?;
    if let Some(lfs) = &file.lfs {
        return Ok(to_cdn(ask, repo, commit, path, &file, lfs));
    }
    let answer = serve_regular(ask, path, &file);
    Ok(answer.header("x-repo-commit", commit.id.as_str()).header("content-disposition", disposition(ask, path)))
}

/// Pointer text for LFS files; conditions are ignored.
pub(super) fn raw(ask: &Ask, commit: &Commit, path: &str) -> Result<Answer, Answer> {
    let file = commit.tree.file(path).ok_or_else(|| errors::entry_not_found(Form::Text, &commit.id))?;
    let content = match &file.lfs {
        Some(lfs) => Content::from(lfs.pointer.as_str()),
        None => file.content.clone(),
    };
    let range = 0..content.size();
    Ok(Answer { status: 200, headers: Vec::new(), payload: Payload::File { content, range, padding: 0 } }
        .header("content-type", content_type(path, file.lfs.is_some()))
        .header("content-disposition", disposition(ask, path))
        .header("etag", format!("\"{}\"", Facts::of(ask).digest(&file.blob_id)))
        .header("x-repo-commit", commit.id.as_str()))
}

/// The whole of a regular file, from the Hub itself.
fn serve_regular(ask: &Ask, path: &str, file: &File) -> Answer {
    let facts = Facts::of(ask);
    let etag = facts.digest(&file.blob_id);
    let size = facts.size(file.size);
    serve_file(ask, &file.content, size, &etag).header("content-type", content_type(path, false))
}

/// The bytes of a file: conditions, ranges, and the size that is claimed for it.
pub(crate) fn serve_file(ask: &Ask, content: &Content, size: u64, etag: &str) -> Answer {
    let quoted = format!("\"{etag}\"");
    let dress = |answer: Answer| answer.header("etag", quoted.as_str()).header("accept-ranges", "bytes");
    let known = ask.header("if-none-match");
    if known
        .is_some_and(|known| known.split(',').any(|known| matches!(known.trim(), tag if tag == quoted || tag == "*")))
    {
        return dress(Answer::empty(304));
    }
    let asked = ask.header("range").and_then(|range| parse_range(range, size));
    let asked = asked.filter(|_| ask.is_head() || ask.strike(|kind| *kind == FaultKind::IgnoreRange).is_empty());
    let (status, range) = match asked {
        None => (200, 0..size),
        Some(Some(range)) => (206, range),
        Some(None) => {
            return Answer::text(416, "Range Not Satisfiable").header("content-range", format!("bytes */{size}"));
        }
    };
    // Where the size was lied about, zeros fill what the content lacks.
    let real = range.start.min(content.size())..range.end.min(content.size());
    let padding = (range.end - range.start) - (real.end - real.start);
    let payload = Payload::File { content: content.clone(), range: real, padding };
    let answer = dress(Answer { status, headers: Vec::new(), payload });
    if status == 206 {
        return answer.header("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    answer
}

/// None: no range, or one to ignore. Some(None): none that the file has.
fn parse_range(header: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: u64 = last.parse().ok()?;
        return Some((suffix > 0 && size > 0).then(|| size.saturating_sub(suffix)..size));
    }
    let first: u64 = first.parse().ok()?;
    let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.checked_add(1)?.min(size) };
    if !last.is_empty() && last.parse::<u64>().ok()? < first {
        return None;
    }
    Some((first < size).then_some(first..end))
}

fn to_cdn(ask: &Ask, repo: &Repo, commit: &Commit, path: &str, file: &File, lfs: &Lfs) -> Answer {
    let facts = Facts::of(ask);
    let urls = ask.state.urls();
    let kind = repo.name.kind.plural();
    let size = facts.size(file.size).to_string();
    let sha256 = facts.digest(&lfs.sha256);
    let (base, read_token) = (ask.base(), format!("/api/{kind}/{}/xet-read-token/{}", repo.name.id, commit.id));
    let links = lfs.xet_hash.as_ref().map(|hash| {
        let cas = format!("{}/v1/reconstructions/{hash}", urls.cdn);
        format!("<{base}{read_token}>; rel=\"xet-auth\", <{cas}>; rel=\"xet-reconstruction-info\"")
    });
    let wants_xet = ask.header("accept").is_some_and(|accept| accept.contains("application/vnd.xet-fileinfo+json"));
    let answer = match &lfs.xet_hash {
        Some(hash) if wants_xet => {
            let info =
                json!({ "hash": hash, "size": file.size, "etag": sha256, "refreshUrl": format!("{base}{read_token}") });
            Answer::json(200, &info)
                .header("content-type", "application/vnd.xet-fileinfo+json")
                .header("etag", format!("\"{sha256}\""))
                .header("content-disposition", disposition(ask, path))
        }
        _ => {
            let location = signed(ask, repo, path, lfs);
            let ollama = ask.header("user-agent").is_some_and(|agent| agent.starts_with("ollama"));
            Answer::redirect(if ollama { 307 } else { 302 }, &location).header("cache-control", "no-store")
        }
    };
    let answer = answer
        .header("x-repo-commit", commit.id.as_str())
        .header("x-linked-size", size)
        .header("x-linked-etag", format!("\"{sha256}\""))
        .header("accept-ranges", "bytes");
    match (links, &lfs.xet_hash) {
        (Some(links), Some(hash)) => answer.header("x-xet-hash", hash.as_str()).header("link", links),
        _ => answer,
    }
}

/// A CDN URL that holds for a while.
fn signed(ask: &Ask, repo: &Repo, path: &str, lfs: &Lfs) -> String {
    let at = match &lfs.xet_hash {
        Some(hash) => format!("/xet-bridge-us/{}/{hash}", repo.object_id),
        None => {
            let (first, second) = (lfs.sha256.get(..2), lfs.sha256.get(2..4));
            let (first, second) = (first.unwrap_or_default(), second.unwrap_or_default());
            format!("/repos/{first}/{second}/{}/{}", repo.object_id, lfs.sha256)
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires = (now + ask.state.settings.signed_for).as_secs();
    let cdn = ask.state.urls().cdn;
    let policy = base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        json!({ "Statement": [{ "Resource": format!("{cdn}{at}*"), "Condition": { "DateLessThan": { "AWS:EpochTime": expires } } }] })
            .to_string(),
    );
    format!(
        "{cdn}{at}?X-Xet-Cas-Uid=public&response-content-disposition={}&Expires={expires}&Policy={policy}&Signature={}&Key-Pair-Id=STANDIN",
        encode(&disposition(ask, path)),
        ask.state.signature(&at, expires),
    )
}

fn disposition(ask: &Ask, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ascii: String =
        name.chars().map(|c| if (' '..='~').contains(&c) && c != '"' && c != '\\' { c } else { '?' }).collect();
    let how = if ask.flag("download") { "attachment" } else { "inline" };
    format!("{how}; filename*=UTF-8''{}; filename=\"{ascii}\";", encode(name))
}

fn content_type(path: &str, pointer: bool) -> &'static str {
    const BINARY: &[&str] = &[".png", ".jpg", ".jpeg", ".gif", ".pdf", ".bin", ".safetensors", ".parquet", ".model"];
    let binary = !pointer && BINARY.iter().any(|end| path.ends_with(end));
    if binary { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_servers_do() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Some(Some(0..1))),
            ("bytes=5-", 10, Some(Some(5..10))),
            ("bytes=5-100", 10, Some(Some(5..10))),
            ("bytes=-3", 10, Some(Some(7..10))),
            ("bytes=10-", 10, Some(None)),
            ("bytes=0-0", 0, Some(None)),
            ("bytes=5-4", 10, None),
            ("bytes=0-1,3-4", 10, None),
            ("lines=1-2", 10, None),
        ] {
            assert_eq!(parse_range(header, size), expected, "{header} of {size}");
        }
    }
}
