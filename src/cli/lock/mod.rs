//! `hubgate lock`: writes down the commits that are approved, with the digest of every file, and shows what upstream has
//! since.
//!
//! The lock in force plays no part in what it sees: the newest is looked at as if nothing were locked. A lock file is
//! replaced whole, or left as it is; what is locked already moves only where `--update` says so.

mod show;

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{Done, Failure, quiet_logs, runtime};
use crate::{
    app::Core,
    config::Loaded,
    gateway::{Asker, Error, Lockable, ToBeLocked},
    hub::{ParseError, Repo, Revision},
    policy::{Denial, DenialKind, Lock, LockChange, Locked, PolicySet, today},
};
use show::{Outcome, Run, State};

/// Repos that are looked up at a time.
const REPOS_AT_ONCE: usize = 4;

#[derive(Debug, Args)]
pub(super) struct LockArgs {
    /// Shows what the Hub has now of what is locked, and what would be locked anew or no longer; changes nothing.
    /// Exit code 1 if anything differs. With REPO, of these only.
    #[arg(long, conflicts_with_all = ["update", "keep_going"])]
    diff: bool,
    /// Moves what is locked of one repo, or of one revision of it, to what the Hub has now, and shows what changes. May be
    /// given again.
    #[arg(long, value_name = "REPO[@REV]")]
    update: Vec<Target>,
    /// The lock file; else `policy.lock`, else models.lock.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Writes what can be locked even if something can't; the exit code is 1 all the same.
    #[arg(long)]
    keep_going: bool,
    /// Writes the result as JSON.
    #[arg(long)]
    json: bool,
    /// With --diff: only these.
    #[arg(value_name = "REPO[@REV]", requires = "diff")]
    repos: Vec<Target>,
}

/// `REPO[@REV]`; without a revision, all that are locked.
#[derive(Debug, Clone)]
struct Target {
    repo: Repo,
    revision: Option<Revision>,
}

impl FromStr for Target {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (repo, revision) = text.split_once('@').map_or((text, None), |(repo, revision)| (repo, Some(revision)));
        Ok(Self { repo: repo.parse()?, revision: revision.map(str::parse).transpose()? })
    }
}

impl Target {
    fn names(&self, entry: &Locked) -> bool {
        match &self.revision {
            Some(revision) => entry.is_of(&self.repo, revision),
            None => entry.repo.same_name(&self.repo),
        }
    }
}

/// Exit code 1 if anything can't be locked, or with `--diff` differs.
pub(super) fn run(loaded: &Loaded, args: &LockArgs) -> Done {
    let path = args.file.clone().or_else(|| loaded.config.policy.lock.clone());
    let path = path.unwrap_or_else(|| "models.lock".into());
    let before = Lock::read(&path)?;
    let targets = if args.diff { &args.repos } else { &args.update };
    if (args.diff || !targets.is_empty()) && before.is_none() {
        return Err(Failure::Setup(format!("{}: there is no such file; write it with `hubgate lock`", path.display())));
    }
    let before = before.unwrap_or_default();
    for target in targets {
        if !before.entries().iter().any(|entry| target.names(entry)) {
            let name = target.revision.as_ref().map_or_else(String::new, |revision| format!("@{revision}"));
            let problem = format!("{}{name} is not in {}", target.repo, path.display());
            return Err(Failure::Setup(format!("{problem}; `hubgate lock` adds what policy approves")));
        }
    }
    let mut loaded = loaded.clone();
    loaded.config.policy.lock = None;
    if args.diff || !targets.is_empty() {
        loaded.config.upstream.ref_ttl = Duration::ZERO;
    }
    // What can't be learned is a part of the answer.
    let _logs = quiet_logs(&loaded, "warn,hubgate::gateway=off")?;
    runtime()?.block_on(async {
        let core = if args.diff { Core::build_dry_run(&loaded).await? } else { Core::build(&loaded).await? };
        core.open_store_to_fill().await?;
        let work = Work { core: &core, loaded: &loaded, asker: Asker::job("lock"), before: &before };
        let outcomes = match (args.diff, targets.is_empty()) {
            (true, _) => work.diff(targets).await,
            (false, false) => work.update(targets).await,
            (false, true) => work.lock().await,
        };
        let outcome = match outcomes {
            Ok(outcomes) => end(&path, outcomes, args),
            Err(error) => Err(Failure::Failed(error.into())),
        };
        core.stop(Instant::now() + loaded.config.server.drain_timeout).await;
        outcome
    })
}

struct Work<'a> {
    core: &'a Core,
    loaded: &'a Loaded,
    asker: Asker,
    before: &'a Lock,
}

impl Work<'_> {
    /// What is locked stays, but for what no rule names or a deny rule does; what is approved and not locked yet is added.
    async fn lock(&self) -> Result<Vec<Outcome>, Error> {
        let policy = self.core.policy.current();
        let (mut outcomes, mut wanted) = (Vec::new(), Vec::new());
        for entry in self.before.entries() {
            match still_allowed(&policy, entry) {
                Ok(Some(kept)) => outcomes.push(Outcome::new(entry, State::Kept(Arc::new(kept)))),
                Err(denial) if keeps(&policy, entry, &denial) => {
                    outcomes.push(Outcome::new(entry, State::Held(entry.clone(), denial.to_string())));
                }
                Ok(None) => wanted.push(ToBeLocked {
                    repo: entry.repo.clone(),
                    revision: entry.revision.clone(),
                    is_listed: true,
                }),
                Err(denial) => outcomes.push(Outcome::new(entry, State::Dropped(denial.to_string()))),
            }
        }
        for found in self.to_be_locked().await? {
            let is_kept = |outcome: &Outcome| match &outcome.state {
                State::Kept(kept) | State::Held(kept, _) => kept.is_of(&found.repo, &found.revision),
                _ => false,
            };
            let is_it = |known: &ToBeLocked| known.repo == found.repo && known.revision == found.revision;
            if !outcomes.iter().any(is_kept) && !wanted.iter().any(is_it) {
                wanted.push(found);
            }
        }
        let added = stream::iter(wanted).map(|ToBeLocked { repo, revision, is_listed }| async move {
            let state = match self.lockable(&repo, &revision, false).await {
                Ok(lockable) => State::Locked(lockable),
                Err(error) if !is_listed && is_definite(&error) => return None,
                Err(error) => State::Failed(error.to_string(), None),
            };
            Some(Outcome { repo, revision, state })
        });
        let added: Vec<Option<Outcome>> = added.buffered(REPOS_AT_ONCE).collect().await;
        let added: Vec<Outcome> = added.into_iter().flatten().collect();
        // Of a repo that is wanted and refused, both would be told.
        outcomes.retain(|outcome| !added.iter().any(|added| added.is_of(outcome)));
        outcomes.extend(added);
        Ok(outcomes)
    }

    async fn update(&self, targets: &[Target]) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = Vec::new();
        for entry in self.before.entries() {
            let state = if targets.iter().any(|target| target.names(entry)) {
                match self.lockable(&entry.repo, &entry.revision, true).await {
                    Ok(lockable) => State::Moved(changes(entry, &lockable), lockable),
                    Err(error) => State::Failed(error.to_string(), Some(entry.clone())),
                }
            } else {
                State::Untouched(entry.clone())
            };
            outcomes.push(Outcome::new(entry, state));
        }
        Ok(outcomes)
    }

    async fn diff(&self, targets: &[Target]) -> Result<Vec<Outcome>, Error> {
        let policy = self.core.policy.current();
        let entries = self.before.entries().iter();
        let chosen = entries.filter(|entry| targets.is_empty() || targets.iter().any(|target| target.names(entry)));
        let outcomes = stream::iter(chosen).map(|entry| {
            let allowed = still_allowed(&policy, entry);
            let policy = &policy;
            async move {
                let state = match allowed {
                    Err(denial) if keeps(policy, entry, &denial) => State::Held(entry.clone(), denial.to_string()),
                    Err(denial) => State::Dropped(denial.to_string()),
                    Ok(_) => match self.core.gateway.lockable(&self.asker, &entry.repo, &entry.revision, true).await {
                        Ok(lockable) => State::Differs(changes(entry, &lockable), lockable.refusal),
                        Err(error) => State::Failed(error.to_string(), None),
                    },
                };
                Outcome::new(entry, state)
            }
        });
        let mut outcomes: Vec<Outcome> = outcomes.buffered(REPOS_AT_ONCE).collect().await;
        if targets.is_empty() {
            for ToBeLocked { repo, revision, is_listed } in self.to_be_locked().await? {
                if self.before.entries().iter().any(|entry| entry.is_of(&repo, &revision)) {
                    continue;
                }
                let state = match self.core.gateway.lockable(&self.asker, &repo, &revision, false).await {
                    Ok(Lockable { refusal: Some(refusal), .. }) if is_listed => State::Failed(refusal.text, None),
                    Ok(Lockable { refusal: Some(_), .. }) => continue,
                    Ok(_) => State::Unlocked,
                    Err(error) if !is_listed && is_definite(&error) => continue,
                    Err(error) => State::Failed(error.to_string(), None),
                };
                outcomes.push(Outcome { repo, revision, state });
            }
        }
        Ok(outcomes)
    }

    async fn to_be_locked(&self) -> Result<Vec<ToBeLocked>, Error> {
        self.core.gateway.to_be_locked(self.loaded.lists.named()).await
    }

    /// What is to be written of a revision, which policy must let through.
    async fn lockable(&self, repo: &Repo, revision: &Revision, newest: bool) -> Result<Lockable, Error> {
        let mut lockable = self.core.gateway.lockable(&self.asker, repo, revision, newest).await?;
        if let Some(refusal) = lockable.refusal {
            return Err(Error::Denied(refusal));
        }
        self.core.gateway.find_digests(&self.asker, &mut lockable).await?;
        Ok(lockable)
    }
}

/// Whether it is certain that a revision is not to be had: no matter where somebody just asked for it once.
fn is_definite(error: &Error) -> bool {
    matches!(error, Error::Denied(_) | Error::RepoNotFound(_) | Error::RevisionNotFound { .. })
}

/// An entry under the rule that allows it now; none where the rule pins it to another commit.
fn still_allowed(policy: &PolicySet, entry: &Locked) -> Result<Option<Locked>, Denial> {
    let rule = policy.decide_repo(&entry.repo, today())?;
    rule.decide_revision(&entry.revision)?;
    policy.decide_commit(&entry.repo, entry.commit)?;
    let is_moved = rule.pin.is_some_and(|pin| pin != entry.commit);
    Ok((!is_moved).then(|| Locked { rule: rule.name.clone(), ..entry.clone() }))
}

/// Whether an entry that is refused stays in the lock. What ends by itself or here alone, such as an approval's last day or
/// what `HF_REPOS` leaves, is no decision on the entry: without it the repo would come back by policy alone.
fn keeps(policy: &PolicySet, entry: &Locked, denial: &Denial) -> bool {
    match denial.kind() {
        DenialKind::DenyRule => false,
        DenialKind::NoRule => policy.has_rule_for(&entry.repo),
        _ => true,
    }
}

fn changes(before: &Locked, now: &Lockable) -> Box<LockChange> {
    let mut change = LockChange::between(before, &now.locked);
    for file in change.added.iter_mut().chain(&mut change.changed) {
        file.withheld = now.withheld.get(&file.path).cloned();
    }
    Box::new(change)
}

/// Writes the lock, if that is what was asked and all could be locked, and tells what became of it.
fn end(path: &Path, mut outcomes: Vec<Outcome>, args: &LockArgs) -> Done {
    outcomes.sort_by(|a, b| (&a.repo, a.revision.as_str()).cmp(&(&b.repo, b.revision.as_str())));
    let failed = outcomes.iter().any(|outcome| matches!(outcome.state, State::Failed(..)));
    let written = if args.diff {
        None
    } else if failed && !args.keep_going {
        Some(show::Written::No)
    } else {
        let entries: Vec<Arc<Locked>> = outcomes.iter().filter_map(Outcome::entry).collect();
        Some(write(path, &Lock::new(entries)).map_err(Failure::Failed)?)
    };
    let run = Run { path, written, outcomes: &outcomes };
    let mut out = io::stdout().lock();
    let told = if args.json { run.write_json(&mut out) } else { run.write_text(&mut out) };
    told.context("the result").map_err(Failure::Failed)?;
    for problem in run.problems() {
        eprintln!("hubgate: {problem}");
    }
    if run.is_fine() { Ok(()) } else { Err(Failure::Said) }
}

/// Replaces the file in one go: whoever reads it finds the old one or the new one.
fn write(path: &Path, lock: &Lock) -> anyhow::Result<show::Written> {
    let named = || path.display().to_string();
    let text = lock.to_toml();
    let entries = lock.entries().len();
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(show::Written::Unchanged { entries });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".models-lock-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(named)?;
    file.write_all(text.as_bytes()).with_context(named)?;
    file.as_file().sync_all().with_context(named)?;
    file.persist(path).map_err(|error| error.error).with_context(named)?;
    Ok(show::Written::Yes { entries })
}
