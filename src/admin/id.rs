//! The names of approvals and withdrawals: the day and ten hex digits, short enough to be read out.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;

/// `20261124-3fa9c1d27b`. It stands in keys and in rules' names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// A new one.
    pub(super) fn new(now: OffsetDateTime) -> Self {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let day = super::audit::day(now).replace('-', "");
        Self(format!("{day}-{}", random.get(..10).unwrap_or_default()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (day, random) = text.split_once('-').unwrap_or_default();
        let is_day = day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit());
        let is_random = random.len() == 10 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_day && is_random {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(40).collect();
        Err(format!("{shown:?} is no id: they look like 20261124-3fa9c1d27b"))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
