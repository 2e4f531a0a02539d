//! The part that works: takes up jobs that wait, a few at a time, and runs each to its end.
//!
//! Every look at the store finds new jobs, those whose runner has gone silent, and what was said about those that run
//! here. Two replicas that take up one job at once notice within a few signs of life; the one that started later
//! leaves it to the other.

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Jobs, Known, Result, State,
    ledger::{Job, Run, RunState},
    progress::Live,
    request::JobId,
};
use crate::gateway::{self, Asker, Fetched, Plan};

/// How often an origin that is away is asked again within one run, and the wait before the first time.
const MAX_ROUNDS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// Tries to write a run's last word, and the wait between them.
const LAST_WORDS: u32 = 5;
const LAST_WORD_WAIT: Duration = Duration::from_secs(2);

/// How often it is looked whether the process may begin.
const BEGIN_LOOK: Duration = Duration::from_millis(50);

/// How often trouble with the store is said aloud.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// A job that runs in this process.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) attempt: u32,
    pub(super) live: Live,
    /// Why it is to stop before its end.
    end: OnceLock<End>,
    stopped: CancellationToken,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed(String),
    Cancelled,
    /// Left to another process, or to this one's successor.
    Released,
}

impl Running {
    fn new(attempt: u32) -> Self {
        let (live, end) = (Live::default(), OnceLock::new());
        Self { attempt, live, end, stopped: CancellationToken::new() }
    }

    /// Ends it at once; what is stored stays.
    pub(super) fn stop(&self, end: End) {
        // The first reason counts.
        let _ = self.end.set(end);
        self.stopped.cancel();
    }
}

impl Jobs {
    /// Takes up jobs and runs them until `stop`; then gives them back. Nothing is taken up before `may_begin`.
    pub async fn run(self, may_begin: impl Fn() -> bool, stop: CancellationToken) {
        while !may_begin() {
            if stop.run_until_cancelled(time::sleep(BEGIN_LOOK)).await.is_none() {
                return;
            }
        }
        let tasks = TaskTracker::new();
        let mut said: Option<Instant> = None;
        loop {
            if let Err(error) = self.look(&tasks, &stop).await
                && said.is_none_or(|said| said.elapsed() >= SAY_EVERY)
            {
                tracing::warn!(%error, "jobs could not be looked at");
                said = Some(Instant::now());
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.wake.notified() => {}
                () = time::sleep(self.0.config.look()) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// One look at all jobs.
    async fn look(&self, tasks: &TaskTracker, stop: &CancellationToken) -> Result<()> {
        let jobs = self.all().await?;
        let open: Vec<Job> =
            jobs.into_iter().filter_map(|known| if let Known::Open(job) = known { Some(*job) } else { None }).collect();
        {
            let mut watch = self.watch();
            watch.begin();
            for job in &open {
                watch.see(&job.id, None, job.attempt, 0);
                for (writer, run) in job.claims() {
                    watch.see(&job.id, Some(writer), run.attempt, run.beat);
                }
            }
            watch.end();
        }
        for job in &open {
            self.heed(job);
        }
        let mut waiting: Vec<Job> = open.into_iter().filter(|job| self.is_to_be_taken(job)).collect();
        waiting.sort_by(|a, b| {
            let (a, b) = (&a.asked, &b.asked);
            b.priority.cmp(&a.priority).then(a.asked_at.cmp(&b.asked_at))
        });
        for job in waiting {
            if self.running().len() >= self.0.config.concurrency {
                break;
            }
            let running = Arc::new(Running::new(job.attempt));
            self.running().insert(job.id.clone(), running.clone());
            let (jobs, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move { jobs.run_one(&job, &running, &stop).await });
        }
        Ok(())
    }

    /// What was said elsewhere of a job that runs here.
    fn heed(&self, job: &Job) {
        let Some(running) = self.running().get(&job.id).cloned() else { return };
        if job.attempt > running.attempt || job.cancelled {
            return running.stop(End::Cancelled);
        }
        let (watch, takeover) = (self.watch(), self.0.config.takeover);
        let earlier =
            job.claims().find(|(other, _)| *other < self.0.writer && watch.is_alive(&job.id, other, takeover));
        if let Some((other, _)) = earlier {
            tracing::info!(job = %job.id, %other, "another replica runs this job; leaving it to that one");
            running.stop(End::Released);
        }
    }

    /// Whether this process should begin a job now, places permitting.
    fn is_to_be_taken(&self, job: &Job) -> bool {
        if self.running().contains_key(&job.id) || self.state(job) != State::Queued {
            return false;
        }
        // What was read may be older than an end that was written here since.
        if self.ended().get(&job.id) == Some(&job.attempt) {
            return false;
        }
        // Where it was asked for it is begun at once; elsewhere only if nobody does.
        let ours = self.0.ours.lock().unwrap_or_else(PoisonError::into_inner).contains(&job.id);
        ours || self.watch().unchanged(&job.id, None) >= self.0.config.look() * 2
    }

    /// Runs a job to its end, with signs of life.
    async fn run_one(&self, job: &Job, running: &Running, stop: &CancellationToken) {
        let id = &job.id;
        tracing::info!(job = %id, repo = %job.asked.request.repo(), attempt = job.attempt, "job begun");
        let mut run = Run::begun(job.attempt);
        // A process that runs the same job again counts on, so that the change is seen.
        if let Some((_, before)) = job.runs.iter().find(|(writer, _)| *writer == self.0.writer) {
            run.beat = before.beat + 1;
        }
        let over = CancellationToken::new();
        // Boxed, or the task would not be seen to be `Send`.
        let working: BoxFuture<'_, End> = Box::pin(async {
            let end = tokio::select! {
                biased;
                () = running.stopped.cancelled() => running.end.get().cloned().unwrap_or(End::Released),
                () = stop.cancelled() => End::Released,
                end = self.work(job, &running.live) => end,
            };
            over.cancel();
            end
        });
        let beating: BoxFuture<'_, ()> = Box::pin(async {
            loop {
                run.progress = running.live.picture();
                if let Err(error) = self.keep(id, &mut run).await {
                    tracing::warn!(job = %id, %error, "a job's sign of life could not be written");
                }
                if over.run_until_cancelled(time::sleep(self.0.config.beat())).await.is_none() {
                    return;
                }
            }
        });
        let (end, ()) = tokio::join!(working, beating);
        run.progress = running.live.picture();
        (run.state, run.reason) = match end {
            End::Done => (RunState::Done, None),
            End::Failed(reason) => (RunState::Failed, Some(reason)),
            End::Cancelled => (RunState::Cancelled, None),
            End::Released => (RunState::Released, None),
        };
        tracing::info!(job = %id, state = ?run.state, reason = run.reason, "job ended");
        if run.state != RunState::Released {
            self.ended().insert(id.clone(), run.attempt);
        }
        for left in (0..LAST_WORDS).rev() {
            match self.keep(id, &mut run).await {
                Ok(()) => break,
                Err(error) if left == 0 => {
                    tracing::error!(job = %id, %error, "a job's end could not be written; another run will find it");
                }
                Err(_) => time::sleep(LAST_WORD_WAIT).await,
            }
        }
        self.0.ours.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.running().remove(id);
        self.0.wake.notify_one();
    }

    async fn keep(&self, id: &JobId, run: &mut Run) -> Result<()> {
        run.beat += 1;
        run.updated_at = time_now();
        Ok(self.0.ledger.keep(id, &self.0.writer, run).await?)
    }

    /// Brings in what is missing. An origin that is away is waited for a little.
    async fn work(&self, job: &Job, live: &Live) -> End {
        let asker = Asker::job(&format!("preseed {}", job.id));
        let mut wait = FIRST_WAIT;
        for round in 1.. {
            let trouble = match self.attempt(&asker, job, live).await {
                Ok(()) => return End::Done,
                Err(trouble) if trouble.passes && round < MAX_ROUNDS => trouble,
                Err(trouble) => return End::Failed(trouble.reason),
            };
            tracing::warn!(job = %job.id, reason = trouble.reason, ?wait, "the job waits and tries again");
            time::sleep(wait).await;
            wait *= 3;
        }
        End::Released
    }

    async fn attempt(&self, asker: &Asker, job: &Job, live: &Live) -> std::result::Result<(), Trouble> {
        let (gateway, request) = (&self.0.gateway, &job.asked.request);
        let plan = gateway.plan(asker, request.repo(), request.revision(), request.selection()).await?;
        let planned = match &plan {
            Plan { verdict: Ok(planned), .. } => planned,
            Plan { verdict: Err(refusal), .. } => return Err(Trouble::lasting(refusal.text.clone())),
        };
        live.planned(planned);
        let watch = |file: &gateway::PlannedFile, what: gateway::FileProgress| live.on(file, &what);
        let fetching = gateway.fetch(asker, &plan, self.0.config.files.max(1), &watch);
        let referring = async { live.refers_to(gateway.references(asker, &plan).await) };
        let (fetched, ()) = tokio::join!(fetching, referring);
        let fetched = fetched?;
        if !fetched.failed.is_empty() {
            return Err(Trouble::of(&fetched));
        }
        let refused = planned.sums().refused.files;
        if refused > 0 {
            let name = |file: &&gateway::PlannedFile| matches!(file.state, gateway::FileState::Refused(_));
            let first = planned.files.iter().find(name).map(|file| (&file.path, &file.state));
            let first = match first {
                Some((path, gateway::FileState::Refused(why))) => format!("{path}: {why}"),
                _ => String::new(),
            };
            return Err(Trouble::lasting(format!("{refused} of the files are refused, such as {first}")));
        }
        if planned.stale {
            let reason = "the origin could not be asked, or has the repo no more; the last commit known is here";
            return Err(Trouble { reason: reason.into(), passes: true });
        }
        Ok(())
    }
}

/// Why not all of it came.
struct Trouble {
    reason: String,
    /// Whether trying again soon may help.
    passes: bool,
}

impl Trouble {
    fn lasting(reason: String) -> Self {
        Self { reason, passes: false }
    }

    /// Policy's word, where it is that; else the first file's.
    fn of(fetched: &Fetched) -> Self {
        let denied = fetched.failed.iter().find(|(_, error)| matches!(error, gateway::Error::Denied(_)));
        let passes = fetched.failed.iter().all(|(_, error)| passes(error));
        let reason = match (denied, fetched.failed.first()) {
            (Some((_, error)), _) => error.to_string(),
            (None, Some((path, error))) => format!("{} files failed, such as {path}: {error}", fetched.failed.len()),
            (None, None) => String::new(),
        };
        Self { reason, passes }
    }
}

impl From<gateway::Error> for Trouble {
    fn from(error: gateway::Error) -> Self {
        Self { reason: error.to_string(), passes: passes(&error) }
    }
}

fn passes(error: &gateway::Error) -> bool {
    match error {
        gateway::Error::Upstream(cause) => cause.is_outage(),
        gateway::Error::Busy { .. } => true,
        _ => false,
    }
}

fn time_now() -> ::time::OffsetDateTime {
    ::time::OffsetDateTime::now_utc()
}
