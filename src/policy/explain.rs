//! "What would this repo get, and why?": the decisions on a repo as a value with a stable text, for
//! `hubgate policy explain` and the admin API.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use serde::Serialize;
use time::Date;

use super::{
    denial::{Denial, DenialKind},
    facts::{Approved, RepoFacts},
    files::FileVerdict,
    license::LicenseFound,
    rule::{HookDemand, RevisionVerdict, Rule},
    set::PolicySet,
};
use crate::hub::{BlobId, Commit, Repo, RepoKind, RepoPath, Revision, Sha256};

/// Files of one sort that the text names; JSON has them all.
const NAMED_FILES: usize = 10;

/// What is to be explained, and what is known to explain it by.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The repo as it was asked.
    pub repo: &'a Repo,
    /// The revision as it was asked.
    pub revision: &'a Revision,
    /// The rule with the lock that says what the revision means, where that is not the one of the name that was asked.
    pub locked: Option<&'a Rule>,
    /// Where policy asks for it: whether the commit was found stored or in the history of an allowed branch or tag.
    pub in_history: Option<bool>,
    /// What clients are refused with before upstream's facts are put to policy.
    pub refused: Option<&'a Denial>,
    /// Upstream's facts for the commit, from the store or from upstream; `None` while they are not known.
    pub facts: Option<&'a RepoFacts>,
    /// The commit's files, their sizes and how the Hub names their content, where the tree is known.
    pub files: Option<&'a [(RepoPath, u64, BlobId)]>,
    /// Files that are refused for what their names don't tell: their content, or that the hook has not passed on them.
    pub refused_files: &'a HashMap<RepoPath, Denial>,
    /// Further lines, such as "gone upstream since 2026-11-01; what is stored is served".
    pub notes: &'a [String],
    /// `policy.contact`.
    pub contact: Option<&'a str>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The repo as it was asked.
    pub repo: Repo,
    /// Its kind.
    pub kind: RepoKind,
    /// The revision as it was asked.
    pub revision: Revision,
    /// The policy that was asked.
    pub policy_sha256: Sha256,
    /// The outcome.
    pub verdict: Verdict,
    /// The stages, in the order in which policy is asked; a refusal is the last one.
    pub steps: Vec<Step>,
    /// The rule that speaks for the repo.
    pub rule: Option<RuleSummary>,
    /// The licence and where it was found.
    pub license: Option<LicenseFound>,
    /// The files, where the tree is known and the repo is allowed.
    pub files: Option<FileSummary>,
    /// The refusal.
    pub denial: Option<Denial>,
    /// The refusal's text as clients see it.
    pub message: Option<String>,
    /// Further lines.
    pub notes: Vec<String>,
}

/// An outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It would be served.
    Allowed,
    /// It is refused.
    Refused,
    /// Nothing refuses it so far, but upstream's facts are not known.
    Undecided,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `repo`, `revision`, `upstream`, `licence`, `content`, `hook` or `files`.
    pub stage: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// One line.
    pub text: String,
}

/// A rule, as a reviewer wants to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// Its name.
    pub name: String,
    /// File and line.
    pub source: String,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// Where that is written down.
    pub ticket: Option<String>,
    /// Its last day, `YYYY-MM-DD`.
    pub expires: Option<String>,
}

/// What becomes of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// How many are served.
    pub served: usize,
    /// Their bytes.
    pub served_bytes: u64,
    /// Those left out of listings, with the reason.
    pub withheld: Vec<FileReason>,
    /// Those listed but refused, with the reason.
    pub refused: Vec<FileReason>,
}

/// A file that is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReason {
    /// Its path.
    pub path: RepoPath,
    /// Why.
    pub reason: String,
}

/// Explains what a repo at a revision would get under a policy on a day.
pub fn explain(policy: &PolicySet, question: &Question<'_>, today: Date) -> Explanation {
    let mut answer = Explanation {
        repo: question.repo.clone(),
        kind: question.repo.kind(),
        revision: question.revision.clone(),
        policy_sha256: policy.digest(),
        verdict: Verdict::Allowed,
        steps: Vec::new(),
        rule: None,
        license: None,
        files: None,
        denial: None,
        message: None,
        notes: question.notes.to_vec(),
    };
    if let Err(denial) = answer.walk(policy, question, today) {
        answer.verdict = Verdict::Refused;
        answer.step(stage_of(denial.kind()), Verdict::Refused, denial.reason());
        answer.message = Some(denial.message(question.contact));
        answer.denial = Some(denial);
    }
    answer
}

impl Explanation {
    fn walk(&mut self, policy: &PolicySet, question: &Question<'_>, today: Date) -> Result<(), Denial> {
        let rule = policy.decide_repo(question.repo, today)?;
        self.speaks(&rule, today);
        self.step("repo", Verdict::Allowed, &format!("rule {} ({}) names {}", rule.name, rule.source, rule.repo));

        let revision = question.revision;
        let deciding = question.locked.unwrap_or(&rule);
        let verdict = deciding.decide_revision(revision)?;
        if let Some(denial) = question.refused {
            // Upstream's name for it, or what it says of it: the revision was let through before.
            if stage_of(denial.kind()) == "upstream" {
                self.step("revision", Verdict::Allowed, &format!("{revision} is allowed"));
            }
            return Err(denial.clone());
        }
        match (verdict, question.in_history) {
            (RevisionVerdict::Allowed, _) if deciding.is_locked() => {
                self.step("revision", Verdict::Allowed, &format!("{revision} is in the lock"));
            }
            (RevisionVerdict::Allowed, _) => self.step("revision", Verdict::Allowed, &format!("{revision} is allowed")),
            (RevisionVerdict::PinnedTo(commit), _) => {
                self.step("revision", Verdict::Allowed, &fixed(deciding, revision, commit));
            }
            (RevisionVerdict::NeedsHistory, Some(true)) => {
                let text = format!("{revision} is stored or in the history of an allowed branch or tag");
                self.step("revision", Verdict::Allowed, &text);
            }
            (RevisionVerdict::NeedsHistory, Some(false)) => return Err(rule.outside_history(revision)),
            (RevisionVerdict::NeedsHistory, None) => {
                let text = format!("{revision} must be stored or in the history of an allowed branch or tag");
                self.undecided("revision", &text);
            }
        }

        let Some(facts) = question.facts else {
            let why = if question.notes.is_empty() { "neither stored nor asked" } else { "see the note" };
            self.undecided("upstream", &format!("not known: {why}"));
            return Ok(());
        };
        let approved = policy.decide_facts(&rule, question.repo, facts, today)?;
        self.passes(&rule, facts, &approved, today);
        if let Some(files) = question.files {
            self.files(&approved.rule, files, question.refused_files)?;
        }
        Ok(())
    }

    fn passes(&mut self, asked: &Rule, facts: &RepoFacts, approved: &Approved, today: Date) {
        let governing = &approved.rule;
        let name = if facts.canonical == self.repo {
            String::new()
        } else {
            format!("; upstream calls it {}, under rule {} ({})", facts.canonical, governing.name, governing.source)
        };
        if governing.name != asked.name {
            self.speaks(governing, today);
        }
        let gate = match (facts.private, facts.gated) {
            (true, _) => "private, which the rule allows",
            (_, true) => "gated, which the rule allows",
            _ => "neither gated nor private",
        };
        let owner = facts.identity.author.as_deref().map_or(String::new(), |author| format!(", owner {author}"));
        self.step("upstream", Verdict::Allowed, &format!("commit {}, {gate}{owner}{name}", approved.commit));
        let license = &approved.license;
        self.step("licence", Verdict::Allowed, &format!("{license}, found in the {}", license.source));
        self.license = Some(license.clone());
    }

    fn files(
        &mut self,
        rule: &Rule,
        files: &[(RepoPath, u64, BlobId)],
        refused: &HashMap<RepoPath, Denial>,
    ) -> Result<(), Denial> {
        if let Some(denial) = rule.hides_all_weights(files.iter().map(|(path, ..)| path)) {
            return Err(denial);
        }
        let mut summary = FileSummary { served: 0, served_bytes: 0, withheld: Vec::new(), refused: Vec::new() };
        let mut stages: BTreeMap<&'static str, (Denial, usize)> = BTreeMap::new();
        for (path, size, blob) in files {
            let reason = |denial: Denial| FileReason { path: path.clone(), reason: denial.reason().to_owned() };
            match (rule.decide_file(path, *size, Some(*blob)), refused.get(path)) {
                (FileVerdict::Served, Some(denial)) => {
                    let stage = stage_of_file(denial.kind());
                    stages.entry(stage).or_insert_with(|| (denial.clone(), 0)).1 += 1;
                    summary.refused.push(reason(denial.clone()));
                }
                (FileVerdict::Served, None) => {
                    summary.served += 1;
                    summary.served_bytes = summary.served_bytes.saturating_add(*size);
                }
                (FileVerdict::Hidden(denial), _) => summary.withheld.push(reason(denial)),
                (FileVerdict::Refused(denial), _) => summary.refused.push(reason(denial)),
            }
        }
        for (stage, (denial, count)) in &stages {
            self.step(stage, Verdict::Refused, &format!("{count} of {} files: {}", files.len(), denial.reason()));
        }
        if rule.hook == HookDemand::Required && !stages.contains_key("hook") {
            self.step("hook", Verdict::Allowed, "it has passed on the commit");
        }
        let refused = match (stages.is_empty(), rule.is_locked()) {
            (false, _) => "refused",
            (true, true) => "too large or not as locked",
            (true, false) => "too large",
        };
        let text = format!(
            "{} of {} files are served, {} bytes; {} withheld, {} {refused}",
            summary.served,
            files.len(),
            summary.served_bytes,
            summary.withheld.len(),
            summary.refused.len()
        );
        let nothing_is_left = summary.served == 0;
        self.files = Some(summary);
        match stages.into_values().next() {
            Some((denial, _)) if nothing_is_left => {
                self.step("files", Verdict::Refused, &text);
                Err(denial)
            }
            _ => {
                self.step("files", Verdict::Allowed, &text);
                Ok(())
            }
        }
    }

    fn speaks(&mut self, rule: &Rule, today: Date) {
        self.rule = Some(RuleSummary {
            name: rule.name.clone(),
            source: rule.source.clone(),
            approved_by: rule.approved_by.clone(),
            ticket: rule.ticket.clone(),
            expires: rule.expires.map(|date| date.to_string()),
        });
        self.notes.extend(rule.expiry_warning(today));
    }

    fn step(&mut self, stage: &'static str, verdict: Verdict, text: &str) {
        self.steps.push(Step { stage, verdict, text: text.to_owned() });
    }

    fn undecided(&mut self, stage: &'static str, text: &str) {
        self.verdict = Verdict::Undecided;
        self.step(stage, Verdict::Undecided, text);
    }
}

/// What a revision means, where a pin or the lock says so.
fn fixed(rule: &Rule, revision: &Revision, commit: Commit) -> String {
    match rule.locked(revision.as_str()) {
        Some(entry) => format!("{revision} means the locked commit {commit} ({})", entry.source),
        None if rule.is_locked() => format!("{revision} means the locked commit {commit}"),
        None => format!("{revision} means the pinned commit {commit}"),
    }
}

/// The stage that refuses a file for what its name doesn't tell.
fn stage_of_file(kind: DenialKind) -> &'static str {
    if kind == DenialKind::HookNotPassed { "hook" } else { "content" }
}

/// The stage that gives a sort of refusal.
fn stage_of(kind: DenialKind) -> &'static str {
    match kind {
        DenialKind::NoRule | DenialKind::DenyRule | DenialKind::Expired => "repo",
        DenialKind::Revision | DenialKind::Pinned | DenialKind::NotLocked => "revision",
        DenialKind::Renamed | DenialKind::OwnerChanged | DenialKind::Gated | DenialKind::Disabled => "upstream",
        DenialKind::License
        | DenialKind::LicenseUnknown
        | DenialKind::LicenseUnreadable
        | DenialKind::LicenseDisagrees => "licence",
        DenialKind::FileHidden | DenialKind::FileTooLarge | DenialKind::LockDiffers | DenialKind::NoWeights => "files",
        DenialKind::HookNotPassed => "hook",
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allowed => "ok",
            Self::Refused => "refused",
            Self::Undecided => "unknown",
        })
    }
}

/// The stable text: a line for each stage, the outcome last.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} @ {}", self.kind, self.repo.id(), self.revision)?;
        writeln!(f, "  {:<9} {}", "policy", self.policy_sha256)?;
        if let Some(rule) = &self.rule {
            let or_nobody = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            write!(f, "  {:<9} {}, approved by {}", "rule", rule.name, or_nobody(&rule.approved_by))?;
            writeln!(f, ", ticket {}, expires {}", or_nobody(&rule.ticket), or_nobody(&rule.expires))?;
        }
        for Step { stage, verdict, text } in &self.steps {
            writeln!(f, "  {stage:<9} {verdict:<7}  {text}")?;
        }
        for files in self.files.iter().flat_map(|files| [&files.withheld, &files.refused]) {
            for FileReason { reason, .. } in files.iter().take(NAMED_FILES) {
                writeln!(f, "  {:<9} {:<7}  {reason}", "", "")?;
            }
            if files.len() > NAMED_FILES {
                writeln!(f, "  {:<9} {:<7}  and {} more", "", "", files.len() - NAMED_FILES)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "  {:<9} {note}", "note")?;
        }
        match (&self.verdict, &self.message) {
            (_, Some(message)) => writeln!(f, "Refused. Clients see: {message}"),
            (Verdict::Undecided, None) => {
                writeln!(f, "Nothing in the policy refuses it so far; the rest depends on what is not known.")
            }
            (_, None) => writeln!(f, "Allowed."),
        }
    }
}

#[cfg(test)]
mod tests;
