//! What a verification found, for people and for programs.

use std::{collections::BTreeMap, fmt, io};

use serde::Serialize;

/// Findings of one kind that are named; beyond them they are only counted.
const NAMED_PER_KIND: u64 = 10_000;

/// A kind of thing that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file that the manifest has, without its content.
    MissingBlob,
    /// Content that does not hash to its name, or can't be read.
    AlteredBlob,
    /// Content that no entry names: a crash left it, or somebody put it there.
    UnrecordedBlob,
    /// A file that may be served though no record says why.
    NoLogRecord,
    /// A recorded file that is not served: a crash came before its index entry.
    NoIndexEntry,
    /// A file that may be served though its newest record says that it was evicted or withdrawn.
    ServedAfterRemoval,
    /// Two places that say different things of one file.
    Disagreement,
    /// Log records that are gone.
    MissingRecord,
    /// A log record that is not what the next one says it was.
    AlteredRecord,
    /// Entries of the audit log of operators' changes that are gone.
    MissingAuditEntry,
    /// An entry of the audit log that is not what the next one says it was.
    AlteredAuditEntry,
    /// An object that is not what its key says, or can't be read.
    Unreadable,
    /// A commit's snapshot that is broken or names another content than the entry.
    Snapshot,
    /// A policy that records refer to, without its text.
    MissingPolicy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingBlob => "missing blob",
            Self::AlteredBlob => "altered blob",
            Self::UnrecordedBlob => "unrecorded blob",
            Self::NoLogRecord => "entry without log record",
            Self::NoIndexEntry => "log record without index entry",
            Self::ServedAfterRemoval => "entry of a removed file",
            Self::Disagreement => "disagreement",
            Self::MissingRecord => "missing log record",
            Self::AlteredRecord => "altered log record",
            Self::MissingAuditEntry => "missing audit entry",
            Self::AlteredAuditEntry => "altered audit entry",
            Self::Unreadable => "unreadable object",
            Self::Snapshot => "bad snapshot",
            Self::MissingPolicy => "missing policy text",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// Which: `org/name@commit path`, a blob's sha256, a writer or a key.
    pub name: String,
    /// What was found there, and the remedy where there is one.
    pub detail: String,
    /// Whether it has been put right.
    pub repaired: bool,
}

/// The end of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Records of a later version of hubgate, of which only the chain was checked.
    pub newer_records: u64,
    /// Entries of the audit log read.
    pub audit_entries: u64,
    /// Index entries read.
    pub entries: u64,
    /// Blobs hashed.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Blobs of which only presence and size were looked at: outside the sample, or hashed before an interruption.
    pub blobs_not_hashed: u64,
    /// Commits with a snapshot.
    pub snapshots: u64,
    /// Whether the snapshots' contents were checked too.
    pub snapshots_checked: bool,
    /// How many findings there are of each kind, repaired ones too.
    pub counts: BTreeMap<Kind, u64>,
    /// How many of them have been put right.
    pub repaired: u64,
    /// The findings by name, at most 10,000 of a kind.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Takes note of a finding.
    pub fn add(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.kind).or_default();
        *count += 1;
        self.repaired += u64::from(finding.repaired);
        if *count <= NAMED_PER_KIND {
            self.findings.push(finding);
        }
    }

    /// How many findings there are, repaired ones too.
    pub fn found(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Whether nothing is wrong (any more): the command's exit code is 0, else 1.
    pub fn is_fine(&self) -> bool {
        self.found() == self.repaired
    }

    /// Writes the report for people: a line for each finding, a summary at the end.
    pub fn write_text(&self, out: &mut dyn io::Write) -> io::Result<()> {
        for Finding { kind, name, detail, repaired } in &self.findings {
            writeln!(out, "{kind}: {name}: {detail}{}", if *repaired { " (repaired)" } else { "" })?;
        }
        for (kind, count) in self.counts.iter().filter(|(_, count)| **count > NAMED_PER_KIND) {
            writeln!(out, "{kind}: {} more", count - NAMED_PER_KIND)?;
        }
        let Self { records, audit_entries, entries, blobs, blob_bytes, snapshots, .. } = self;
        let unchecked = if self.snapshots_checked { "" } else { " (contents not checked)" };
        writeln!(
            out,
            "{records} log records, {audit_entries} audit entries, {entries} index entries, {blobs} blobs hashed ({blob_bytes} bytes), \
             {snapshots} snapshots{unchecked}"
        )?;
        if self.blobs_not_hashed > 0 {
            writeln!(out, "{} more blobs were not hashed in this run", self.blobs_not_hashed)?;
        }
        if self.newer_records > 0 {
            writeln!(out, "{} log records are of a later version and were not checked", self.newer_records)?;
        }
        match (self.found(), self.repaired) {
            (0, _) => writeln!(out, "all is well"),
            (found, 0) => writeln!(out, "{found} found, none repaired"),
            (found, repaired) => writeln!(out, "{found} found, {repaired} of them repaired"),
        }
    }

    /// Writes the report as one JSON object.
    pub fn write_json(&self, out: &mut dyn io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_of_a_kind_are_counted_and_not_all_kept() {
        let mut report = Report::default();
        for n in 0..NAMED_PER_KIND + 5 {
            report.add(Finding {
                kind: Kind::MissingBlob,
                name: n.to_string(),
                detail: "gone".into(),
                repaired: false,
            });
        }
        assert_eq!(report.findings.len() as u64, NAMED_PER_KIND);
        let mut text = Vec::new();
        report.write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("missing blob: 5 more\n") && text.contains("10005 found"), "{text}");
        assert!(!report.is_fine());
    }

    #[test]
    fn what_was_repaired_is_reported_and_fine() {
        let mut report = Report::default();
        assert!(report.is_fine());
        let finding = Finding { kind: Kind::NoIndexEntry, name: "a".into(), detail: "b".into(), repaired: true };
        report.add(finding);
        assert!(report.is_fine());
        let mut json = Vec::new();
        report.write_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["counts"]["no_index_entry"], 1);
        assert_eq!(json["findings"][0]["kind"], "no_index_entry");
    }
}
