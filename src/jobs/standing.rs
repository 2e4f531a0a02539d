//! Where a job stands, from what is stored of it and from what was seen of it: pure but for the clock.
//!
//! Clocks of different machines are never compared. A run is taken for dead when its object has not changed for a
//! while *while we were looking*.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    ledger::{Job, Run, RunState},
    request::JobId,
};
use crate::manifest::WriterId;

/// A job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody works on it yet, or nobody any more.
    Queued,
    /// Some replica works on it.
    Running,
    /// All that was asked for is stored.
    Done,
    /// It ended without; the reason says why.
    Failed,
    /// Somebody wanted it to end.
    Cancelled,
}

impl State {
    /// Whether nothing more happens by itself.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl Job {
    /// The runs of the newest attempt.
    fn current(&self) -> impl Iterator<Item = &(WriterId, Run)> {
        self.runs.iter().filter(|(_, run)| run.attempt == self.attempt)
    }

    /// Where it stands; `is_dead` says of a run that claims to be under way that it is not.
    pub(super) fn state(&self, is_dead: impl Fn(&WriterId, &Run) -> bool) -> State {
        let some = |state| self.current().any(|(_, run)| run.state == state);
        if some(RunState::Done) {
            State::Done
        } else if self.cancelled || some(RunState::Cancelled) {
            State::Cancelled
        } else if some(RunState::Failed) {
            State::Failed
        } else if self.current().any(|(writer, run)| run.state == RunState::Running && !is_dead(writer, run)) {
            State::Running
        } else {
            State::Queued
        }
    }

    /// The run that says most of the newest attempt: the one that brought the end, else the newest.
    pub(super) fn telling(&self) -> Option<&(WriterId, Run)> {
        let weight = |run: &Run| match run.state {
            RunState::Done => 3,
            RunState::Failed => 2,
            RunState::Running => 1,
            RunState::Cancelled | RunState::Released => 0,
        };
        self.current().max_by_key(|(_, run)| (weight(run), run.updated_at))
    }

    /// The runs of the newest attempt that claim to be under way.
    pub(super) fn claims(&self) -> impl Iterator<Item = &(WriterId, Run)> {
        self.current().filter(|(_, run)| run.state == RunState::Running)
    }
}

/// What was seen of the runs of other processes, and of jobs that wait.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<(JobId, Option<WriterId>), Seen>,
    round: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    attempt: u32,
    beat: u64,
    since: Instant,
    /// Whether it has changed under our eyes.
    moved: bool,
    round: u64,
}

impl Watch {
    /// A new look at everything begins.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// The look is over: what it did not see is gone.
    pub(super) fn end(&mut self) {
        self.seen.retain(|_, seen| seen.round == self.round);
    }

    /// A run under way was seen, or, without a writer, a job that waits.
    pub(super) fn see(&mut self, id: &JobId, writer: Option<&WriterId>, attempt: u32, beat: u64) {
        let (now, round) = (Instant::now(), self.round);
        let name = (id.clone(), writer.cloned());
        let seen = self.seen.entry(name).or_insert(Seen { attempt, beat, since: now, moved: false, round });
        seen.round = round;
        if (seen.attempt, seen.beat) != (attempt, beat) {
            *seen = Seen { attempt, beat, since: now, moved: true, round };
        }
    }

    /// For how long it has looked the same; nothing for what was never seen.
    pub(super) fn unchanged(&self, id: &JobId, writer: Option<&WriterId>) -> Duration {
        self.seen.get(&(id.clone(), writer.cloned())).map_or(Duration::ZERO, |seen| seen.since.elapsed())
    }

    /// Whether it has changed under our eyes, and less than `takeover` ago.
    pub(super) fn is_alive(&self, id: &JobId, writer: &WriterId, takeover: Duration) -> bool {
        let seen = self.seen.get(&(id.clone(), Some(writer.clone())));
        seen.is_some_and(|seen| seen.moved && seen.since.elapsed() < takeover)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::request::Request;

    /// Writer, attempt and state of each.
    type Runs<'r> = &'r [(&'r str, u32, RunState)];

    fn job(runs: Runs, attempt: u32, cancelled: bool) -> Job {
        let request = Request::new("acme/tiny".parse().unwrap(), "main".parse().unwrap(), vec![], vec![]).unwrap();
        let json = serde_json::json!({
            "schema": 1, "repo": "acme/tiny", "kind": "model", "revision": "main", "include": [], "exclude": [],
            "priority": 0, "asked_by": "otto", "asked_at": "2026-11-24T10:00:00Z",
        });
        let runs = runs
            .iter()
            .map(|(writer, attempt, state)| (writer.parse().unwrap(), Run { state: *state, ..Run::begun(*attempt) }));
        let asked = serde_json::from_value(json).unwrap();
        Job { id: request.id(), asked, attempt, cancelled, runs: runs.collect() }
    }

    #[test]
    fn the_state_follows_from_the_newest_attempt_alone() {
        use RunState::{Cancelled, Done, Failed, Released, Running};
        let cases: [(Runs, u32, bool, State); 12] = [
            (&[], 1, false, State::Queued),
            (&[("a", 1, Running)], 1, false, State::Running),
            (&[("dead", 1, Running)], 1, false, State::Queued),
            (&[("dead", 1, Running), ("b", 1, Running)], 1, false, State::Running),
            (&[("a", 1, Released)], 1, false, State::Queued),
            (&[("a", 1, Done)], 1, false, State::Done),
            (&[("a", 1, Failed), ("b", 1, Done)], 1, false, State::Done),
            (&[("a", 1, Failed)], 1, false, State::Failed),
            (&[("a", 1, Failed)], 2, false, State::Queued),
            (&[("a", 1, Running)], 1, true, State::Cancelled),
            (&[("a", 1, Done)], 1, true, State::Done),
            (&[("a", 1, Cancelled), ("b", 2, Running)], 2, false, State::Running),
        ];
        for (runs, attempt, cancelled, expected) in cases {
            let state = job(runs, attempt, cancelled).state(|writer, _| writer.as_str() == "dead");
            assert_eq!(state, expected, "{runs:?} at attempt {attempt}, cancelled: {cancelled}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_alive_while_it_changes_under_our_eyes() {
        let (mut watch, job) = (Watch::default(), job(&[], 1, false));
        let (id, writer) = (job.id, "a".parse().unwrap());
        let takeover = Duration::from_secs(10);
        let look = |watch: &mut Watch, beat| {
            watch.begin();
            watch.see(&id, Some(&writer), 1, beat);
            watch.end();
        };
        look(&mut watch, 5);
        assert!(!watch.is_alive(&id, &writer, takeover), "seen once, it may be long dead");
        tokio::time::advance(Duration::from_secs(6)).await;
        look(&mut watch, 6);
        assert!(watch.is_alive(&id, &writer, takeover));
        assert_eq!(watch.unchanged(&id, Some(&writer)), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(11)).await;
        look(&mut watch, 6);
        assert!(!watch.is_alive(&id, &writer, takeover));
        assert_eq!(watch.unchanged(&id, Some(&writer)), Duration::from_secs(11));
        watch.begin();
        watch.end();
        assert_eq!(watch.unchanged(&id, Some(&writer)), Duration::ZERO, "forgotten with its object");
    }
}
