//! The `[jobs]` section.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Whole repos that are brought in behind clients' traffic.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobsConfig {
    /// Jobs that this process runs at once. 0 leaves them to other replicas.
    pub concurrency: usize,
    /// Files of one job that are fetched at once.
    pub files: usize,
    /// How long whoever runs a job may give no sign of life before another replica takes it up; at least 1s.
    #[serde(deserialize_with = "duration")]
    pub takeover: Duration,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self { concurrency: 2, files: 4, takeover: Duration::from_secs(30) }
    }
}

impl JobsConfig {
    /// How often a job under way gives a sign of life.
    pub(super) fn beat(&self) -> Duration {
        (self.takeover / 10).min(Duration::from_secs(3))
    }

    /// How often the store is looked at for jobs.
    pub(super) fn look(&self) -> Duration {
        (self.takeover / 5).min(Duration::from_secs(2))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |problem: String| serde::de::Error::custom(format!("{text:?} {problem}"));
    let duration = humantime::parse_duration(&text)
        .map_err(|error| wrong(format!("is no duration ({error}): write 30s or 1m")))?;
    if duration < Duration::from_secs(1) {
        return Err(wrong("is too short: a busy store alone takes longer; write at least 1s".into()));
    }
    Ok(duration)
}
