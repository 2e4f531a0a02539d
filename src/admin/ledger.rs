//! Decisions as they lie in the store: objects that are written once, and later notes on them (revoked, lifted,
//! purged), which are objects too. Every replica lists them; what it has read once it does not read again.
//!
//! Such an object is never removed by us: where it goes, a hand did it, a rule of the bucket, or the listing is behind. So
//! a process forgets nothing that it has read; what it makes of a decision whose object is gone is each sort's own.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::{Error, audit::unwritten, id::Id};
use crate::store::{self, ErrorKind, Key, Prefix, PutMode, PutOutcome, Store};

/// A larger object is nothing that we wrote.
const LIMIT_BYTES: u64 = 64 * 1024;
/// Objects that are read at a time.
const READS_AT_ONCE: usize = 16;

/// A later word on a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// When, in UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// All else.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// One decision with its notes by their word.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decided<T> {
    pub(super) item: Arc<T>,
    pub(super) notes: BTreeMap<String, Arc<Note>>,
}

/// What was read.
#[derive(Debug)]
struct Read<T> {
    items: BTreeMap<Key, Arc<T>>,
    notes: BTreeMap<Key, Arc<Note>>,
    /// Objects that are there and mean nothing to this version. They are read again at each look: they may be mended.
    unreadable: BTreeMap<Key, String>,
    /// Decisions and notes whose objects are gone.
    vanished: BTreeSet<Key>,
}

impl<T> Clone for Read<T> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
            notes: self.notes.clone(),
            unreadable: self.unreadable.clone(),
            vanished: self.vanished.clone(),
        }
    }
}

/// All decisions of one sort.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    store: Arc<dyn Store>,
    prefix: Prefix,
    /// The key of a decision, or of a note on it.
    key: fn(&str, Option<&str>) -> Key,
    read: ArcSwap<Read<T>>,
    /// Held while `read` is replaced: a refresh that listed before a write must not forget what was written.
    changing: Mutex<()>,
}

enum Object<T> {
    Item(T),
    Note(Note),
    Unreadable(String),
}

impl<T: DeserializeOwned + Serialize + Send + Sync + 'static> Ledger<T> {
    pub(super) fn new(store: Arc<dyn Store>, prefix: Prefix, key: fn(&str, Option<&str>) -> Key) -> Self {
        let read = Read {
            items: BTreeMap::new(),
            notes: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            vanished: BTreeSet::new(),
        };
        Self { store, prefix, key, read: ArcSwap::from_pointee(read), changing: Mutex::default() }
    }

    /// Reads what came since.
    pub(super) async fn refresh(&self) -> store::Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        let keys: Vec<Key> = self.store.list(&self.prefix).map_ok(|meta| meta.key).try_collect().await?;
        let before = self.read.load_full();
        let is_known = |key: &Key| before.items.contains_key(key) || before.notes.contains_key(key);
        let fresh: Vec<Key> = keys.iter().filter(|key| !is_known(key)).cloned().collect();
        let known = before.items.len() + before.notes.len();
        if fresh.is_empty() && keys.len() == known && before.unreadable.is_empty() && before.vanished.is_empty() {
            return Ok(());
        }
        let mut read = Read::clone(&before);
        read.unreadable.clear();
        let store = self.store.clone();
        let reading = stream::iter(fresh).map(move |key| object(store.clone(), key));
        let mut objects = reading.buffer_unordered(READS_AT_ONCE);
        while let Some(object) = objects.try_next().await? {
            match object {
                None => {}
                Some((key, Object::Item(item))) => drop(read.items.insert(key, Arc::new(item))),
                Some((key, Object::Note(note))) => drop(read.notes.insert(key, Arc::new(note))),
                Some((key, Object::Unreadable(problem))) => {
                    if before.unreadable.get(&key) != Some(&problem) {
                        tracing::error!(%key, problem, "a decision can't be read: mend it or remove it");
                    }
                    read.unreadable.insert(key, problem);
                }
            }
        }
        let there: HashSet<&Key> = keys.iter().collect();
        let known = read.items.keys().chain(read.notes.keys());
        read.vanished = known.filter(|key| !there.contains(key)).cloned().collect();
        for key in read.vanished.difference(&before.vanished) {
            tracing::error!(%key, "what an admin decided is gone from the store: find out what removed it");
        }
        self.read.store(Arc::new(read));
        Ok(())
    }

    /// Writes a decision and knows it at once.
    pub(super) async fn write(&self, id: &Id, item: T) -> Result<Arc<T>, Error> {
        let key = (self.key)(id.as_str(), None);
        self.create(&key, &item).await?;
        let item = Arc::new(item);
        self.learn(|read| drop(read.items.insert(key.clone(), item.clone()))).await;
        Ok(item)
    }

    /// Writes a note on a decision and knows it at once.
    ///
    /// # Errors
    /// [`Error::Already`] where there is such a note.
    pub(super) async fn note(&self, id: &Id, word: &str, note: Note) -> Result<Arc<Note>, Error> {
        let key = (self.key)(id.as_str(), Some(word));
        if self.read.load().notes.contains_key(&key) {
            return Err(Error::Already(format!("{id} is {word} already")));
        }
        self.create(&key, &note).await?;
        let note = Arc::new(note);
        self.learn(|read| drop(read.notes.insert(key.clone(), note.clone()))).await;
        Ok(note)
    }

    async fn create(&self, key: &Key, value: &impl Serialize) -> Result<(), Error> {
        let body = serde_json::to_vec(value).map_err(|error| store::Error::new(unwritten(&error)).on(key))?;
        let body = Bytes::from(body);
        if body.len() as u64 > LIMIT_BYTES {
            return Err(Error::Invalid(format!("{key} would have more than {LIMIT_BYTES} bytes: write less")));
        }
        match self.store.put(key, body.clone(), PutMode::Create).await? {
            PutOutcome::Written => Ok(()),
            // A client of the store that tried again may have met what it wrote the first time.
            PutOutcome::Existed if self.has(key, &body).await? => Ok(()),
            PutOutcome::Existed => Err(Error::Already(format!("{key} is there already"))),
        }
    }

    /// Whether these very bytes stand there.
    async fn has(&self, key: &Key, body: &Bytes) -> store::Result<bool> {
        let limit = body.len() as u64;
        match self.store.get(key, limit).await {
            Ok(there) => Ok(there.is_some_and(|there| there == *body)),
            Err(error) if error.kind == ErrorKind::TooLarge(limit) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn learn(&self, change: impl FnOnce(&mut Read<T>)) {
        let _one_at_a_time = self.changing.lock().await;
        let mut read = Read::clone(&self.read.load());
        change(&mut read);
        self.read.store(Arc::new(read));
    }

    /// A decision.
    pub(super) fn get(&self, id: &Id) -> Option<Decided<T>> {
        let read = self.read.load();
        let item = read.items.get(&(self.key)(id.as_str(), None))?.clone();
        Some(Decided { item, notes: self.notes(&read, id.as_str()) })
    }

    /// All decisions, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Decided<T>> {
        let read = self.read.load();
        let decided = |(key, item): (&Key, &Arc<T>)| Decided {
            item: item.clone(),
            notes: self.notes(&read, id_of(key).unwrap_or_default()),
        };
        read.items.iter().map(decided).collect()
    }

    fn notes(&self, read: &Read<T>, id: &str) -> BTreeMap<String, Arc<Note>> {
        let first = (self.key)(id, Some(""));
        let begins = first.as_str().trim_end_matches(".json").to_owned();
        let notes = read.notes.iter().filter(|(key, _)| key.as_str().starts_with(&begins));
        notes.filter_map(|(key, note)| Some((word_of(key)?.to_owned(), note.clone()))).collect()
    }

    /// Whether there is a note of this word on a decision, readable or not.
    pub(super) fn is_noted(&self, id: &Id, word: &str) -> bool {
        let (key, read) = ((self.key)(id.as_str(), Some(word)), self.read.load());
        read.notes.contains_key(&key) || read.unreadable.contains_key(&key)
    }

    /// The objects that can't be read, and why.
    pub(super) fn unreadable(&self) -> BTreeMap<Key, String> {
        self.read.load().unreadable.clone()
    }

    /// Whether one of those is a decision, of which nobody knows what it says.
    pub(super) fn has_unreadable_decisions(&self) -> bool {
        self.read.load().unreadable.keys().any(|key| word_of(key).is_none())
    }

    /// Whether a decision's object is gone.
    pub(super) fn is_vanished(&self, id: &Id) -> bool {
        self.read.load().vanished.contains(&(self.key)(id.as_str(), None))
    }
}

async fn object<T: DeserializeOwned>(store: Arc<dyn Store>, key: Key) -> store::Result<Option<(Key, Object<T>)>> {
    let body = match store.get(&key, LIMIT_BYTES).await {
        Ok(Some(body)) => body,
        Ok(None) => return Ok(None),
        // Of no more weight than one with bad JSON: all others must be read.
        Err(error) if matches!(error.kind, ErrorKind::TooLarge(_)) => {
            return Ok(Some((key, Object::Unreadable(format!("it has more than {LIMIT_BYTES} bytes")))));
        }
        Err(error) => return Err(error),
    };
    let object = if word_of(&key).is_some() {
        serde_json::from_slice(&body).map(Object::Note)
    } else {
        serde_json::from_slice(&body).map(Object::Item)
    };
    Ok(Some((key, object.unwrap_or_else(|error| Object::Unreadable(error.to_string())))))
}

/// `<id>.<word>.json`: the parts of a key's last segment.
fn parts(key: &Key) -> Option<(&str, Option<&str>)> {
    let name = key.as_str().rsplit('/').next()?.strip_suffix(".json")?;
    Some(name.split_once('.').map_or((name, None), |(id, word)| (id, Some(word))))
}

fn word_of(key: &Key) -> Option<&str> {
    parts(key)?.1
}

fn id_of(key: &Key) -> Option<&str> {
    parts(key).map(|(id, _)| id)
}
