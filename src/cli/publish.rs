//! `hubgate publish`: plain copies for workloads that read the bucket themselves, made and removed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{Done, Failure, RepoAtRevision, Wrapped, with_core};
use crate::{
    app::Core,
    config::Loaded,
    hooks::Again,
    hub::{Repo, Revision},
    publish::Outcome,
};

/// How long another publisher is waited for: longer than one that has died keeps others out.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// org/name, datasets/org/name or spaces/org/name, maybe with @revision; without any, all of `publish.repos`, and
    /// what is published is asked of policy again.
    #[arg(value_name = "REPO[@REV]", conflicts_with = "unpublish")]
    repos: Vec<RepoAtRevision>,
    /// Removes the copies of this repo instead, their marker first; may be given several times.
    #[arg(long, value_name = "REPO")]
    unpublish: Vec<Repo>,
    /// Writes JSON, one object for each repo.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    repo: &'a Repo,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a Revision>,
    #[serde(flatten)]
    outcome: Option<&'a Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Exit code 1 where any repo is not published as asked.
pub(super) fn run(loaded: &Loaded, args: &PublishArgs) -> Done {
    if loaded.config.publish.place().ok().flatten().is_none() {
        return Err(Failure::Setup("publish.prefix is not set: name where the copies should lie".into()));
    }
    with_core(loaded, async |core: Arc<Core>| {
        let mut failed = false;
        for repo in &args.unpublish {
            failed |= !unpublish(&core, repo, args.json).await?;
        }
        let mut repos = args.repos.clone();
        if repos.is_empty() && args.unpublish.is_empty() {
            let wanted = core.publisher.wanted().iter();
            repos.extend(
                wanted.map(|wanted| RepoAtRevision { repo: wanted.repo.clone(), revision: wanted.revision.clone() }),
            );
            if repos.is_empty() {
                eprintln!("hubgate: publish.repos is empty: name the repos to publish there, or on the command line");
            }
        }
        core.admin.check_read().map_err(Wrapped)?;
        for RepoAtRevision { repo, revision } in &repos {
            failed |= !publish(&core, repo, revision, args.json).await?;
        }
        if args.repos.is_empty() && args.unpublish.is_empty() {
            let done = core.publisher.reconcile().await.map_err(|error| Failure::Failed(error.into()))?;
            for line in &done.lines {
                eprintln!("hubgate: {line}");
            }
            failed |= done.failed > 0;
            for line in core.publisher.unnamed().await.map_err(|error| Failure::Failed(error.into()))? {
                eprintln!("hubgate: {line}");
            }
        }
        if failed { Err(Failure::Said) } else { Ok(()) }
    })
}

async fn publish(core: &Core, repo: &Repo, revision: &Revision, json: bool) -> Result<bool, Failure> {
    let begun = Instant::now();
    let mut published = core.publisher.publish(repo, revision, Again::Now).await;
    while matches!(published, Ok(Outcome::Busy)) && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The hook has had its word by now.
        published = core.publisher.publish(repo, revision, Again::Later).await;
    }
    let is_fine = matches!(published, Ok(Outcome::Published { .. } | Outcome::Unchanged { .. }));
    let error = published.as_ref().err().map(ToString::to_string);
    let revision_of = Some(revision);
    if json {
        print(&Line { repo, revision: revision_of, outcome: published.as_ref().ok(), removed: None, error })?;
        return Ok(is_fine);
    }
    match &published {
        Ok(Outcome::Published { commit, copied, kept, removed, bytes }) => println!(
            "{repo}@{revision}: published {commit}: {copied} files copied, {kept} unchanged, {removed} removed, {bytes} bytes"
        ),
        Ok(Outcome::Unchanged { commit }) => println!("{repo}@{revision}: {commit} is published already"),
        Ok(Outcome::Incomplete { missing }) => {
            println!("{repo}@{revision}: not published: not stored yet: {missing}; fetch it first");
        }
        Ok(Outcome::HookFailed { why }) => println!("{repo}@{revision}: not published: {why}"),
        Ok(Outcome::Busy) => println!("{repo}@{revision}: not published: another publisher is at work on it"),
        Err(error) => println!("{repo}@{revision}: not published: {error}"),
    }
    Ok(is_fine)
}

async fn unpublish(core: &Core, repo: &Repo, json: bool) -> Result<bool, Failure> {
    let removed = core.publisher.unpublish(repo, "asked for at the command line").await;
    let is_fine = removed.is_ok();
    if json {
        let error = removed.as_ref().err().map(ToString::to_string);
        print(&Line { repo, revision: None, outcome: None, removed: removed.ok(), error })?;
        return Ok(is_fine);
    }
    match removed {
        Ok(removed) => println!("{repo}: unpublished: {removed} files removed"),
        Err(error) => println!("{repo}: not unpublished: {error}"),
    }
    if core.publisher.wanted().iter().any(|wanted| wanted.repo.same_name(repo)) {
        eprintln!("hubgate: publish.repos names {repo}: a running gateway will publish it again");
    }
    Ok(is_fine)
}

fn print(line: &Line) -> Done {
    let text = serde_json::to_string(line).context("the answer as JSON").map_err(Failure::Failed)?;
    println!("{text}");
    Ok(())
}
