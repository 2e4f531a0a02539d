//! What was asked of the stand-in: counts by class and by path, bytes sent, and the last requests with
//! all their headers, so that a test can say what did (and did not) cross the wire.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::faults::glob;

/// Which of the two listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The Hub itself.
    Hub,
    /// The CDN that LFS files redirect to.
    Cdn,
}

/// What kind of question a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `/{repo}/resolve/...`
    Resolve,
    /// `/api/resolve-cache/...`
    ResolveCache,
    /// `/{repo}/raw/...`
    Raw,
    /// `/api/models/{repo}[/revision/...]`
    Info,
    /// `/tree/`
    Tree,
    /// `/paths-info/`
    PathsInfo,
    /// `/refs`
    Refs,
    /// `/commits/`
    Commits,
    /// `/auth-check`
    AuthCheck,
    /// `/api/whoami-v2`
    Whoami,
    /// `/xet-read-token/`
    XetToken,
    /// `/api/models?...`
    List,
    /// A file at the CDN.
    Cdn,
    /// A Xet request: nothing that we test should make one.
    Cas,
    /// Anything else.
    Other,
}

/// One request as it arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// Grows by one with each request.
    pub seq: u64,
    /// The listener.
    pub origin: Origin,
    /// Its class.
    pub class: Class,
    /// GET, HEAD, POST.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// For a file: its repo and path, like `acme/tiny/config.json`.
    pub file: Option<String>,
    /// All headers, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// Body bytes handed to the connection so far.
    pub bytes: u64,
}

impl Recorded {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// All counts at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Connections that were accepted.
    pub connections: u64,
    /// Requests in all.
    pub requests: u64,
    /// Body bytes in all.
    pub bytes: u64,
    /// Requests by class.
    pub classes: BTreeMap<Class, u64>,
    /// Body bytes by listener.
    pub origin_bytes: BTreeMap<Origin, u64>,
    /// Requests by method and path (no query), like `GET /acme/tiny/resolve/main/config.json`.
    pub paths: BTreeMap<String, u64>,
    /// Body bytes by file, for answers that carry file content, like `acme/tiny/config.json`.
    pub file_bytes: BTreeMap<String, u64>,
    /// The last requests, oldest first.
    pub recent: VecDeque<Recorded>,
}

impl Counters {
    /// Requests of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.classes.get(&class).copied().unwrap_or(0)
    }

    /// Requests whose `METHOD /path` matches a glob, like `GET *config.json`.
    pub fn matching(&self, pattern: &str) -> u64 {
        self.paths.iter().filter(|(path, _)| glob(pattern, path)).map(|(_, count)| count).sum()
    }

    /// Body bytes of files whose name matches a glob, like `acme/tiny/*`.
    pub fn file_bytes(&self, pattern: &str) -> u64 {
        self.file_bytes.iter().filter(|(file, _)| glob(pattern, file)).map(|(_, bytes)| bytes).sum()
    }
}

pub(crate) struct Counting {
    now: Mutex<Counters>,
    next: Mutex<u64>,
    keep: usize,
    /// Ticks on every change, for those who wait for one.
    pub(crate) changed: watch::Sender<u64>,
}

impl Counting {
    pub(crate) fn new(keep: usize) -> Self {
        Self { now: Mutex::default(), next: Mutex::new(0), keep, changed: watch::channel(0).0 }
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.changed.send_modify(|tick| *tick += 1);
    }

    pub(crate) fn connected(&self) {
        self.lock().connections += 1;
        self.tick();
    }

    pub(crate) fn arrived(&self, mut request: Recorded) -> u64 {
        let seq = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next += 1;
            *next
        };
        request.seq = seq;
        let mut now = self.lock();
        now.requests += 1;
        *now.classes.entry(request.class).or_default() += 1;
        let path = request.target.split('?').next().unwrap_or_default();
        *now.paths.entry(format!("{} {path}", request.method)).or_default() += 1;
        if now.recent.len() >= self.keep {
            now.recent.pop_front();
        }
        now.recent.push_back(request);
        drop(now);
        self.tick();
        seq
    }

    pub(crate) fn answered(&self, seq: u64, status: u16) {
        if let Some(request) = find(&mut self.lock().recent, seq) {
            request.status = status;
        }
        self.tick();
    }

    pub(crate) fn sent(&self, seq: u64, origin: Origin, file: Option<&str>, bytes: u64) {
        let mut now = self.lock();
        now.bytes += bytes;
        *now.origin_bytes.entry(origin).or_default() += bytes;
        if let Some(file) = file {
            if let Some(sum) = now.file_bytes.get_mut(file) {
                *sum += bytes;
            } else {
                now.file_bytes.insert(file.to_owned(), bytes);
            }
        }
        if let Some(request) = find(&mut now.recent, seq) {
            request.bytes += bytes;
        }
        drop(now);
        self.tick();
    }

    pub(crate) fn snapshot(&self) -> Counters {
        self.lock().clone()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Counters) -> T) -> T {
        look(&self.lock())
    }

    pub(crate) fn reset(&self) {
        *self.lock() = Counters::default();
    }
}

fn find(recent: &mut VecDeque<Recorded>, seq: u64) -> Option<&mut Recorded> {
    let first = recent.front()?.seq;
    let at = usize::try_from(seq.checked_sub(first)?).ok()?;
    recent.get_mut(at).filter(|request| request.seq == seq)
}
