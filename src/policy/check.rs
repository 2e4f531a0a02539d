//! What a reviewer should know of a policy that loads: rules that can never speak, that are wider than they look, or
//! that end soon. For `hubgate policy check`.

use std::fmt;

use serde::Serialize;
use time::Date;

use super::{
    denial::DenialKind,
    license_id::LicenseId,
    lock::Lock,
    mirror::Mirror,
    pattern::is_literal,
    rule::Rule,
    set::{DenyRule, PolicySet},
};
use crate::hub::{Repo, RepoKind, RepoPath};

/// One remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The file of the policy folder and the line, `repos.toml:12`; empty for the policy as a whole.
    pub place: String,
    /// The rule.
    pub rule: Option<String>,
    /// What, and what would help, in one line.
    pub text: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy can't do what it says.
    Error,
    /// Probably not what was meant, or soon not.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{severity}: ")?;
        if let Some(rule) = &self.rule {
            write!(f, "rule {rule}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// Looks a policy over; the gravest findings first. `known` are the repos that are stored or asked for, where the
/// caller knows them: rules that speak for none of them are then pointed out.
pub fn check(policy: &PolicySet, today: Date, known: Option<&[Repo]>) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.of_the_whole(policy);
    for rule in policy.rules() {
        findings.of_reach(policy, rule);
        findings.of_expiry(rule, today);
        findings.of_review(rule);
        findings.of_details(policy, rule);
    }
    for deny in &policy.denies {
        findings.of_deny(deny);
    }
    for mirror in &policy.mirrors {
        findings.of_mirror(policy, mirror, today);
    }
    if let Some(lock) = policy.lock() {
        findings.of_lock(policy, lock, today);
    }
    if let Some(known) = known {
        findings.of_use(policy, known);
    }
    findings.0.sort_by_key(|finding| finding.severity);
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, rule: Option<&Rule>, text: impl Into<String>) {
        let (place, rule) = rule.map_or_else(Default::default, |rule| (rule.source.clone(), Some(rule.name.clone())));
        self.0.push(Finding { severity, place, rule, text: text.into() });
    }

    fn of_the_whole(&mut self, policy: &PolicySet) {
        if policy.rules.is_empty() {
            let why = policy.absence.as_deref().unwrap_or("it has no [[allow]]");
            self.add(Severity::Error, None, format!("nothing is allowed: {why}"));
            return;
        }
        let no_licence = policy.licenses.allow.is_empty() && !policy.licenses.unknown_is_allowed;
        if no_licence && policy.rules.iter().all(|rule| rule.accepted_licenses.is_empty()) {
            let text = "no licence is allowed, so every repo is refused: write allow = [...] under [licenses]";
            self.add(Severity::Error, None, text);
        }
        if policy.licenses.unknown_is_allowed {
            let text = "repos that state no licence are allowed: prefer license.accept = [\"unknown\"] in single rules";
            self.add(Severity::Warning, None, text);
        }
        for id in policy.licenses.allow.iter().filter(|id| !id.is_hub_id()) {
            self.add(Severity::Warning, None, not_a_hub_id(id));
        }
        self.of_code(policy);
    }

    /// Formats that run code when they are loaded, by the names under which they come.
    fn of_code(&mut self, policy: &PolicySet) {
        let Some(rule) = policy.rules.first() else { return };
        let is_denied = |name: &str| rule.files.deny.find(name).is_some();
        let served: Vec<&str> = ["x.pkl", "x.pickle", "x.pt", "x.pth", "x.ckpt", "x.joblib", "x.py"]
            .into_iter()
            .filter(|n| !is_denied(n))
            .collect();
        if !served.is_empty() {
            let names: Vec<String> = served.iter().map(|name| name.replacen('x', "*", 1)).collect();
            let text =
                format!("files that run code when they are loaded are served: {}; see [files] deny", names.join(" "));
            self.add(Severity::Note, None, text);
        }
    }

    /// Rules that never speak, and rules that speak for more than one reviewed repo.
    fn of_reach(&mut self, policy: &PolicySet, rule: &Rule) {
        // A pattern of nothing but letters, `*` and `?` that a deny pattern matches as a text is matched in all it means.
        let is_plain = !rule.repo.contains(['[', '{', '\\']);
        let deny = policy.deny_names.of(rule.kind).find(&rule.repo.to_ascii_lowercase());
        if let (true, Some(deny)) = (is_plain, deny.and_then(|index| policy.denies.get(index))) {
            let text = format!("never speaks: {} ({}) denies all of {}", deny.name, deny.source, rule.repo);
            self.add(Severity::Error, Some(rule), text);
        }
        if is_literal(&rule.repo) {
            let is_locked =
                rule.named_repo().is_some_and(|repo| policy.lock().is_some_and(|lock| lock.of(&repo).is_some()));
            if rule.pin.is_none() && !is_locked {
                let text = "is not pinned: new commits of its branches are served without a review";
                self.add(Severity::Note, Some(rule), text);
            }
            return;
        }
        let names_any_owner = rule.repo.split_once('/').is_none_or(|(owner, _)| !is_literal(owner));
        if names_any_owner {
            let text = format!("{} names repos of any owner, unpinned: whatever anybody uploads is served", rule.repo);
            self.add(Severity::Warning, Some(rule), text);
        } else {
            let text = format!("{} is an unpinned wildcard: whatever its owner uploads is served", rule.repo);
            self.add(Severity::Warning, Some(rule), text);
        }
    }

    fn of_expiry(&mut self, rule: &Rule, today: Date) {
        if let Err(denial) = rule.check_expiry(&rule.repo, today) {
            self.add(Severity::Error, Some(rule), format!("has expired: {}", denial.reason()));
        } else if let Some(warning) = rule.expiry_warning(today) {
            // The finding begins with the rule's name already.
            let text = warning.strip_prefix(&format!("rule {} ", rule.name)).unwrap_or(&warning);
            self.add(Severity::Warning, Some(rule), text);
        }
    }

    fn of_review(&mut self, rule: &Rule) {
        let missing: Vec<&str> = [("approved_by", &rule.approved_by), ("ticket", &rule.ticket)]
            .into_iter()
            .filter_map(|(key, value)| value.is_none().then_some(key))
            .collect();
        if !missing.is_empty() {
            let text = format!("has no {}: the manifest can't say who approved it", missing.join(" and no "));
            self.add(Severity::Note, Some(rule), text);
        }
    }

    fn of_details(&mut self, policy: &PolicySet, rule: &Rule) {
        for id in &rule.accepted_licenses {
            if policy.licenses.allow.contains(id) {
                self.add(Severity::Note, Some(rule), format!("accepts {id}, which is allowed everywhere"));
            } else if !id.is_hub_id() {
                self.add(Severity::Warning, Some(rule), not_a_hub_id(id));
            }
        }
        if !rule.files.allow.is_empty() && policy.files_deny.is_empty() {
            self.add(Severity::Note, Some(rule), "files.allow lifts nothing: there is no [files] deny");
        }
        let hides_weights = "model.safetensors".parse().is_ok_and(|weights: RepoPath| rule.hides(&weights));
        if rule.kind == RepoKind::Model && hides_weights {
            let text = "withholds model.safetensors: most models would have no weights left";
            self.add(Severity::Warning, Some(rule), text);
        }
    }

    fn of_deny(&mut self, deny: &DenyRule) {
        if !deny.repo.contains('/') && deny.repo != "**" {
            self.0.push(Finding {
                severity: Severity::Warning,
                place: deny.source.clone(),
                rule: Some(deny.name.clone()),
                text: format!("denies ids of one label only; for all repos of an owner write \"{}/*\"", deny.repo),
            });
        }
    }

    /// Entries of the mirror list that `hubgate sync` will refuse.
    fn of_mirror(&mut self, policy: &PolicySet, mirror: &Mirror, today: Date) {
        let repo = &mirror.repo;
        let refused = match policy.decide_repo(repo, today) {
            Err(denial) => vec![(repo.to_string(), denial)],
            Ok(rule) => mirror
                .revisions
                .iter()
                .filter_map(|revision| Some((format!("{repo}@{revision}"), rule.decide_revision(revision).err()?)))
                .collect(),
        };
        for (name, denial) in refused {
            self.0.push(Finding {
                severity: Severity::Warning,
                place: mirror.source.clone(),
                rule: None,
                text: format!("mirror {name}: sync will refuse it: {}", denial.reason()),
            });
        }
    }

    /// Entries of the lock that can't count, and what is kept here as a whole without being locked.
    fn of_lock(&mut self, policy: &PolicySet, lock: &Lock, today: Date) {
        for entry in lock.entries() {
            let decided = policy.decide_repo(&entry.repo, today).and_then(|rule| {
                rule.decide_revision(&entry.revision)?;
                Ok(rule)
            });
            let text = match &decided {
                Err(denial) if denial.kind() == DenialKind::Pinned => denial.reason().to_owned(),
                Err(denial) => format!("it is refused: {}", denial.reason()),
                Ok(rule) => match rule.pin.filter(|pin| *pin != entry.commit) {
                    Some(pin) => format!("rule {} ({}) has pin = \"{pin}\", and that counts", rule.name, rule.source),
                    None => continue,
                },
            };
            self.0.push(Finding {
                severity: Severity::Warning,
                place: entry.source.clone(),
                rule: None,
                text: format!("locked {entry} at {}: {text}", entry.commit),
            });
        }
        for mirror in policy.mirrors.iter().filter(|mirror| lock.of(&mirror.repo).is_none()) {
            self.0.push(Finding {
                severity: Severity::Note,
                place: mirror.source.clone(),
                rule: None,
                text: format!("mirror {} is not in the lock: its branches mean what the Hub says", mirror.repo),
            });
        }
    }

    fn of_use(&mut self, policy: &PolicySet, known: &[Repo]) {
        let mut used = vec![false; policy.rules.len()];
        for repo in known {
            let index = policy.allow_names.of(repo.kind()).find(&repo.id().to_ascii_lowercase());
            if let Some(used) = index.and_then(|index| used.get_mut(index)) {
                *used = true;
            }
        }
        for (rule, _) in policy.rules.iter().zip(used).filter(|(_, used)| !used) {
            self.add(Severity::Note, Some(rule), "speaks for no repo that is stored: is it still needed?");
        }
    }
}

fn not_a_hub_id(id: &LicenseId) -> String {
    format!("{id} is no licence id of the Hub: it matches only a repo that spells it so")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        load::tests::locked_policy,
        lock::tests::{ONE, TWO, lock, locked},
        tests::{day, policy},
    };

    fn findings(text: &str, known: Option<&[Repo]>) -> Vec<String> {
        check(&policy(text), day("2026-11-24"), known).iter().map(ToString::to_string).collect()
    }

    const CLEAN: &str = r#"
        [licenses]
        allow = ["mit"]
        [files]
        deny = ["*.pkl", "*.pickle", "*.pt", "*.pth", "*.ckpt", "*.joblib", "*.py"]
        [[allow]]
        name = "r"
        repo = "acme/tiny"
        pin = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
        approved_by = "legal@example.com"
        ticket = "SEC-1"
    "#;

    #[test]
    fn a_tidy_policy_has_no_finding() {
        let known = ["acme/tiny".parse().unwrap()];
        assert_eq!(findings(CLEAN, Some(&known)), [""; 0]);
    }

    #[test]
    fn each_oddity_is_pointed_out_with_its_place() {
        let more = |text: &str| format!("{CLEAN}\n{text}");
        let reviewed = "approved_by = \"a\"\nticket = \"b\"";
        let cases = [
            (String::new(), "error: nothing is allowed: it has no [[allow]]"),
            ("[[allow]]\nrepo = \"a/b\"".into(), "error: no licence is allowed"),
            (
                more("[[deny]]\nrepo = \"acme/*\"\nreason = \"x\""),
                "policy.toml:6: error: rule r: never speaks: deny acme/*",
            ),
            (more("expires = \"2026-11-23\""), "policy.toml:6: error: rule r: has expired"),
            (more("expires = \"2026-11-25\""), "policy.toml:6: warning: rule r: ends tomorrow"),
            (
                more(&format!("[[allow]]\nrepo = \"x/*\"\n{reviewed}")),
                "policy.toml:13: warning: rule x/*: x/* is an unpinned",
            ),
            (
                more(&format!("[[allow]]\nrepo = \"*/x\"\n{reviewed}")),
                "policy.toml:13: warning: rule */x: */x names repos of any",
            ),
            (more(&format!("[[allow]]\nrepo = \"x/y\"\n{reviewed}")), "policy.toml:13: note: rule x/y: is not pinned"),
            (CLEAN.replace("ticket = \"SEC-1\"", ""), "policy.toml:6: note: rule r: has no ticket"),
            (CLEAN.replace("\"mit\"", "\"mitt\""), "warning: mitt is no licence id of the Hub"),
            (CLEAN.replace("[files]", "unknown = \"allow\"\n[files]"), "warning: repos that state no licence"),
            (CLEAN.replace("\"*.pkl\", ", ""), "note: files that run code when they are loaded are served: *.pkl;"),
            (
                more("license.accept = [\"mit\"]"),
                "policy.toml:6: note: rule r: accepts mit, which is allowed everywhere",
            ),
            (more("files.include = [\"*.json\"]"), "policy.toml:6: warning: rule r: withholds model.safetensors"),
            (
                more("[[deny]]\nrepo = \"evil\"\nreason = \"x\""),
                "policy.toml:13: warning: rule deny evil: denies ids of one label",
            ),
        ];
        for (text, expected) in cases {
            let found = findings(&text, None);
            assert!(found.iter().any(|finding| finding.starts_with(expected)), "{expected:?} is not in {found:#?}");
        }
        let lock = lock(vec![
            locked("acme/tiny", "main", ONE),
            locked("acme/free", "main", ONE),
            locked("acme/free", "refs/pr/1", TWO),
            locked("other/x", "main", ONE),
        ]);
        let text = more("[[allow]]\nname = \"f\"\nrepo = \"acme/free\"\n[[mirror]]\nrepo = \"acme/tiny\"");
        let set = locked_policy(&text, &lock.to_toml()).unwrap();
        let found: Vec<String> = check(&set, day("2026-11-24"), None).iter().map(ToString::to_string).collect();
        for expected in [
            format!("locked acme/tiny@main at {ONE}: rule r (policy.toml:6) has pin = \"c9745ed"),
            format!(
                "locked acme/free@refs/pr/1 at {TWO}: it is refused: revision refs/pr/1 of acme/free is not allowed"
            ),
            format!("locked other/x@main at {ONE}: it is refused: no allow rule names the model other/x"),
        ] {
            let is_told = |finding: &&String| finding.starts_with("models.lock:") && finding.contains(&expected);
            assert!(found.iter().any(|finding| is_told(&finding)), "{expected} is not in {found:#?}");
        }
        assert!(!found.iter().any(|finding| finding.contains("is not pinned")), "{found:#?}");

        let unused = findings(CLEAN, Some(&[]));
        assert!(unused.iter().any(|finding| finding.contains("speaks for no repo that is stored")), "{unused:?}");
    }
}
