//! `hubgate gc`: what the store no longer needs, said or removed.

use std::{io, sync::Arc};

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

use super::{Done, Failure, Wrapped, with_core_on_a_store};
use crate::{
    app::Core,
    config::Loaded,
    housekeeping::{
        Evicted,
        gc::{self, Collected},
    },
    jobs::Expired,
};

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Removes it. In a directory, no other hubgate may use the store meanwhile.
    #[arg(long)]
    apply: bool,
    /// Also evicts what was served longest ago until `store.max_size` is kept.
    #[arg(long)]
    evict: bool,
    /// Writes one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    collected: Collected,
    expired_jobs: Vec<Expired>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evicted: Option<Evicted>,
}

/// Exit code 1 where `store.max_size` is not kept in the end.
pub(super) fn run(loaded: &Loaded, args: &GcArgs) -> Done {
    if args.evict && loaded.config.store.max_size.is_none() {
        return Err(Failure::Setup(
            "--evict: store.max_size is not set: say how much may be stored, such as 2TB".into(),
        ));
    }
    // Without --apply too it writes: what it saw, for the next look.
    with_core_on_a_store(loaded, true, async |core: Arc<Core>| {
        if args.apply {
            core.store.take_alone().await.map_err(Wrapped)?;
        }
        // Ages decide what goes, so the clock here must be the store's.
        core.open_store().await?;
        let collected = gc::run(&*core.store, args.apply).await.map_err(Wrapped)?;
        let mut report = Report { collected, expired_jobs: Vec::new(), evicted: None };
        let gone_on = go_on(&core, args, &mut report).await;
        // What was removed is said, whatever failed after it.
        let mut out = io::stdout().lock();
        let written = if args.json { write_json(&report, &mut out) } else { write_text(&report, &mut out) };
        written.context("the report").map_err(Failure::Failed)?;
        gone_on?;
        if report.evicted.is_none_or(|evicted| evicted.fits) { Ok(()) } else { Err(Failure::Said) }
    })
}

/// What follows the blobs that nothing names.
async fn go_on(core: &Core, args: &GcArgs, report: &mut Report) -> Done {
    if let Some(evictor) = core.evictor.as_ref().filter(|_| args.evict) {
        report.evicted = Some(evictor.evict(args.apply).await.map_err(Wrapped)?);
    }
    Ok(core.jobs.expire(args.apply, &mut report.expired_jobs).await.map_err(Wrapped)?)
}

fn write_json(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    writeln!(out)
}

fn write_text(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let Collected { applied, blobs, bytes, spared, waiting, waiting_bytes, waiting_until, young, leftovers } =
        &report.collected;
    for blob in blobs {
        writeln!(out, "{}  {}  nothing names it; written {}", blob.sha256, blob.size, blob.written.date())?;
    }
    let went = if *applied { "removed" } else { "to be removed" };
    writeln!(out, "{} blobs that nothing names {went}: {bytes} bytes ({})", blobs.len(), ByteSize(*bytes))?;
    if *spared > 0 {
        writeln!(out, "{spared} more are being recorded just now and stay")?;
    }
    if let Some(until) = waiting_until {
        let until = until.replace_nanosecond(0).unwrap_or(*until);
        writeln!(out, "{waiting} more ({waiting_bytes} bytes) were not seen so an hour ago; look again after {until}")?;
    }
    if *young > 0 {
        writeln!(out, "{young} more are younger than seven days and stay")?;
    }
    writeln!(out, "{leftovers} leftovers of dead writers {went}")?;
    for job in &report.expired_jobs {
        let (repo, revision) = (job.request.repo(), job.request.revision());
        writeln!(out, "job {}  {repo}@{revision}  over since {}", job.id, job.ended.date())?;
    }
    writeln!(out, "{} jobs that have been over for seven days {went}", report.expired_jobs.len())?;
    if let Some(Evicted { max_size, stored, kept, unnamed, blobs, bytes, fits, .. }) = &report.evicted {
        for blob in blobs {
            for file in &blob.files {
                writeln!(out, "{file}  {}  last used {}", blob.size, blob.last_used.date())?;
            }
        }
        let went = if *applied { "evicted" } else { "to be evicted" };
        writeln!(
            out,
            "{} blobs {went}: {bytes} bytes ({}) of {stored} stored; store.max_size is {max_size}",
            blobs.len(),
            ByteSize(*bytes)
        )?;
        if !*fits {
            writeln!(
                out,
                "that is not enough: {kept} bytes are pinned, locked, mirrored or published, {unnamed} are of blobs that nothing \
                 names; raise store.max_size"
            )?;
        }
    }
    if !*applied {
        writeln!(out, "nothing was removed; --apply does it")?;
    }
    Ok(())
}
