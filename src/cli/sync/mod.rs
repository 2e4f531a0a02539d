//! `hubgate sync`: brings whole repos in, as the plain mirror did, through policy, proxy, verification and manifest.
//!
//! Works beside a running gateway on the same store, and beside another sync. Interrupted it leaves whole files or
//! none; the next run fetches what is missing. One repo that is refused or fails leaves the others alone.

mod outcome;
mod show;
mod wanted;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Done, Failure, RepoAtRevision, quiet_logs, runtime};
use crate::{
    app::{Core, stop_on_signals},
    config::Loaded,
    gateway::{Asker, Plan},
    manifest::{Filter, Format, export},
};
use outcome::{Outcome, Run};
use show::Show;
use wanted::{Wanted, wanted};

/// Repos that are looked up at a time.
const PLANS_AT_ONCE: usize = 4;

/// What transfers under way get to end once the command was told to stop; they are begun again by the next run.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Says what would be fetched, what is here and what is refused, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// A repo: org/name, datasets/org/name or spaces/org/name, maybe with @revision; without one, @main. May be
    /// given again. Without any, `HF_REPOS` counts, and without that the policy's `[[mirror]]` list.
    #[arg(long, value_name = "REPO[@REV]")]
    repo: Vec<RepoAtRevision>,
    /// Only files that match: *.safetensors, onnx/. May be given again. Stands in for the list's own include and
    /// exclude.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files that match. May be given again.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Files that are fetched at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Where the manifest is written as CSV.
    #[arg(long, value_name = "PATH", default_value = "data/manifest.csv")]
    manifest: PathBuf,
    /// Writes the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if anything was refused or failed.
pub(super) fn run(loaded: &Loaded, args: &SyncArgs) -> Done {
    let _logs = quiet_logs(loaded, "warn")?;
    runtime()?.block_on(async {
        let core = if args.dry_run { Core::build_dry_run(loaded).await? } else { Core::build(loaded).await? };
        let wanted = wanted(args, &loaded.lists, &core.policy.current())?;
        core.open_store_to_fill().await?;
        let stop = CancellationToken::new();
        let signals = tokio::spawn(stop_on_signals(stop.clone()).map_err(super::Wrapped)?);
        // What the policy refuses from now on is not brought in any more.
        let watch = tokio::spawn(core.policy.clone().watch(stop.clone()));
        let follow = tokio::spawn(core.admin.clone().follow(stop.clone()));
        // Dropped when told to stop, which gives up the transfers under way.
        let outcome = stop.run_until_cancelled(sync(loaded, &core, args, &wanted)).await;
        core.stop(Instant::now() + STOP_PATIENCE).await;
        signals.abort();
        watch.abort();
        follow.abort();
        outcome.unwrap_or_else(|| {
            eprintln!("hubgate: interrupted; what is stored stays, and the next run fetches the rest");
            Err(Failure::Said)
        })
    })
}

async fn sync(loaded: &Loaded, core: &Core, args: &SyncArgs, wanted: &[Wanted]) -> Done {
    let asker = Asker::job(if args.dry_run { "sync --dry-run" } else { "sync" });
    let plans: Vec<Result<Plan, crate::gateway::Error>> = stream::iter(wanted)
        .map(|Wanted { repo, revision, selection }| core.gateway.plan(&asker, repo, revision, selection))
        .buffered(PLANS_AT_ONCE)
        .collect()
        .await;
    let mut run = Run::new(args.dry_run);
    if args.dry_run {
        for (wanted, plan) in wanted.iter().zip(&plans) {
            let mut outcome = Outcome::planned(wanted, plan);
            if let Ok(plan) = plan {
                outcome.refers_to(core.gateway.references(&asker, plan).await);
            }
            run.repos.push(outcome);
        }
        return tell(&run, args);
    }
    let show = Show::of(plans.iter().flatten());
    let jobs = usize::from(args.jobs).min(loaded.config.fill.per_client).max(1);
    for (wanted, plan) in wanted.iter().zip(&plans) {
        let mut outcome = Outcome::planned(wanted, plan);
        if let Ok(plan @ Plan { verdict: Ok(_), .. }) = plan {
            let name = wanted.to_string();
            let fetched = core.gateway.fetch(&asker, plan, jobs, &|file, what| show.on(&name, file, what)).await;
            let completed = fetched.as_ref().ok().and_then(|fetched| fetched.completed.clone());
            outcome.fetched(fetched);
            if let Some(commit) = completed {
                // The hook has its say here, too, where one is set.
                outcome.published(core.publisher.completed(&commit.repo, &commit.revision, commit.commit).await);
            }
        }
        run.repos.push(outcome);
    }
    show.done();
    if core.publisher.has_place() {
        // Those of publish.repos that were whole before, and those that policy refuses by now.
        match core.publisher.reconcile().await {
            Ok(done) if done.failed > 0 => run.problems.extend(done.lines),
            Ok(done) => run.notes.extend(done.lines),
            Err(error) => run.problems.push(format!("publishing: {error}")),
        }
    }
    match write_manifest(core, &args.manifest).await {
        Ok(files) => run.manifest = Some((args.manifest.clone(), files)),
        Err(error) => run.problems.push(format!("{error:#}")),
    }
    tell(&run, args)
}

fn tell(run: &Run, args: &SyncArgs) -> Done {
    let mut out = io::stdout().lock();
    let told = if args.json { run.write_json(&mut out) } else { run.write_text(&mut out) };
    told.context("the result").map_err(Failure::Failed)?;
    for problem in &run.problems {
        eprintln!("hubgate: {problem}");
    }
    if run.is_fine() { Ok(()) } else { Err(Failure::Said) }
}

/// Writes what is stored as CSV, in one go: whoever reads it finds the old one or the new one. Returns how many
/// files it names.
async fn write_manifest(core: &Core, path: &Path) -> anyhow::Result<u64> {
    let named = || path.display().to_string();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(named)?;
    let file = tempfile::Builder::new()
        .prefix(".manifest-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(named)?;
    let mut out = io::BufWriter::new(file.as_file());
    let exported = export(&*core.store, &Filter::default(), Format::Csv, &mut out).await.with_context(named)?;
    out.into_inner().map_err(io::IntoInnerError::into_error).with_context(named)?;
    file.as_file().sync_all().with_context(named)?;
    file.persist(path).map_err(|error| error.error).with_context(named)?;
    if !exported.is_whole() {
        anyhow::bail!("{}: the log has {} faults; `hubgate verify` says more", named(), exported.fault_count);
    }
    Ok(exported.records)
}
