//! `hubgate preseed`: asks a running gateway for a whole repo, and watches until it is there.
//!
//! The work is the gateway's: this may be interrupted, and asked again it watches the same job. A gateway that does
//! not answer for a moment, as when a replica is replaced, is asked again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Done, Failure, RepoAtRevision,
    references::write_references,
    remote::{Remote, RemoteArgs},
    runtime,
};
use crate::{config::Sources, gateway::References, policy::Selection};

/// How often the job is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a line says how far it is, where there is no terminal.
const MENTION_EVERY: Duration = Duration::from_secs(15);

/// How long a gateway may not answer before watching is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many files that failed are named.
const NAMED: usize = 20;

#[derive(Debug, Args)]
pub(super) struct PreseedArgs {
    /// org/name, datasets/org/name or spaces/org/name, maybe with @revision; without one, @main.
    #[arg(value_name = "REPO[@REV]")]
    repo: RepoAtRevision,
    /// Only files that match: *.safetensors, onnx/. May be given again.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No files that match. May be given again.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// From -100 to 100; higher goes first.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: i32,
    /// Asks and does not wait for the end.
    #[arg(long)]
    no_wait: bool,
    /// Writes the job as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What of a job is told here.
#[derive(Deserialize)]
struct Job {
    id: String,
    state: String,
    attempt: u32,
    reason: Option<String>,
    commit: Option<String>,
    licence: Option<String>,
    rule: Option<String>,
    files_total: usize,
    files_done: usize,
    bytes_total: u64,
    bytes_done: u64,
    bytes_fetched: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
    files: Vec<File>,
    references: References,
}

#[derive(Deserialize)]
struct File {
    path: String,
    state: String,
    reason: Option<String>,
}

/// Exit code 1 if it failed or was refused or cancelled.
pub(super) fn run(sources: &Sources, args: &PreseedArgs) -> Done {
    Selection::new(args.include.clone(), args.exclude.clone()).map_err(|error| Failure::Setup(format!("--{error}")))?;
    let remote = args.remote.required(sources)?;
    runtime()?.block_on(async {
        let name = format!("{}@{}", args.repo.repo, args.repo.revision);
        let wish = json!({
            "repo": args.repo.repo.id(),
            "kind": args.repo.repo.kind(),
            "revision": args.repo.revision,
            "include": args.include,
            "exclude": args.exclude,
            "priority": args.priority,
        });
        let mut answer = remote.ask(Method::POST, "/preseed", Some(&wish)).await?;
        if !args.no_wait {
            answer = watch(&remote, &name, answer).await?;
        }
        let job = parsed(&answer)?;
        let told = if args.json { writeln!(io::stdout(), "{answer:#}") } else { tell(&name, &job) };
        told.map_err(|error| Failure::Failed(error.into()))?;
        if matches!(job.state.as_str(), "failed" | "cancelled") { Err(Failure::Said) } else { Ok(()) }
    })
}

fn parsed(answer: &Value) -> Result<Job, Failure> {
    Job::deserialize(answer).map_err(|error| Failure::Failed(anyhow::anyhow!("the answer is no job: {error}")))
}

/// Looks at the job until it is over.
async fn watch(remote: &Remote, name: &str, mut answer: Value) -> Result<Value, Failure> {
    let show = Show::new(name);
    let mut answered = Instant::now();
    let path = format!("/preseed/{}", parsed(&answer)?.id);
    loop {
        let job = parsed(&answer)?;
        show.on(&job);
        if matches!(job.state.as_str(), "done" | "failed" | "cancelled") {
            show.done();
            return Ok(answer);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match remote.ask(Method::GET, &path, None).await {
            Ok(newer) => (answer, answered) = (newer, Instant::now()),
            Err(error) if answered.elapsed() >= PATIENCE => {
                show.done();
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

/// Progress on standard error: a bar on a terminal, lines elsewhere.
struct Show {
    name: String,
    bar: Option<ProgressBar>,
    /// State and attempt that were told last, and when.
    told: std::cell::RefCell<(String, u32, Instant)>,
}

impl Show {
    fn new(name: &str) -> Self {
        let template = "{msg} {wide_bar} {bytes}/{total_bytes} {prefix}";
        let style = ProgressStyle::with_template(template).ok().filter(|_| io::stderr().is_terminal());
        let bar = style.map(|style| ProgressBar::new(0).with_style(style));
        Self { name: name.to_owned(), bar, told: (String::new(), 0, Instant::now()).into() }
    }

    fn on(&self, job: &Job) {
        if let Some(bar) = &self.bar {
            bar.set_length(job.bytes_total);
            bar.set_position(job.bytes_done);
            bar.set_message(format!("{} {}/{} files", job.state, job.files_done, job.files_total));
            bar.set_prefix(pace(job));
            return;
        }
        let mut told = self.told.borrow_mut();
        if (told.0.as_str(), told.1) == (&job.state, job.attempt) && told.2.elapsed() < MENTION_EVERY {
            return;
        }
        *told = (job.state.clone(), job.attempt, Instant::now());
        let files = format!("{} of {} files", job.files_done, job.files_total);
        let bytes = format!("{} of {}", ByteSize::b(job.bytes_done), ByteSize::b(job.bytes_total));
        eprintln!("{}: {}, {files}, {bytes} {}", self.name, job.state, pace(job));
    }

    fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn pace(job: &Job) -> String {
    let left = job.seconds_left.map(|seconds| humantime::format_duration(Duration::from_secs(seconds)));
    match left {
        Some(left) if job.state == "running" => format!("{}/s, {left} left", ByteSize::b(job.bytes_per_second)),
        _ => String::new(),
    }
}

/// What became of it, and what else it names.
fn tell(name: &str, job: &Job) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let commit = job.commit.as_deref().map(|commit| format!(" {}", &commit[..commit.len().min(12)]));
    write!(out, "{name}{}: {}", commit.unwrap_or_default(), job.state)?;
    match &job.reason {
        Some(reason) => writeln!(out, ": {reason}")?,
        None => {
            let (files, bytes) = (job.files_total, ByteSize::b(job.bytes_total));
            writeln!(out, ", {files} files ({bytes}), {} of it fetched now", ByteSize::b(job.bytes_fetched))?;
        }
    }
    writeln!(out, "  job {}", job.id)?;
    if let (Some(licence), Some(rule)) = (&job.licence, &job.rule) {
        writeln!(out, "  licence {licence}, rule {rule}")?;
    }
    let failed = job.files.iter().filter(|file| matches!(file.state.as_str(), "failed" | "refused"));
    for file in failed.take(NAMED) {
        writeln!(out, "  {} {}: {}", file.state, file.path, file.reason.as_deref().unwrap_or("no reason given"))?;
    }
    write_references(&mut out, &job.references)?;
    out.flush()
}
