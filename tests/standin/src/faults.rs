//! Scripted trouble: which requests it befalls, how often, and what goes wrong.
//!
//! This module only decides; `answer`, `body` and the routes act on what it hands them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::counters::{Class, Origin};

/// What goes wrong. In JSON: `{"kind": "cut_after", "bytes": 1000}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Says nothing for some milliseconds, or until the fault is cleared.
    StallBeforeHeaders {
        /// None: until cleared.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// Falls silent after some body bytes, for some milliseconds or until the fault is cleared, then goes on.
    StallAfter {
        /// Of this answer's body.
        bytes: u64,
        /// None: until cleared.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// Breaks the connection after exactly this many body bytes.
    CutAfter {
        /// Of this answer's body.
        bytes: u64,
    },
    /// One byte of the file is wrong.
    FlipByte {
        /// Its offset in the file.
        at: u64,
    },
    /// Sizes are announced wrong everywhere the request tells one; a body is padded or cut to fit.
    LieSize {
        /// Added to the true size.
        by: i64,
    },
    /// Digests are announced wrong: ETags, `oid`, `sha256`, `blobId`.
    LieDigest,
    /// An answer of this status with this body.
    Status {
        /// The status.
        code: u16,
        /// Sent as text.
        #[serde(default)]
        body: String,
        /// Further headers.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// 429 with `RateLimit: "...";r=0;t=reset` as the Hub sends it.
    RateLimited {
        /// Seconds until the window ends.
        reset: u64,
    },
    /// At most so many bytes a second on each answer.
    Slow {
        /// Rate.
        bytes_per_second: u64,
    },
    /// 302 to another place. `{target}` stands for the path and query asked for.
    RedirectTo {
        /// The Location.
        location: String,
    },
    /// A web page instead of the answer, as a proxy or a broken Hub sends it.
    Html {
        /// The status, often 200.
        code: u16,
    },
    /// Hashes of LFS files are 64 asterisks, as for callers without access.
    MaskedTree,
    /// Listings lack the files that match one of these globs.
    PartialTree {
        /// Of paths in the repo.
        drop: Vec<String>,
    },
    /// Listings have one more entry: a path twice, or one that leaves the folder.
    ExtraTreeEntry {
        /// As it stands in the JSON.
        path: String,
    },
    /// `siblings` lack the files that match one of `drop`, and have those of `add`.
    SiblingsDisagree {
        /// Globs of paths to leave out.
        #[serde(default)]
        drop: Vec<String>,
        /// Paths to add.
        #[serde(default)]
        add: Vec<String>,
    },
    /// The repo is gone: 401, 404 or 451, as the Hub says it.
    RepoGone {
        /// Which.
        code: u16,
    },
    /// The token is refused, whatever it is.
    TokenRefused,
    /// Range requests are answered with 200 and the whole file.
    IgnoreRange,
    /// The connection is closed without an answer.
    Close,
    /// Compressed unless identity was asked for.
    Gzip,
    /// A header is missing.
    DropHeader {
        /// In lower case.
        name: String,
    },
    /// A header is other than it should be.
    SetHeader {
        /// In lower case.
        name: String,
        /// Its value.
        value: String,
    },
}

impl FaultKind {
    /// Spoils the body of an answer, so it must not be used up by one without a body.
    pub(crate) fn is_of_body(&self) -> bool {
        matches!(self, Self::StallAfter { .. } | Self::CutAfter { .. } | Self::FlipByte { .. } | Self::Slow { .. })
    }

    /// Replaces the answer, or keeps it from coming.
    pub(crate) fn is_of_answer(&self) -> bool {
        matches!(
            self,
            Self::StallBeforeHeaders { .. }
                | Self::Status { .. }
                | Self::RateLimited { .. }
                | Self::RedirectTo { .. }
                | Self::Html { .. }
                | Self::RepoGone { .. }
                | Self::TokenRefused
                | Self::Close
        )
    }

    pub(crate) fn is_of_headers(&self) -> bool {
        matches!(self, Self::DropHeader { .. } | Self::SetHeader { .. })
    }

    pub(crate) fn is_of_facts(&self) -> bool {
        matches!(self, Self::LieSize { .. } | Self::LieDigest)
    }

    pub(crate) fn is_of_listing(&self) -> bool {
        matches!(self, Self::MaskedTree | Self::PartialTree { .. } | Self::ExtraTreeEntry { .. })
    }
}

/// Trouble for the requests that match all that is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub fault: FaultKind,
    /// Glob (`*` matches anything, also `/`) over the decoded URL path, or over the file's name,
    /// like `acme/tiny/model.safetensors`, which holds on the CDN too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// One listener only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// One class only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// One method only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Matching requests to let pass first.
    #[serde(default)]
    pub skip: u64,
    /// How many requests it befalls; none: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
}

impl Fault {
    /// For every request, always; narrow it with the methods below.
    pub fn new(fault: FaultKind) -> Self {
        Self { fault, path: None, origin: None, class: None, method: None, skip: 0, times: None }
    }

    /// Only where the path or file name matches a glob.
    pub fn path(mut self, pattern: impl Into<String>) -> Self {
        self.path = Some(pattern.into());
        self
    }

    /// Only on one listener.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Only for one class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }

    /// Only for one method.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Only after this many matching requests went well.
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Only so often.
    pub fn times(mut self, requests: u64) -> Self {
        self.times = Some(requests);
        self
    }

    /// Only once.
    pub fn once(self) -> Self {
        self.times(1)
    }

    fn matches(&self, target: &Target) -> bool {
        let pattern = self.path.as_deref();
        self.origin.is_none_or(|origin| origin == target.origin)
            && self.class.is_none_or(|class| class == target.class)
            && self.method.as_deref().is_none_or(|method| method == target.method)
            && pattern.is_none_or(|pattern| {
                glob(pattern, &target.path) || target.file.as_deref().is_some_and(|file| glob(pattern, file))
            })
    }
}

/// What a fault is matched against.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) origin: Origin,
    pub(crate) class: Class,
    pub(crate) method: String,
    /// Decoded, without query.
    pub(crate) path: String,
    /// Repo and path, where the request is for a file.
    pub(crate) file: Option<String>,
}

/// A fault that struck, and the gate that opens when it is cleared.
#[derive(Clone)]
pub(crate) struct Struck {
    pub(crate) kind: FaultKind,
    gate: Arc<Semaphore>,
}

impl Struck {
    /// Waits for the milliseconds, or until the fault is cleared.
    pub(crate) async fn stall(&self, ms: Option<u64>) {
        let cleared = async { drop(self.gate.acquire().await) };
        match ms {
            Some(ms) => drop(tokio::time::timeout(std::time::Duration::from_millis(ms), cleared).await),
            None => cleared.await,
        }
    }
}

struct Set {
    id: u64,
    fault: Fault,
    seen: u64,
    struck: u64,
    gate: Arc<Semaphore>,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.gate.close();
    }
}

/// A fault as it stands: for `GET /-/standin/faults`.
#[derive(Clone, Debug, Serialize)]
pub struct FaultState {
    /// To clear it by.
    pub id: u64,
    /// How often it struck.
    pub struck: u64,
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
}

#[derive(Default)]
pub(crate) struct Faults {
    set: Mutex<Vec<Set>>,
    next: AtomicU64,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Vec<Set>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, fault: Fault) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().push(Set { id, fault, seen: 0, struck: 0, gate: Arc::new(Semaphore::new(0)) });
        id
    }

    /// Ends one fault, or all; what stalls on them goes on.
    pub(crate) fn clear(&self, id: Option<u64>) -> usize {
        let mut set = self.lock();
        let before = set.len();
        set.retain(|fault| id.is_some_and(|id| fault.id != id));
        before - set.len()
    }

    pub(crate) fn list(&self) -> Vec<FaultState> {
        let state = |set: &Set| FaultState { id: set.id, struck: set.struck, fault: set.fault.clone() };
        self.lock().iter().map(state).collect()
    }

    /// The faults of some sort that befall this request now. Counts them.
    pub(crate) fn strike(&self, target: &Target, sort: impl Fn(&FaultKind) -> bool) -> Vec<Struck> {
        let mut struck = Vec::new();
        for set in self.lock().iter_mut().filter(|set| sort(&set.fault.fault) && set.fault.matches(target)) {
            set.seen += 1;
            if set.seen <= set.fault.skip || set.fault.times.is_some_and(|times| set.struck >= times) {
                continue;
            }
            set.struck += 1;
            struck.push(Struck { kind: set.fault.fault.clone(), gate: set.gate.clone() });
        }
        struck
    }
}

/// True when `*` in the pattern can be filled so that it equals the text.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    while let Some((part, more)) = rest.split_once('*') {
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
        rest = more;
    }
    text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_written() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a/*.bin", "a/b/c.bin", true),
            ("a/*.bin", "b/a/c.bin", false),
            ("*resolve*.safetensors", "/x/resolve/main/model.safetensors", true),
            ("*.safetensors", "model.safetensors.index.json", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_fault_skips_then_strikes_so_often() {
        let faults = Faults::default();
        faults.add(Fault::new(FaultKind::Close).path("*x").skip(1).times(2));
        let target = |path: &str| Target {
            origin: Origin::Hub,
            class: Class::Other,
            method: "GET".into(),
            path: path.into(),
            file: None,
        };
        let struck = |path| faults.strike(&target(path), |_| true).len();
        assert_eq!([struck("/x"), struck("/y"), struck("/x"), struck("/x"), struck("/x")], [0, 0, 1, 1, 0]);
    }

    #[test]
    fn faults_are_written_in_json() {
        let text = r#"{"fault":{"kind":"cut_after","bytes":1000},"path":"*.bin","origin":"cdn","times":1}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::new(FaultKind::CutAfter { bytes: 1000 }).path("*.bin").origin(Origin::Cdn).once());
        assert!(serde_json::from_str::<Fault>(r#"{"fault":{"kind":"nonsense"}}"#).is_err());
    }
}
