//! `/api/models?...` and its kin: which repos there are.

use std::sync::Arc;

use serde_json::{Value, json};

use super::errors;
use super::{info, next_link};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::card;
use crate::repo::{Commit, Kind, Repo};
use crate::world::Caller;

/// Repos of one page, unless `limit` asks for fewer.
const PAGE: usize = 1000;

pub(super) fn list(ask: &Ask, kind: Kind) -> Answer {
    matching(ask, kind).unwrap_or_else(|refusal| refusal)
}

fn matching(ask: &Ask, kind: Kind) -> Result<Answer, Answer> {
    let limit = match ask.param("limit") {
        None => PAGE,
        Some(text) => text.parse().map_err(|_| errors::bad_request("Invalid limit: must be a number"))?,
    };
    let limit = limit.clamp(1, PAGE);
    let from = match ask.param("cursor") {
        None => 0,
        Some(text) => text.parse().map_err(|_| errors::bad_request("Invalid cursor"))?,
    };
    let expand = info::expand(ask)?;
    let mut found: Vec<(Arc<Repo>, Arc<Commit>)> = {
        let world = ask.state.world();
        let visible = |repo: &&Arc<Repo>| {
            let hidden = repo.private && !(ask.caller == Caller::Granted && repo.access);
            repo.name.kind == kind && !hidden && !repo.disabled
        };
        let head = |repo: &Arc<Repo>| Some((repo.clone(), repo.resolve("main")?));
        world.all().filter(visible).filter_map(head).collect()
    };
    found.retain(|(repo, commit)| wanted(ask, repo, commit));
    if ask.param("sort") == Some("downloads") {
        found.sort_by_key(|(repo, _)| std::cmp::Reverse(repo.downloads));
    }
    let more = from + limit < found.len();
    let shown = found.iter().skip(from).take(limit).map(|(repo, commit)| line(ask, repo, commit, &expand));
    let answer = Answer::json(200, &shown.collect::<Vec<_>>());
    let next = || next_link(ask, &[("limit", limit.to_string()), ("cursor", (from + limit).to_string())]);
    Ok(if more { answer.header("link", next()) } else { answer })
}

fn wanted(ask: &Ask, repo: &Repo, commit: &Commit) -> bool {
    let id = repo.name.id.to_lowercase();
    let search = ask.param("search").map(str::to_lowercase);
    let card = card::card_data(repo, commit);
    let tags = card::tags(repo, commit, card.as_ref());
    search.is_none_or(|search| id.contains(&search))
        && ask.param("author").is_none_or(|author| repo.author.eq_ignore_ascii_case(author))
        && ask.params("filter").iter().all(|filter| tags.iter().any(|tag| tag == filter))
}

fn line(ask: &Ask, repo: &Repo, commit: &Commit, expand: &[&str]) -> Value {
    let mut all = info::facts(repo, commit);
    if ask.flag("full") || expand.contains(&"siblings") {
        let paths = commit.tree.paths(1000);
        all.insert("siblings".into(), paths.iter().map(|(path, _)| json!({ "rfilename": path })).collect());
    }
    if !expand.is_empty() {
        all.retain(|key, _| matches!(key.as_str(), "_id" | "id") || expand.contains(&key.as_str()));
    } else if !ask.flag("full") {
        let short = [
            "_id",
            "id",
            "modelId",
            "likes",
            "private",
            "downloads",
            "tags",
            "pipeline_tag",
            "library_name",
            "createdAt",
        ];
        let card = ask.flag("cardData");
        all.retain(|key, _| short.contains(&key.as_str()) || (card && key == "cardData"));
    }
    all.into()
}
