//! What became of each repo, for people and for programs.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::{super::references::write_references, wanted::Wanted};
use crate::{
    gateway::{self, Fetched, FileState, Plan, Planned, PlannedFile, References, Sum, Sums},
    hub::Repo,
    publish,
};

/// How many files a dry run names for each repo and state, the largest first; `--json` names all.
const NAMED: usize = 20;

/// One run.
pub(super) struct Run {
    /// Whether it only says what it would do.
    dry: bool,
    pub(super) repos: Vec<Outcome>,
    /// The CSV, and how many files it names.
    pub(super) manifest: Option<(PathBuf, u64)>,
    /// What else was published or removed.
    pub(super) notes: Vec<String>,
    /// What went wrong beside the repos.
    pub(super) problems: Vec<String>,
}

/// What became of one revision of one repo.
pub(super) struct Outcome {
    name: String,
    repo: String,
    revision: String,
    end: End,
}

enum End {
    /// Policy's no.
    Refused(String),
    /// It can't be told what it has: why.
    Failed(String),
    Planned(Box<Work>),
}

struct Work {
    planned: Planned,
    sums: Sums,
    fetched: Sum,
    found: Sum,
    failed: Vec<(String, String)>,
    /// What became of the copies for direct readers.
    published: Vec<String>,
    unpublished: Vec<String>,
    /// What the repo names beyond itself; only a dry run asks.
    references: Option<References>,
}

impl Outcome {
    pub(super) fn planned(wanted: &Wanted, plan: &gateway::Result<Plan>) -> Self {
        let end = match plan {
            Err(error) => End::Failed(error.to_string()),
            Ok(Plan { verdict: Err(refusal), .. }) => End::Refused(refusal.text.clone()),
            Ok(Plan { verdict: Ok(planned), .. }) => End::Planned(Box::new(Work {
                sums: planned.sums(),
                planned: planned.clone(),
                fetched: Sum::default(),
                found: Sum::default(),
                failed: Vec::new(),
                published: Vec::new(),
                unpublished: Vec::new(),
                references: None,
            })),
        };
        let (repo, revision) = (wanted.repo.to_string(), wanted.revision.to_string());
        Self { name: wanted.to_string(), repo, revision, end }
    }

    /// Takes in what fetching came to.
    pub(super) fn fetched(&mut self, fetched: gateway::Result<Fetched>) {
        match (&mut self.end, fetched) {
            (End::Planned(work), Ok(Fetched { fetched, found, failed, .. })) => {
                (work.fetched, work.found) = (fetched, found);
                work.failed = failed.into_iter().map(|(path, error)| (path.to_string(), error.to_string())).collect();
            }
            (end, Err(error)) => *end = End::Failed(error.to_string()),
            (End::Refused(_) | End::Failed(_), Ok(_)) => {}
        }
    }

    /// Takes in what the repo names beyond itself.
    pub(super) fn refers_to(&mut self, references: References) {
        if let End::Planned(work) = &mut self.end {
            work.references = Some(references);
        }
    }

    /// Takes in what became of its copies.
    pub(super) fn published(&mut self, outcomes: publish::Result<Vec<(Repo, publish::Outcome)>>) {
        use publish::Outcome::{Busy, HookFailed, Incomplete, Published, Unchanged};
        let End::Planned(work) = &mut self.end else { return };
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => return work.unpublished.push(format!("not published: {error}")),
        };
        for (repo, outcome) in outcomes {
            match outcome {
                Published { copied, kept, removed, .. } => work
                    .published
                    .push(format!("published {repo}: {} copied, {kept} unchanged, {removed} removed", files(copied))),
                Unchanged { .. } => work.published.push(format!("{repo} is published already")),
                Busy => work.published.push(format!("{repo}: another publisher is at work on it")),
                Incomplete { missing } => {
                    work.unpublished.push(format!("{repo} not published: not stored: {missing}"));
                }
                HookFailed { why } => work.unpublished.push(format!("{repo} not published: {why}")),
            }
        }
    }

    fn is_fine(&self) -> bool {
        match &self.end {
            End::Refused(_) | End::Failed(_) => false,
            End::Planned(work) => {
                work.failed.is_empty()
                    && work.unpublished.is_empty()
                    && work.sums.refused.files == 0
                    && !work.planned.stale
            }
        }
    }

    /// One line: the repo, and what became of it.
    fn line(&self, dry_run: bool) -> String {
        let work = match &self.end {
            End::Refused(text) => return format!("{}: refused: {text}", self.name),
            End::Failed(text) => return format!("{}: failed: {text}", self.name),
            End::Planned(work) => work,
        };
        let (sums, sized) = (&work.sums, |sum: Sum| format!("{} ({})", files(sum.files), ByteSize::b(sum.bytes)));
        let mut parts = Vec::new();
        if dry_run {
            parts.push(format!("to fetch {}", sized(sums.missing)));
            parts.extend(
                (sums.here.files > 0).then(|| format!("to record {}, here under another name", sized(sums.here))),
            );
            parts.push(format!("already here {}", sized(sums.stored)));
        } else {
            parts.push(format!("fetched {}", sized(work.fetched)));
            parts.extend((work.found.files > 0).then(|| format!("found here {}", sized(work.found))));
            parts.push(format!("already here {}", sized(sums.stored)));
        }
        for (sum, what) in [(sums.withheld, "withheld"), (sums.excluded, "left out"), (sums.refused, "refused")] {
            parts.extend((sum.files > 0).then(|| format!("{what} {}", sized(sum))));
        }
        if !work.failed.is_empty() {
            parts.push(format!("failed {}", files(work.failed.len())));
        }
        let commit = work.planned.commit.to_string();
        format!("{} {}: {}", self.name, &commit[..12], parts.join(", "))
    }

    fn write_text(&self, dry_run: bool, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.line(dry_run))?;
        let End::Planned(work) = &self.end else { return Ok(()) };
        if work.planned.stale {
            writeln!(out, "  the origin could not be asked, or has it no more: this is the last commit known")?;
        }
        if dry_run {
            writeln!(
                out,
                "  licence {} ({}), rule {}",
                work.planned.licence, work.planned.licence_from, work.planned.rule
            )?;
            write_files("fetch", |state| (*state == FileState::Missing).then_some(""), &work.planned, out)?;
            write_files("record", |state| (*state == FileState::Here).then_some(""), &work.planned, out)?;
            write_files("withheld", reason_withheld, &work.planned, out)?;
        }
        write_files("refused", reason_refused, &work.planned, out)?;
        for (path, reason) in &work.failed {
            writeln!(out, "  failed    {path}: {reason}")?;
        }
        if let Some(references) = &work.references {
            write_references(out, references)?;
        }
        for line in work.published.iter().chain(&work.unpublished) {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    fn to_json(&self, dry_run: bool) -> Value {
        let mut value = json!({ "repo": self.repo, "revision": self.revision });
        let fields = match &self.end {
            End::Refused(text) => json!({ "state": "refused", "reason": text }),
            End::Failed(text) => json!({ "state": "failed", "reason": text }),
            End::Planned(work) => {
                let Work { planned, sums, fetched, found, failed, published, unpublished, references } = &**work;
                let state = if !self.is_fine() {
                    "incomplete"
                } else if dry_run {
                    "planned"
                } else {
                    "complete"
                };
                let failed: Vec<Value> =
                    failed.iter().map(|(path, reason)| json!({ "path": path, "reason": reason })).collect();
                json!({
                    "state": state,
                    "canonical": planned.repo,
                    "commit": planned.commit,
                    "stale": planned.stale,
                    "licence": planned.licence,
                    "licence_from": planned.licence_from,
                    "rule": planned.rule,
                    "plan": sums,
                    "fetched": fetched,
                    "found": found,
                    "failed": failed,
                    "published": published,
                    "unpublished": unpublished,
                    "references": references,
                    "files": planned.files.iter().map(file_json).collect::<Vec<_>>(),
                })
            }
        };
        if let (Value::Object(value), Value::Object(fields)) = (&mut value, fields) {
            value.extend(fields);
        }
        value
    }
}

impl Run {
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry: dry_run, repos: Vec::new(), manifest: None, notes: Vec::new(), problems: Vec::new() }
    }

    pub(super) fn is_fine(&self) -> bool {
        self.problems.is_empty() && self.repos.iter().all(Outcome::is_fine)
    }

    /// All repos together: what is to be fetched or was, and what was here.
    fn totals(&self) -> (Sum, Sum) {
        let (mut coming, mut here) = (Sum::default(), Sum::default());
        for outcome in &self.repos {
            if let End::Planned(work) = &outcome.end {
                coming += if self.dry { work.sums.missing } else { work.fetched };
                here += work.sums.stored;
                here += if self.dry { work.sums.here } else { work.found };
            }
        }
        (coming, here)
    }

    pub(super) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for outcome in &self.repos {
            outcome.write_text(self.dry, out)?;
        }
        for note in &self.notes {
            writeln!(out, "{note}")?;
        }
        let (coming, here) = self.totals();
        let coming_what = if self.dry { "to fetch" } else { "fetched" };
        let sized = |sum: Sum| format!("{} ({})", files(sum.files), ByteSize::b(sum.bytes));
        writeln!(out, "total: {coming_what} {}, already here {}", sized(coming), sized(here))?;
        let bad: Vec<&str> = self.repos.iter().filter(|repo| !repo.is_fine()).map(|repo| repo.name.as_str()).collect();
        if !bad.is_empty() {
            writeln!(out, "refused or not whole: {}", bad.join(", "))?;
        }
        if let Some((path, count)) = &self.manifest {
            writeln!(out, "{}: {count} files", path.display())?;
        }
        out.flush()
    }

    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let (coming, here) = self.totals();
        let value = json!({
            "dry_run": self.dry,
            "ok": self.is_fine(),
            "repos": self.repos.iter().map(|repo| repo.to_json(self.dry)).collect::<Vec<_>>(),
            "total": { if self.dry { "to_fetch" } else { "fetched" }: coming, "already_here": here },
            "manifest": self.manifest.as_ref().map(|(path, _)| path),
            "notes": self.notes,
            "problems": self.problems,
        });
        serde_json::to_writer_pretty(&mut *out, &value)?;
        writeln!(out)
    }
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn reason_withheld(state: &FileState) -> Option<&str> {
    if let FileState::Withheld(reason) = state { Some(reason) } else { None }
}

fn reason_refused(state: &FileState) -> Option<&str> {
    if let FileState::Refused(reason) = state { Some(reason) } else { None }
}

/// The files of one state, the largest first, with the reason where there is one.
fn write_files(
    what: &str,
    of_state: impl Fn(&FileState) -> Option<&str>,
    planned: &Planned,
    out: &mut dyn Write,
) -> io::Result<()> {
    let found = planned.files.iter().filter_map(|file| Some((file, of_state(&file.state)?)));
    let mut found: Vec<(&PlannedFile, &str)> = found.collect();
    found.sort_by_key(|(file, _)| std::cmp::Reverse(file.size));
    for (file, reason) in found.iter().take(NAMED) {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        writeln!(out, "  {what:<9} {:>10}  {}{reason}", ByteSize::b(file.size).to_string(), file.path)?;
    }
    if found.len() > NAMED {
        let bytes = found.iter().skip(NAMED).map(|(file, _)| file.size).sum();
        writeln!(out, "  {what:<9} {:>10}  in {} more files", ByteSize::b(bytes).to_string(), found.len() - NAMED)?;
    }
    Ok(())
}

fn file_json(file: &PlannedFile) -> Value {
    let (state, reason, sha256) = match &file.state {
        FileState::Stored(sha256) => ("stored", None, Some(sha256)),
        FileState::Here => ("here", None, None),
        FileState::Missing => ("missing", None, None),
        FileState::Withheld(reason) => ("withheld", Some(reason), None),
        FileState::Refused(reason) => ("refused", Some(reason), None),
        FileState::Excluded => ("left_out", None, None),
    };
    json!({ "path": file.path, "size": file.size, "blob": file.blob, "plan": state, "reason": reason, "sha256": sha256 })
}
