//! What happened to a file, as the log keeps it: the fields that an auditor asks for, all of them from the
//! first record on.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;

use crate::hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256};

/// The version of a record's form. Lines of a later one are kept in their chain but not understood.
pub(super) const SCHEMA: u32 = 1;

/// One line of the log.
///
/// Every process writes a chain of its own: `seq` counts from 1 without a gap and `prev` is the sha256 of
/// the line before (without its line break), so a changed or removed record shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the form.
    pub schema: u32,
    /// When it was written, in UTC with microseconds; within a chain it never goes back.
    #[serde(with = "rfc3339_micros")]
    pub time: OffsetDateTime,
    /// Whose chain it stands in.
    pub writer: WriterId,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// The sha256 of the line before; [`Sha256::ZERO`] for the first.
    pub prev: Sha256,
    /// What happened.
    #[serde(flatten)]
    pub fact: NewRecord,
}

/// What a caller knows of what happened; time and place in the chain are added as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRecord {
    /// What happened to the file.
    pub what: What,
    /// The repo under its canonical name; in JSON `kind` and `repo`.
    #[serde(flatten, with = "kind_and_id")]
    pub repo: Repo,
    /// Upstream's own id of the repo, where it gave one.
    pub upstream_id: Option<String>,
    /// The revision as it was asked, where somebody asked.
    pub revision: Option<Revision>,
    /// The commit that it meant.
    pub commit: Commit,
    /// The path in the commit's tree.
    pub path: RepoPath,
    /// Length in bytes.
    pub size: u64,
    /// The digest of the content.
    pub sha256: Sha256,
    /// Upstream's etag.
    pub etag: BlobId,
    /// The licence as found.
    pub licence: Option<String>,
    /// Where it was found: the README at the commit, the repo's card, its tags.
    pub licence_from: Option<String>,
    /// The name of the policy rule that allowed it.
    pub rule: Option<String>,
    /// Who approved that rule.
    pub approved_by: Option<String>,
    /// The ticket of the approval.
    pub ticket: Option<String>,
    /// The digest of the policy that was in force; its text stands in the store.
    pub policy_sha256: Option<Sha256>,
    /// The client or job that caused it.
    pub asked_by: Option<String>,
    /// The host of the origin.
    pub origin: String,
}

/// What a record says happened. The set is open: a word of a later version is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// Verified and stored; from here on it may be served.
    Stored,
    /// Removed to make room or because nothing needed it.
    Evicted,
    /// Removed because it may no longer be served.
    Withdrawn,
    /// A word that this version does not know; it leaves a file's state as it was.
    Other(String),
}

impl What {
    /// Whether the file may be served after this; `None` where the record does not say.
    pub fn may_serve(&self) -> Option<bool> {
        match self {
            Self::Stored => Some(true),
            Self::Evicted | Self::Withdrawn => Some(false),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Evicted => "evicted",
            Self::Withdrawn => "withdrawn",
            Self::Other(word) => word,
        })
    }
}

impl From<String> for What {
    fn from(word: String) -> Self {
        match word.as_str() {
            "stored" => Self::Stored,
            "evicted" => Self::Evicted,
            "withdrawn" => Self::Withdrawn,
            _ => Self::Other(word),
        }
    }
}

impl Serialize for What {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for What {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// The name of one writer of the log: one process, once. It is a part of keys, so it has `[a-z0-9-]` only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(Arc<str>);

impl WriterId {
    /// A new name for this process (UUID v7: later processes sort later).
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for WriterId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WriterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
            return Err(format!("{text:?} is not a writer's name: 1 to 64 of a-z, 0-9 and -"));
        }
        Ok(Self(text.into()))
    }
}

impl Serialize for WriterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WriterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A repo as two fields, `kind` and `repo`.
pub(crate) mod kind_and_id {
    use super::{Deserialize, Deserializer, Repo, Serialize, Serializer, de};
    use crate::hub::RepoKind;

    #[derive(Serialize, Deserialize)]
    struct Fields<T> {
        kind: RepoKind,
        repo: T,
    }

    pub(crate) fn serialize<S: Serializer>(repo: &Repo, serializer: S) -> Result<S::Ok, S::Error> {
        Fields { kind: repo.kind(), repo: repo.id() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Repo, D::Error> {
        let fields = Fields::<String>::deserialize(deserializer)?;
        Repo::new(fields.kind, &fields.repo).map_err(de::Error::custom)
    }
}

/// Times of one width, so that they sort as text.
pub(super) mod rfc3339_micros {
    use serde::ser;
    use time::{
        OffsetDateTime, UtcOffset,
        format_description::{BorrowedFormatItem, well_known::Rfc3339},
        macros::format_description,
    };

    use super::{Deserialize, Deserializer, Serializer, de};

    const FORM: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

    pub(in super::super) fn format(time: OffsetDateTime) -> Result<String, time::error::Format> {
        time.to_offset(UtcOffset::UTC).format(FORM)
    }

    pub(in super::super) fn serialize<S: Serializer>(time: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format(*time).map_err(ser::Error::custom)?)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<OffsetDateTime, D::Error> {
        OffsetDateTime::parse(&String::deserialize(from)?, &Rfc3339).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::{super::testing, *};

    fn record() -> Record {
        Record {
            schema: SCHEMA,
            time: datetime!(2026-11-24 05:51:59.000120 UTC),
            writer: "0198-a".parse().unwrap(),
            seq: 1,
            prev: Sha256::ZERO,
            fact: testing::fact(1),
        }
    }

    #[test]
    fn a_record_is_one_flat_line_with_every_field() {
        let line = serde_json::to_string(&record()).unwrap();
        let fields: Vec<&str> = line.split("\":").filter_map(|part| part.rsplit('"').next()).collect();
        let expected = "schema time writer seq prev what kind repo upstream_id revision commit path size sha256 etag \
                        licence licence_from rule approved_by ticket policy_sha256 asked_by origin";
        assert_eq!(fields[..23].join(" "), expected, "{line}");
        assert!(line.contains(r#""time":"2026-11-24T05:51:59.000120Z""#), "{line}");
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record());
    }

    #[test]
    fn words_of_a_later_version_are_kept() {
        let line = serde_json::to_string(&record()).unwrap();
        let later = line.replace("\"stored\"", "\"quarantined\"").replace("\"seq\"", "\"colour\":\"red\",\"seq\"");
        let read: Record = serde_json::from_str(&later).unwrap();
        assert_eq!(read.fact.what, What::Other("quarantined".into()));
        assert_eq!(read.fact.what.may_serve(), None);
        assert_eq!(read.fact.what.to_string(), "quarantined");
    }

    #[test]
    fn a_writers_name_is_safe_in_a_key() {
        assert!(WriterId::new().as_str().parse::<WriterId>().is_ok());
        for bad in ["", "a/b", "..", "A", &"x".repeat(65)] {
            assert!(bad.parse::<WriterId>().is_err(), "{bad:?} was accepted");
        }
    }
}
