//! A policy's no: one text, the same in the client's terminal, the log and `hubgate policy explain`.

use std::fmt;

/// Why something is refused, by which rule, and what would help.
///
/// All texts are one line of printable ASCII, since they travel in HTTP headers (PROTOCOL 5.5). `Display` is the whole
/// text without the contact; [`Denial::message`] adds it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Denial {
    kind: DenialKind,
    reason: String,
    rule: Option<String>,
    remedy: String,
}

impl Denial {
    /// `reason` and `remedy` are sentences without their full stops.
    pub(super) fn new(kind: DenialKind, rule: Option<&str>, reason: &str, remedy: &str) -> Self {
        Self { kind, reason: one_line(reason), rule: rule.map(one_line), remedy: one_line(remedy) }
    }

    /// The sort of refusal, for metrics and for tests.
    pub fn kind(&self) -> DenialKind {
        self.kind
    }

    /// What is wrong, in one line: "acme/x: no allow rule names this model".
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The name of the rule that refused; `None` where no rule matched.
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// What would help, in one line.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The whole text with whom to ask: `policy.contact`, where it is configured.
    pub fn message(&self, contact: Option<&str>) -> String {
        match contact {
            Some(contact) => format!("{self} Contact: {}", one_line(contact)),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocked by hubgate policy")?;
        if let Some(rule) = &self.rule {
            write!(f, " (rule {rule})")?;
        }
        write!(f, ": {}. {}.", self.reason, self.remedy)
    }
}

impl std::error::Error for Denial {}

/// The sorts of refusal. Their names are stable: metrics and the JSON of errors carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialKind {
    /// No allow rule names the repo.
    NoRule,
    /// A deny rule names it.
    DenyRule,
    /// The rule that names it has expired.
    Expired,
    /// The rule does not name this revision.
    Revision,
    /// The rule is pinned to another commit.
    Pinned,
    /// The lock has no such revision or commit of the repo.
    NotLocked,
    /// The file is not the one that was locked.
    LockDiffers,
    /// The name now leads to another repo, which policy does not allow.
    Renamed,
    /// Upstream's own id or author of the repo is not the one first seen.
    OwnerChanged,
    /// Gated or private upstream, and the rule does not say `gated = true`.
    Gated,
    /// Disabled upstream.
    Disabled,
    /// The licence is known and not allowed.
    License,
    /// No licence is stated.
    LicenseUnknown,
    /// A licence may be stated, but it can't be read.
    LicenseUnreadable,
    /// README.md and the Hub's own data name different licences.
    LicenseDisagrees,
    /// The file is withheld.
    FileHidden,
    /// The file is larger than the rule's `max_file_size`.
    FileTooLarge,
    /// Withholding files would leave a model without weights.
    NoWeights,
    /// The rule asks for a hook that passed, and none has.
    HookNotPassed,
}

impl DenialKind {
    /// The stable name: `no_rule`, `deny_rule`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::DenyRule => "deny_rule",
            Self::Expired => "expired",
            Self::Revision => "revision",
            Self::Pinned => "pinned",
            Self::NotLocked => "not_locked",
            Self::LockDiffers => "lock_differs",
            Self::Renamed => "renamed",
            Self::OwnerChanged => "owner_changed",
            Self::Gated => "gated",
            Self::Disabled => "disabled",
            Self::License => "license",
            Self::LicenseUnknown => "license_unknown",
            Self::LicenseUnreadable => "license_unreadable",
            Self::LicenseDisagrees => "license_disagrees",
            Self::FileHidden => "file_hidden",
            Self::HookNotPassed => "hook_not_passed",
            Self::FileTooLarge => "file_too_large",
            Self::NoWeights => "no_weights",
        }
    }
}

/// Text as an HTTP header can carry it: printable ASCII on one line, `?` for anything else, at most 500 characters.
pub(super) fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    let mut line: String = text
        .trim()
        .chars()
        .take(MAX_CHARS)
        .map(|c| match c {
            ' '..='~' => c,
            c if c.is_whitespace() => ' ',
            _ => '?',
        })
        .collect();
    if text.trim().chars().nth(MAX_CHARS).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_one_ascii_line_whatever_the_policy_says() {
        let long = "x".repeat(2000);
        for reason in ["Gründe\r\nSet-Cookie: x", "tab\there", "\u{7f}\0", &long] {
            let denial = Denial::new(DenialKind::DenyRule, Some("né\nw"), reason, "ask\nagain");
            let text = denial.message(Some("légal\n@example.com"));
            assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
            assert!(text.len() < 1500);
        }
    }

    #[test]
    fn the_text_says_which_rule_why_what_helps_and_whom_to_ask() {
        let denial = Denial::new(DenialKind::License, Some("minilm"), "licence gpl-3.0 is not allowed", "Ask for it");
        assert_eq!(
            denial.message(Some("legal@example.com")),
            "Blocked by hubgate policy (rule minilm): licence gpl-3.0 is not allowed. Ask for it. Contact: legal@example.com"
        );
        assert_eq!(serde_json::to_value(&denial).unwrap()["kind"], serde_json::Value::from(denial.kind().as_str()),);
    }
}
