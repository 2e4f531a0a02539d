//! "What would this repo get, and why?": the decisions on a repo as a value with a stable text, for
//! `hubgate policy explain` and the admin API.

use std::fmt;

use serde::Serialize;
use time::Date;

use super::{
    denial::{Denial, DenialKind},
    facts::{Approved, RepoFacts},
    files::FileVerdict,
    license::LicenseFound,
    rule::{RevisionVerdict, Rule},
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
    /// Where policy asks for it: whether the commit was found stored or in the history of an allowed branch or tag.
    pub in_history: Option<bool>,
    /// Upstream's facts for the commit, from the store or from upstream; `None` while they are not known.
    pub facts: Option<&'a RepoFacts>,
    /// The commit's files, their sizes and how the Hub names their content, where the tree is known.
    pub files: Option<&'a [(RepoPath, u64, BlobId)]>,
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
    /// `repo`, `revision`, `upstream`, `licence` or `files`.
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
        match (rule.decide_revision(revision)?, question.in_history) {
            (RevisionVerdict::Allowed, _) if rule.is_locked() => {
                self.step("revision", Verdict::Allowed, &format!("{revision} is in the lock"));
            }
            (RevisionVerdict::Allowed, _) => self.step("revision", Verdict::Allowed, &format!("{revision} is allowed")),
            (RevisionVerdict::PinnedTo(commit), _) => {
                self.step("revision", Verdict::Allowed, &fixed(&rule, revision, commit));
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
            self.files(&approved.rule, files)?;
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

    fn files(&mut self, rule: &Rule, files: &[(RepoPath, u64, BlobId)]) -> Result<(), Denial> {
        if let Some(denial) = rule.hides_all_weights(files.iter().map(|(path, ..)| path)) {
            return Err(denial);
        }
        let mut summary = FileSummary { served: 0, served_bytes: 0, withheld: Vec::new(), refused: Vec::new() };
        for (path, size, blob) in files {
            let reason = |denial: Denial| FileReason { path: path.clone(), reason: denial.reason().to_owned() };
            match rule.decide_file(path, *size, Some(*blob)) {
                FileVerdict::Served => {
                    summary.served += 1;
                    summary.served_bytes = summary.served_bytes.saturating_add(*size);
                }
                FileVerdict::Hidden(denial) => summary.withheld.push(reason(denial)),
                FileVerdict::Refused(denial) => summary.refused.push(reason(denial)),
            }
        }
        let refused = if rule.is_locked() { "too large or not as locked" } else { "too large" };
        let text = format!(
            "{} of {} files are served, {} bytes; {} withheld, {} {refused}",
            summary.served,
            files.len(),
            summary.served_bytes,
            summary.withheld.len(),
            summary.refused.len()
        );
        self.step("files", Verdict::Allowed, &text);
        self.files = Some(summary);
        Ok(())
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
        DenialKind::FileHidden
        | DenialKind::FileTooLarge
        | DenialKind::LockDiffers
        | DenialKind::NoWeights
        | DenialKind::HookNotPassed => "files",
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{
        Identity, LicenseClaims,
        tests::{commit, day, policy},
    };

    const POLICY: &str = r#"
        [licenses]
        allow = ["apache-2.0"]
        [files]
        deny = ["*.bin"]
        [[allow]]
        name = "tiny"
        repo = "acme/tiny"
        pin = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
        max_file_size = "1 kB"
        approved_by = "legal@example.com"
        ticket = "SEC-1"
        expires = "2026-12-01"
        [[allow]]
        name = "all"
        repo = "acme/*"
    "#;

    fn facts(license: &str) -> RepoFacts {
        RepoFacts {
            canonical: "acme/tiny".parse().unwrap(),
            commit: commit(),
            identity: Identity { id: None, author: Some("acme".into()) },
            first_seen: None,
            gated: false,
            private: false,
            disabled: false,
            license: LicenseClaims::read(Some(format!("---\nlicense: {license}\n---\n").as_bytes()), &json!({})),
        }
    }

    fn blob() -> BlobId {
        BlobId::Sha256(Sha256::of(b"x"))
    }

    fn ask(
        repo: &str,
        revision: &str,
        facts: Option<&RepoFacts>,
        files: Option<&[(RepoPath, u64, BlobId)]>,
    ) -> Explanation {
        let question = Question {
            repo: &repo.parse().unwrap(),
            revision: &revision.parse().unwrap(),
            in_history: None,
            facts,
            files,
            notes: &[],
            contact: Some("legal@example.com"),
        };
        explain(&policy(POLICY), &question, day("2026-11-24"))
    }

    #[test]
    fn an_allowed_repo_is_explained_to_the_last_file() {
        let files: Vec<(RepoPath, u64, BlobId)> =
            [("config.json", 10), ("model.safetensors", 500), ("m.bin", 1), ("x.gguf", 1001)]
                .map(|(path, size)| (path.parse().unwrap(), size, blob()))
                .into();
        let answer = ask("acme/tiny", "main", Some(&facts("apache-2.0")), Some(&files));
        let text = answer.to_string();
        let digest = answer.policy_sha256.to_string();
        assert_eq!(
            text.replace(&digest, "DIGEST"),
            "model acme/tiny @ main\n  \
             policy    DIGEST\n  \
             rule      tiny, approved by legal@example.com, ticket SEC-1, expires 2026-12-01\n  \
             repo      ok       rule tiny (policy.toml:6) names acme/tiny\n  \
             revision  ok       main means the pinned commit c9745ed1d9f207416be6d2e6f8de32d1f16199bf\n  \
             upstream  ok       commit c9745ed1d9f207416be6d2e6f8de32d1f16199bf, neither gated nor private, owner acme\n  \
             licence   ok       apache-2.0, found in the README.md front matter\n  \
             files     ok       2 of 4 files are served, 510 bytes; 1 withheld, 1 too large\n                     \
             m.bin is withheld (files.deny *.bin)\n                     \
             x.gguf has 1001 bytes, more than max_file_size allows (1000 bytes)\n  \
             note      rule tiny ends in 7 days, after 2026-12-01; then acme/tiny is refused\n\
             Allowed.\n"
        );
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["verdict"], "allowed");
        assert_eq!(json["license"]["ids"], json!(["apache-2.0"]));
        assert_eq!(json["files"]["withheld"][0]["path"], "m.bin");
    }

    #[test]
    fn a_refusal_shows_the_stage_and_the_text_that_clients_see() {
        let mpl = facts("mpl-2.0");
        let other = "1111111111111111111111111111111111111111";
        let cases = [
            (ask("evil/x", "main", None, None), "repo"),
            (ask("acme/tiny", other, None, None), "revision"),
            (ask("acme/tiny", "main", Some(&mpl), None), "licence"),
            (
                ask("acme/tiny", "main", Some(&facts("apache-2.0")), Some(&[("m.bin".parse().unwrap(), 1, blob())])),
                "files",
            ),
        ];
        for (answer, stage) in cases {
            let last = answer.steps.last().unwrap();
            assert_eq!((last.stage, last.verdict, answer.verdict), (stage, Verdict::Refused, Verdict::Refused));
            let message = answer.denial.as_ref().unwrap().message(Some("legal@example.com"));
            assert!(answer.to_string().ends_with(&format!("Refused. Clients see: {message}\n")), "{answer}");
        }
    }

    #[test]
    fn a_locked_repo_is_explained_by_its_lock() {
        use crate::policy::{load::tests::locked_policy, lock::tests::*};
        let entry = locked("acme/tiny", "main", ONE);
        let config = entry.files[&"config.json".parse::<RepoPath>().unwrap()];
        let text = POLICY.replace("pin = \"c9745ed1d9f207416be6d2e6f8de32d1f16199bf\"", "");
        let set = locked_policy(&text, &lock(vec![entry]).to_toml()).unwrap();
        let facts = RepoFacts { commit: ONE.parse().unwrap(), ..facts("apache-2.0") };
        let other = ("model.safetensors".parse().unwrap(), 10, file(10, 'c', false).blob);
        let files = [("config.json".parse().unwrap(), 2, config.blob), other, ("new".parse().unwrap(), 1, config.blob)];
        let (repo, revision) = (&"acme/tiny".parse().unwrap(), &"main".parse().unwrap());
        let question = Question {
            repo,
            revision,
            in_history: None,
            facts: Some(&facts),
            files: Some(&files),
            notes: &[],
            contact: None,
        };
        let told = explain(&set, &question, day("2026-11-24")).to_string();
        for line in [
            &format!("  revision  ok       main means the locked commit {ONE} (models.lock:5)\n"),
            "  files     ok       1 of 3 files are served, 2 bytes; 1 withheld, 1 too large or not as locked\n",
            "new is withheld (not in the lock)\n",
            &format!("model.safetensors of acme/tiny@{ONE} has sha256 cccc"),
        ] {
            assert!(told.contains(line), "{told}\n{line}");
        }
        let question = Question { revision: &"v1".parse().unwrap(), facts: None, files: None, ..question };
        let told = explain(&set, &question, day("2026-11-24"));
        let last = told.steps.last().unwrap();
        assert_eq!((last.stage, last.verdict), ("revision", Verdict::Refused));
        assert!(last.text.contains("v1 of acme/tiny is not in the lock"), "{}", last.text);
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let answer = ask("acme/tiny", "main", None, None);
        assert_eq!(answer.verdict, Verdict::Undecided);
        let answer = ask("acme/x", "1111111", None, None);
        assert_eq!(answer.steps[1].verdict, Verdict::Undecided);
    }
}
