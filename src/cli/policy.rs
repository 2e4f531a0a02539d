//! `hubgate policy`: is it well formed, and what would a repo get?

use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{Done, Failure, RepoAtRevision, with_core_and_logs};
use crate::{
    app::Core,
    config::Loaded,
    gateway::Asker,
    policy::{self, PolicyHandle, Severity, Verdict, today},
};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Reads the policy folder and says what is wrong with it, or probably not meant.
    Check(CheckArgs),
    /// Says what a repo would get, and why: from what is stored, else by asking the origin for its facts.
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// org/name, datasets/org/name or spaces/org/name, maybe with @revision; without one, @main.
    #[arg(value_name = "REPO[@REV]")]
    repo: RepoAtRevision,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(loaded: &Loaded, command: &PolicyCommand) -> Done {
    match command {
        PolicyCommand::Check(args) => check(loaded, args),
        PolicyCommand::Explain(args) => explain(loaded, args),
    }
}

fn check(loaded: &Loaded, args: &CheckArgs) -> Done {
    let dir = &loaded.config.policy.dir;
    let policy = PolicyHandle::open_locked(dir, loaded.config.policy.lock.clone(), loaded.lists.clone())?.current();
    let findings = policy::check(&policy, today(), None);
    if args.json {
        print_json(&findings)?;
    } else {
        for finding in &findings {
            println!("{finding}");
        }
        println!("{}: {} allow rules, sha256 {}", dir.display(), policy.rules().len(), policy.digest());
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) { Err(Failure::Said) } else { Ok(()) }
}

/// Exit code 1 where the repo would not be served.
fn explain(loaded: &Loaded, args: &ExplainArgs) -> Done {
    let RepoAtRevision { repo, revision } = args.repo.clone();
    // What the gateway can't learn is a part of the answer.
    with_core_and_logs(loaded, "warn,hubgate::gateway=off", async |core: Arc<Core>| {
        let explanation = core.gateway.explain(&Asker::operator("policy explain"), &repo, &revision).await;
        if args.json {
            print_json(&explanation)?;
        } else {
            print!("{explanation}");
        }
        if explanation.verdict == Verdict::Allowed { Ok(()) } else { Err(Failure::Said) }
    })
}

fn print_json(value: &impl serde::Serialize) -> Done {
    let text = serde_json::to_string_pretty(value).context("the answer as JSON").map_err(Failure::Failed)?;
    println!("{text}");
    Ok(())
}
