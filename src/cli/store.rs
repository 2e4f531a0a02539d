//! `hubgate verify` and `hubgate snapshot`: what is in the store, proven, and learned anew.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Done, Failure, RepoAtRevision, Wrapped, with_core, with_core_on_a_store};
use crate::{
    admin::audit_chain,
    app::Core,
    config::Loaded,
    gateway::{Asker, StoredSnapshots},
    manifest::verify::{self as verification, Options, Phase, Progress, State},
};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Completes what a crash left; never touches a blob or a record.
    #[arg(long)]
    repair: bool,
    /// Writes the report as JSON.
    #[arg(long)]
    json: bool,
    /// Blobs hashed at a time; without it, one for each processor.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Hashes only N blobs, taken at random, and looks at presence and size of the others.
    #[arg(long, value_name = "N", conflicts_with = "state")]
    sample: Option<std::num::NonZeroUsize>,
    /// Keeps in FILE which blobs were found whole, and goes on from there after an interruption. Removed at the end.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Learns a commit's facts and tree anew from the origin, and replaces what is stored of them.
    Refresh {
        /// org/name, datasets/org/name or spaces/org/name, maybe with @revision; without one, @main.
        #[arg(value_name = "REPO[@REV]")]
        repo: RepoAtRevision,
    },
}

pub(super) fn verify(loaded: &Loaded, args: &VerifyArgs) -> Done {
    let state = args.state.as_deref().map(|path| State::open(path, &loaded.config.store.to_string()));
    let state = state.transpose().map_err(Failure::Setup)?.map(Arc::new);
    if let Some(known) = state.as_deref().map(State::known).filter(|known| *known > 0) {
        eprintln!("hubgate: {known} blobs were found whole before the interruption");
    }
    with_core_on_a_store(loaded, args.repair, async |core: Arc<Core>| {
        let bar = progress_bar();
        let mut options = Options {
            repair: args.repair,
            progress: bar.clone().map(shown),
            snapshots: Some(Arc::new(StoredSnapshots)),
            sample: args.sample.map(std::num::NonZero::get),
            state: state.clone(),
            ..Options::default()
        };
        if let Some(jobs) = args.jobs {
            options.jobs = jobs;
        }
        let report = verification::verify(core.store.clone(), options).await;
        let mut report = report.map_err(|error| Failure::Failed(error.into()))?;
        audit_chain::verify(&core.store, &mut report).await.map_err(Wrapped)?;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if let Some(state) = state {
            state.finish().context("removing the state").map_err(Failure::Failed)?;
        }
        let mut out = io::stdout().lock();
        let written = if args.json { report.write_json(&mut out) } else { report.write_text(&mut out) };
        written.context("the report").map_err(Failure::Failed)?;
        if report.is_fine() { Ok(()) } else { Err(Failure::Said) }
    })
}

/// A bar where somebody watches.
fn progress_bar() -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("{msg:>9} {wide_bar} {pos}/{len}").ok()?;
    io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style))
}

fn shown(bar: ProgressBar) -> Arc<dyn Fn(Progress) + Send + Sync> {
    Arc::new(move |progress| {
        bar.set_message(match progress.phase {
            Phase::Index => "index",
            Phase::Log => "log",
            Phase::Snapshots => "snapshots",
            Phase::Blobs => "blobs",
            Phase::Findings => "findings",
        });
        let (done, of) = match progress.of_bytes {
            Some(of) => (progress.bytes, of),
            None => (progress.done, progress.of.unwrap_or(progress.done)),
        };
        bar.set_length(of);
        bar.set_position(done);
    })
}

pub(super) fn snapshot(loaded: &Loaded, command: &SnapshotCommand) -> Done {
    let SnapshotCommand::Refresh { repo: RepoAtRevision { repo, revision } } = command;
    with_core(loaded, async |core: Arc<Core>| {
        let asker = Asker::operator("snapshot refresh");
        let refreshed = core.gateway.refresh_snapshot(&asker, repo, revision).await;
        let (resolved, files) = refreshed.map_err(|error| Failure::Failed(error.into()))?;
        println!("{}@{}: learned anew, {files} files", resolved.repo, resolved.commit);
        Ok(())
    })
}
