//! Which blobs are hashed: all, all that an interrupted verification has not reached, or a random sample.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::super::{Error, Result};
use crate::{
    hub::Sha256,
    store::{Key, ObjectMeta, Prefix, Store},
};

/// The version of a state's form.
const SCHEMA: u32 = 1;

/// What an interrupted verification has hashed and found whole, in a file of the operator's. A blob of another size or
/// time than then is hashed again.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    known: HashSet<String>,
    file: Mutex<File>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    hubgate_verify: u32,
    store: String,
}

impl State {
    /// Opens it, or begins one. `store` says where the store is; the state of another is refused.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn open(path: &Path, store: &str) -> std::result::Result<Self, String> {
        let named = |problem: &dyn std::fmt::Display| format!("--state {}: {problem}", path.display());
        let failed = |error: io::Error| named(&error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let header = Header { hubgate_verify: SCHEMA, store: store.to_owned() };
        let foreign = |what: &str| named(&format!("{what}; remove it or name another file"));
        let (mut known, mut good) = (HashSet::new(), 0);
        let mut reader = BufReader::new(&file);
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line).map_err(failed)? as u64;
            // What a crash cut off has no line break, and is written over.
            let Some(text) = line.strip_suffix('\n') else { break };
            if good == 0 {
                match serde_json::from_str::<Header>(text) {
                    Ok(there) if there == header => {}
                    Ok(there) => return Err(foreign(&format!("of a verification of {}", there.store))),
                    Err(_) => return Err(foreign("not what `hubgate verify` has kept there")),
                }
            } else if text.split(' ').next().is_none_or(|digest| digest.parse::<Sha256>().is_err()) {
                return Err(foreign(&format!("{text:?} is no line that `hubgate verify` wrote")));
            } else {
                known.insert(text.to_owned());
            }
            good += length;
        }
        if good == 0 && !line.is_empty() && !line.starts_with("{\"hubgate_verify\"") {
            return Err(foreign("not what `hubgate verify` has kept there"));
        }
        file.set_len(good).and_then(|()| file.seek(io::SeekFrom::End(0))).map_err(failed)?;
        if good == 0 {
            let text = serde_json::to_string(&header).map_err(|error| named(&error))?;
            writeln!(file, "{text}").map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), known, file: Mutex::new(file) })
    }

    /// How many blobs were found whole before.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Removes it: the verification has come to its end.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    fn knows(&self, meta: &ObjectMeta) -> bool {
        line(meta).is_some_and(|line| self.known.contains(&line))
    }

    /// Notes a blob that is whole.
    pub(super) fn add(&self, meta: &ObjectMeta) -> io::Result<()> {
        let Some(line) = line(meta) else { return Ok(()) };
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{line}\n").as_bytes())
    }
}

fn line(meta: &ObjectMeta) -> Option<String> {
    let micros = meta.modified.duration_since(UNIX_EPOCH).ok()?.as_micros();
    Some(format!("{} {} {micros}", meta.key.digest()?, meta.size))
}

/// Which blobs are hashed.
#[derive(Debug)]
pub(super) enum Selection<'a> {
    All,
    Beyond(&'a State),
    Sample(HashSet<Key>),
}

impl<'a> Selection<'a> {
    /// `sample` blobs at random, each as likely as any other; or those that `state` does not know.
    pub(super) async fn new(store: &dyn Store, sample: Option<usize>, state: Option<&'a State>) -> Result<Self> {
        let Some(most) = sample else { return Ok(state.map_or(Self::All, Self::Beyond)) };
        let (mut taken, mut seen) = (Vec::new(), 0);
        let mut blobs = store.list(&Prefix::blobs());
        while let Some(meta) = blobs.try_next().await.map_err(|error| Error::Read(error.into()))? {
            // A reservoir: the n-th blob takes a place with the chance most/n.
            let place = fastrand::usize(0..=seen);
            if taken.len() < most {
                taken.push(meta.key);
            } else if let Some(old) = taken.get_mut(place) {
                *old = meta.key;
            }
            seen += 1;
        }
        Ok(Self::Sample(taken.into_iter().collect()))
    }

    /// Whether this one is to be hashed.
    pub(super) fn takes(&self, meta: &ObjectMeta) -> bool {
        match self {
            Self::All => true,
            Self::Beyond(state) => !state.knows(meta),
            Self::Sample(taken) => taken.contains(&meta.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn meta(n: u64) -> ObjectMeta {
        let key = Key::blob(&Sha256::of(&n.to_le_bytes()));
        ObjectMeta { key, size: n, modified: SystemTime::UNIX_EPOCH + Duration::from_secs(n) }
    }

    #[test]
    fn a_state_knows_what_was_noted_as_it_was_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = State::open(&path, "here").unwrap();
        state.add(&meta(1)).unwrap();
        state.add(&meta(2)).unwrap();
        // As a crash in the middle of a line leaves it.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        let state = State::open(&path, "here").unwrap();
        assert!(state.knows(&meta(1)) && !state.knows(&meta(2)));
        let touched = ObjectMeta { modified: SystemTime::now(), ..meta(1) };
        assert!(!state.knows(&touched));
        state.add(&meta(2)).unwrap();
        assert_eq!(State::open(&path, "here").unwrap().known(), 2);
    }

    #[test]
    fn a_file_that_is_no_state_of_this_store_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        drop(State::open(&path, "here").unwrap());
        let error = State::open(&path, "there").unwrap_err();
        assert!(error.contains("of a verification of here; remove it or name another"), "{error}");
        for text in ["precious\n", "precious"] {
            std::fs::write(&path, text).unwrap();
            assert!(State::open(&path, "here").unwrap_err().contains("not what"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
