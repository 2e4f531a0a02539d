//! How far a job is: of each file, and of all together. Kept in memory while it runs; a picture of it goes into the
//! store with each sign of life.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    gateway::{self, FileProgress, Planned, PlannedFile, References},
    hub::{Commit, Repo, RepoPath},
};

/// Files that a picture names; those that need a look come first, the rest are counted.
const NAMED: usize = 1000;

/// The time over which the rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(15);

/// A picture of a job's progress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The repo under its canonical name, once it is known.
    pub canonical: Option<Repo>,
    /// The commit that the revision means, once it is known.
    pub commit: Option<Commit>,
    /// The licence, as the manifest has it.
    pub licence: Option<String>,
    /// The rule that allows it.
    pub rule: Option<String>,
    /// Files that are wanted.
    pub files_total: usize,
    /// Those of them that are stored.
    pub files_done: usize,
    /// What is wanted, in bytes.
    pub bytes_total: u64,
    /// What of it is here, in bytes; of a file on its way, what has come.
    pub bytes_done: u64,
    /// What came from the origin in this run, in bytes.
    pub bytes_fetched: u64,
    /// How fast it came in the last seconds.
    pub bytes_per_second: u64,
    /// How long the rest takes at this rate; unknown while nothing comes.
    pub seconds_left: Option<u64>,
    /// The files, at most 1,000: those on their way, that failed or are refused first.
    pub files: Vec<FileShown>,
    /// How many more there are.
    pub files_omitted: usize,
    /// The repos that this one names.
    pub references: References,
}

/// One file of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileShown {
    /// Its path.
    pub path: RepoPath,
    /// Its length in bytes.
    pub size: u64,
    /// Where it stands.
    pub state: FileWord,
    /// What of it is here, in bytes.
    pub bytes: u64,
    /// Why it failed, is refused or withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a file of a job stands. Those that need a look come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileWord {
    /// On its way.
    Coming,
    /// Not stored, though it was wanted.
    Failed,
    /// Policy or a limit refuses it.
    Refused,
    /// Its turn is still to come.
    Waiting,
    /// It came from the origin in this run.
    Fetched,
    /// It was here under another name, or came by another's request.
    Found,
    /// It was stored before.
    Stored,
    /// The rule hides it from clients.
    Withheld,
    /// The request leaves it out.
    Excluded,
}

impl FileWord {
    fn is_wanted(self) -> bool {
        !matches!(self, Self::Refused | Self::Withheld | Self::Excluded)
    }

    fn is_here(self) -> bool {
        matches!(self, Self::Fetched | Self::Found | Self::Stored)
    }
}

/// A job under way in this process.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// All that a picture has but what follows from the files.
    head: Progress,
    files: Vec<FileShown>,
    by_path: HashMap<RepoPath, usize>,
    samples: VecDeque<(Instant, u64)>,
}

impl Live {
    /// The files are known, with what became of them so far.
    pub(super) fn planned(&self, planned: &Planned) {
        let mut inner = self.lock();
        inner.head.canonical = Some(planned.repo.clone());
        inner.head.commit = Some(planned.commit);
        inner.head.licence = Some(planned.licence.clone());
        inner.head.rule = Some(planned.rule.clone());
        inner.files = planned.files.iter().map(FileShown::of).collect();
        inner.by_path = inner.files.iter().enumerate().map(|(n, file)| (file.path.clone(), n)).collect();
        inner.samples.clear();
    }

    /// The repos that this one names are known.
    pub(super) fn refers_to(&self, references: References) {
        self.lock().head.references = references;
    }

    /// Something happened to a file.
    pub(super) fn on(&self, file: &PlannedFile, what: &FileProgress) {
        let mut inner = self.lock();
        let Some(shown) = inner.by_path.get(&file.path).copied().and_then(|n| inner.files.get_mut(n)) else { return };
        let before = shown.bytes;
        match what {
            FileProgress::Begun => shown.state = FileWord::Coming,
            FileProgress::Bytes(bytes) => shown.bytes = (*bytes).max(before),
            FileProgress::Done { fetched } => {
                shown.state = if *fetched { FileWord::Fetched } else { FileWord::Found };
                shown.bytes = shown.size;
            }
            FileProgress::Failed(error) => {
                shown.state = FileWord::Failed;
                shown.bytes = 0;
                shown.reason = Some(error.to_string());
            }
        }
        let more = shown.bytes.saturating_sub(before);
        if !matches!(what, FileProgress::Done { fetched: false }) {
            inner.head.bytes_fetched += more;
        }
    }

    /// A picture of it now.
    pub(super) fn picture(&self) -> Progress {
        let mut inner = self.lock();
        let (now, fetched) = (Instant::now(), inner.head.bytes_fetched);
        inner.samples.push_back((now, fetched));
        // One sample older than the window stays, so that it is covered whole.
        while inner.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW) {
            inner.samples.pop_front();
        }
        let mut picture = inner.head.clone();
        let wanted = || inner.files.iter().filter(|file| file.state.is_wanted());
        picture.files_total = wanted().count();
        picture.files_done = wanted().filter(|file| file.state.is_here()).count();
        picture.bytes_total = wanted().map(|file| file.size).sum();
        picture.bytes_done = wanted().map(|file| file.bytes).sum();
        if let Some((since, before)) = inner.samples.front() {
            let milliseconds = u64::try_from(now.duration_since(*since).as_millis()).unwrap_or(u64::MAX);
            picture.bytes_per_second = (fetched - before).saturating_mul(1000) / milliseconds.max(1);
        }
        let left = picture.bytes_total.saturating_sub(picture.bytes_done);
        picture.seconds_left = (picture.bytes_per_second > 0).then(|| left.div_ceil(picture.bytes_per_second.max(1)));
        let mut files: Vec<&FileShown> = inner.files.iter().collect();
        files.sort_by_key(|file| file.state);
        picture.files_omitted = files.len().saturating_sub(NAMED);
        picture.files = files.into_iter().take(NAMED).cloned().collect();
        picture.files.sort_by(|a, b| a.path.cmp(&b.path));
        picture
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileShown {
    fn of(file: &PlannedFile) -> Self {
        let (state, reason) = match &file.state {
            gateway::FileState::Stored(_) => (FileWord::Stored, None),
            gateway::FileState::Here | gateway::FileState::Missing => (FileWord::Waiting, None),
            gateway::FileState::Withheld(why) => (FileWord::Withheld, Some(why.clone())),
            gateway::FileState::Refused(why) => (FileWord::Refused, Some(why.clone())),
            gateway::FileState::Excluded => (FileWord::Excluded, None),
        };
        let bytes = if state == FileWord::Stored { file.size } else { 0 };
        Self { path: file.path.clone(), size: file.size, state, bytes, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gateway::{Error, FileState},
        hub::{BlobId, Sha256},
    };

    fn file(path: &str, size: u64, state: FileState) -> PlannedFile {
        PlannedFile { path: path.parse().unwrap(), size, blob: BlobId::Sha256(Sha256::of(path.as_bytes())), state }
    }

    fn planned(files: &[PlannedFile]) -> Planned {
        Planned {
            repo: "acme/tiny".parse().unwrap(),
            commit: "1".repeat(40).parse().unwrap(),
            stale: false,
            licence: "mit".into(),
            licence_from: "the README".into(),
            rule: "acme".into(),
            warning: None,
            files: files.to_vec(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_picture_sums_up_what_is_wanted_what_is_here_and_how_long_it_takes() {
        let files = [
            file("here", 100, FileState::Stored(Sha256::of(b"here"))),
            file("twin", 50, FileState::Here),
            file("large", 1000, FileState::Missing),
            file("bad", 500, FileState::Missing),
            file("hidden", 9, FileState::Withheld("files.deny".into())),
            file("other", 9, FileState::Excluded),
        ];
        let live = Live::default();
        live.planned(&planned(&files));
        let picture = live.picture();
        assert_eq!((picture.files_total, picture.files_done), (4, 1));
        assert_eq!((picture.bytes_total, picture.bytes_done, picture.seconds_left), (1650, 100, None));

        live.on(&files[1], &FileProgress::Begun);
        live.on(&files[1], &FileProgress::Done { fetched: false });
        live.on(&files[2], &FileProgress::Begun);
        live.on(&files[2], &FileProgress::Bytes(400));
        tokio::time::advance(Duration::from_secs(4)).await;
        let picture = live.picture();
        assert_eq!((picture.bytes_done, picture.bytes_fetched, picture.bytes_per_second), (550, 400, 100));
        assert_eq!(picture.seconds_left, Some(11), "1100 bytes are left");

        live.on(&files[2], &FileProgress::Done { fetched: true });
        live.on(&files[3], &FileProgress::Begun);
        live.on(&files[3], &FileProgress::Bytes(200));
        live.on(&files[3], &FileProgress::Failed(Error::TooMany("broken".into())));
        let picture = live.picture();
        assert_eq!((picture.files_done, picture.bytes_done), (3, 1150));
        let states: Vec<_> = picture.files.iter().map(|file| (file.path.as_str(), file.state)).collect();
        assert_eq!(
            states,
            [
                ("bad", FileWord::Failed),
                ("here", FileWord::Stored),
                ("hidden", FileWord::Withheld),
                ("large", FileWord::Fetched),
                ("other", FileWord::Excluded),
                ("twin", FileWord::Found),
            ]
        );
        assert_eq!(picture.files[0].reason.as_deref(), Some("broken"));
        let text = serde_json::to_string(&picture).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), picture);
    }

    #[test]
    fn of_very_many_files_those_that_need_a_look_are_named() {
        let mut files: Vec<_> =
            (0..NAMED + 5).map(|n| file(&format!("{n:05}"), 1, FileState::Stored(Sha256::of(b"")))).collect();
        files.push(file("z", 1, FileState::Refused("max_file_size".into())));
        let live = Live::default();
        live.planned(&planned(&files));
        let picture = live.picture();
        assert_eq!((picture.files.len(), picture.files_omitted, picture.files_done), (NAMED, 6, NAMED + 5));
        assert_eq!(picture.files.last().unwrap().state, FileWord::Refused);
    }
}
