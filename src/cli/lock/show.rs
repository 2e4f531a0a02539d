//! What became of each locked revision, for people and for programs.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    gateway::{Lockable, Refusal},
    hub::{Repo, Revision},
    policy::{LockChange, Locked},
};

/// What became of one revision of one repo.
pub(super) struct Outcome {
    pub(super) repo: Repo,
    pub(super) revision: Revision,
    pub(super) state: State,
}

pub(super) enum State {
    /// Locked anew.
    Locked(Lockable),
    /// Locked as before.
    Kept(Arc<Locked>),
    /// No part of what was asked.
    Untouched(Arc<Locked>),
    /// Locked at what the origin has now, and what changed by that.
    Moved(Box<LockChange>, Lockable),
    /// Locked as before, though policy does not let it through now: why.
    Held(Arc<Locked>, String),
    /// No rule allows it any more, or a deny rule names it.
    Dropped(String),
    /// Why it can't be locked or looked at, and what stays in the lock meanwhile.
    Failed(String, Option<Arc<Locked>>),
    /// What the origin has now, and whether policy refuses that.
    Differs(Box<LockChange>, Option<Refusal>),
    /// Approved, and not in the lock.
    Unlocked,
}

/// What became of the file.
pub(super) enum Written {
    Yes { entries: usize },
    Unchanged { entries: usize },
    No,
}

impl Outcome {
    pub(super) fn new(entry: &Locked, state: State) -> Self {
        Self { repo: entry.repo.clone(), revision: entry.revision.clone(), state }
    }

    pub(super) fn is_of(&self, other: &Self) -> bool {
        self.repo.same_name(&other.repo) && self.revision == other.revision
    }

    /// The entry that stands for it in the lock.
    pub(super) fn entry(&self) -> Option<Arc<Locked>> {
        match &self.state {
            State::Kept(entry) | State::Untouched(entry) | State::Held(entry, _) => Some(entry.clone()),
            State::Locked(lockable) | State::Moved(_, lockable) => Some(Arc::new(lockable.locked.clone())),
            State::Failed(_, entry) => entry.clone(),
            State::Dropped(_) | State::Differs(..) | State::Unlocked => None,
        }
    }

    /// In a word, for JSON.
    fn state(&self) -> &'static str {
        match &self.state {
            State::Locked(_) => "locked",
            State::Kept(_) => "kept",
            State::Untouched(_) => "untouched",
            State::Moved(change, _) if change.is_nothing() => "unchanged",
            State::Moved(..) => "moved",
            State::Held(..) => "held",
            State::Dropped(_) => "dropped",
            State::Failed(..) => "failed",
            State::Differs(change, None) if change.is_nothing() => "unchanged",
            State::Differs(..) => "differs",
            State::Unlocked => "not_locked",
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = format!("{}@{}", self.repo, self.revision);
        match &self.state {
            State::Untouched(_) => Ok(()),
            State::Locked(lockable) => writeln!(out, "{name}: locked at {}", shown(&lockable.locked)),
            State::Kept(entry) => writeln!(out, "{name}: stays at {}", shown(entry)),
            State::Held(entry, why) => writeln!(out, "{name}: stays at {}, and is refused now: {why}", shown(entry)),
            State::Dropped(why) => writeln!(out, "{name}: no longer approved: {why}"),
            State::Failed(why, _) => writeln!(out, "{name}: failed: {why}"),
            State::Unlocked => writeln!(out, "{name}: approved and not locked; `hubgate lock` adds it"),
            State::Moved(change, _) | State::Differs(change, _) if change.is_nothing() => {
                writeln!(out, "{name}: unchanged at {}", change.commit.after)?;
                self.write_refusal(out)
            }
            State::Moved(change, _) => write!(out, "{name}: moved\n{change}"),
            State::Differs(change, _) => {
                write!(out, "{name}: differs\n{change}")?;
                self.write_refusal(out)
            }
        }
    }

    fn write_refusal(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.state {
            State::Differs(_, Some(refusal)) => writeln!(out, "  refused  {}", refusal.text),
            _ => Ok(()),
        }
    }

    fn to_json(&self) -> Value {
        let (entry, change, reason) = match &self.state {
            State::Locked(lockable) => (Some(&lockable.locked), None, None),
            State::Kept(entry) | State::Untouched(entry) => (Some(&**entry), None, None),
            State::Moved(change, lockable) => (Some(&lockable.locked), Some(change), None),
            State::Differs(change, refusal) => (None, Some(change), refusal.as_ref().map(|refusal| &refusal.text)),
            State::Held(entry, why) => (Some(&**entry), None, Some(why)),
            State::Dropped(why) | State::Failed(why, _) => (None, None, Some(why)),
            State::Unlocked => (None, None, None),
        };
        let by_git_id = match &self.state {
            State::Locked(lockable) | State::Moved(_, lockable) => &lockable.by_git_id[..],
            _ => &[],
        };
        json!({
            "repo": self.repo,
            "kind": self.repo.kind(),
            "revision": self.revision,
            "state": self.state(),
            "commit": entry.map(|entry| entry.commit).or(change.map(|change| change.commit.after)),
            "license": entry.map(|entry| &entry.license),
            "rule": entry.map(|entry| &entry.rule),
            "files": entry.map(|entry| entry.files.len()),
            "without_sha256": by_git_id.iter().map(|(path, _)| path).collect::<Vec<_>>(),
            "change": change.filter(|change| !change.is_nothing()),
            "new_code": change.map(|change| change.new_code().map(|(file, _)| &file.path).collect::<Vec<_>>()),
            "reason": reason,
        })
    }
}

fn shown(entry: &Locked) -> String {
    let files = if entry.files.len() == 1 { "1 file".to_owned() } else { format!("{} files", entry.files.len()) };
    format!("{} ({files}, licence {}, rule {})", entry.commit, entry.license, entry.rule)
}

/// One run of the command.
pub(super) struct Run<'a> {
    pub(super) path: &'a Path,
    /// What became of the file; nothing where it was only looked at.
    pub(super) written: Option<Written>,
    pub(super) outcomes: &'a [Outcome],
}

impl Run<'_> {
    /// Whether all is locked, or, where that was only looked at, as it was locked.
    pub(super) fn is_fine(&self) -> bool {
        self.outcomes.iter().all(|outcome| match (&outcome.state, &self.written) {
            (State::Failed(..), _) => false,
            (_, Some(_)) => true,
            (State::Differs(change, refusal), None) => change.is_nothing() && refusal.is_none(),
            (_, None) => false,
        })
    }

    /// What is worth saying aloud, beside the result.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for outcome in self.outcomes {
            if let State::Locked(lockable) | State::Moved(_, lockable) = &outcome.state {
                problems.extend(lockable.by_git_id.iter().map(|(path, why)| {
                    format!("{}: {path} is locked by its git id; its sha256 is not known: {why}", lockable.locked)
                }));
            }
        }
        if let Some(Written::No) = &self.written {
            let path = self.path.display();
            problems.push(format!("{path} is left as it is; --keep-going writes what can be locked"));
        }
        problems
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for outcome in self.outcomes {
            outcome.write_text(out)?;
        }
        let path = self.path.display();
        let count =
            |entries: usize| if entries == 1 { "1 revision".to_owned() } else { format!("{entries} revisions") };
        match &self.written {
            Some(Written::Yes { entries }) => writeln!(out, "{path}: written, {} locked", count(*entries))?,
            Some(Written::Unchanged { entries }) => writeln!(out, "{path}: unchanged, {} locked", count(*entries))?,
            Some(Written::No) => {}
            None => {
                let differing = self.outcomes.iter().filter(|outcome| outcome.state() != "unchanged").count();
                let all = count(self.outcomes.len());
                writeln!(out, "{path}: {all} looked at, {differing} not as locked")?;
            }
        }
        out.flush()
    }

    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let value = json!({
            "ok": self.is_fine(),
            "file": self.path,
            "written": matches!(self.written, Some(Written::Yes { .. })),
            "repos": self.outcomes.iter().map(Outcome::to_json).collect::<Vec<_>>(),
        });
        serde_json::to_writer_pretty(&mut *out, &value)?;
        writeln!(out)
    }
}
