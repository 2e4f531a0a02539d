//! The second look: what seems wrong is looked at once more, judged by what the log says by then, named, and repaired
//! where it may be.

use std::collections::{HashMap, hash_map::Entry as Place};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::{ready, try_join_all},
    stream,
};

use super::{
    super::{
        Entry, Error, LogItem, NewRecord, Result,
        index::Index,
        log,
        newest::{FileId, Word},
    },
    BadBlob, Finding, Kind, Looked, Phase, Progress, Verification, blobs,
    census::{Census, File, InIndex},
    failed, finding, look, name,
};
use crate::{
    hub::Sha256,
    store::{Key, Prefix, Store},
};

/// A record that has to do with what seems wrong.
struct Suspect {
    fact: NewRecord,
    word: Word,
    standing: Standing,
}

enum Standing {
    /// The newest of its file, which may be served and is not, or whose blob is bad.
    Current {
        /// Whether the index lacks its entry.
        unserved: bool,
    },
    /// Older than its file's removal, and maybe why a blob was missed that went with it.
    Past,
    /// Written after the log was read for the second time. Whatever it says, its content is no stray.
    New,
}

/// What a second look at a record's file found.
struct Settled {
    sha256: Sha256,
    size: u64,
    /// Whether the log needs that content.
    needed: bool,
    /// Whether what is bad about the content is said by `found`, or the file that needed it is gone.
    named: bool,
    found: Option<Finding>,
    /// The file, if its entry was written.
    repaired: Option<(FileId, Word)>,
}

impl Verification {
    /// Looks once more, where anything seems wrong: at the index, the log and the bad blobs, in the order of the first
    /// look.
    pub(super) async fn look_again(&mut self) -> Result<()> {
        let strays = self.census.blobs.values().any(|blob| blob.expected.is_none());
        if !strays && self.bad_blobs.is_empty() && !self.census.files.values().any(File::is_suspect) {
            return Ok(());
        }
        self.reread_index().await?;
        self.reread_log().await?;
        self.rehash().await
    }

    /// Looks at the entries of suspect files and at those that were not there before.
    async fn reread_index(&mut self) -> Result<()> {
        for file in self.census.files.values_mut().filter(|file| file.is_suspect()) {
            file.index = InIndex::Nothing;
        }
        let store = self.store.clone();
        let mut keys =
            store.list(&Prefix::index()).map_err(failed).map_ok(|meta| meta.key).try_chunks(self.small_reads());
        while let Some(mut keys) = keys.try_next().await.map_err(|stopped| stopped.1)? {
            keys.retain(|key| {
                let known = self.census.files.get(&FileId::of(key));
                known.is_none_or(|file| file.index == InIndex::Nothing)
            });
            for (key, looked) in try_join_all(keys.into_iter().map(|key| look(&*store, key))).await? {
                match looked {
                    Looked::Gone => {}
                    Looked::Broken(_) => self.census.broken(&key),
                    Looked::Entry(entry) => drop(self.census.entry(&entry)?),
                }
            }
        }
        Ok(())
    }

    /// Learns what the log says by now.
    async fn reread_log(&mut self) -> Result<()> {
        let store = self.store.clone();
        let mut items = log(&*store);
        while let Some(item) = items.try_next().await? {
            if let LogItem::Record(logged) = item
                && let Some(word) = Word::of(&logged.record)
            {
                self.census.record(&logged.record, word)?;
            }
        }
        Ok(())
    }

    async fn rehash(&mut self) -> Result<()> {
        let (store, bad) = (self.store.clone(), std::mem::take(&mut self.bad_blobs));
        let mut hashed = stream::iter(bad.into_keys())
            .map(|sha256| {
                let store = &store;
                async move { blobs::hash_now(store, &sha256).await.map(|hashed| (sha256, hashed)) }
            })
            .buffer_unordered(self.jobs);
        while let Some((sha256, hashed)) = hashed.try_next().await? {
            let blob = self.census.blobs.entry(sha256).or_default();
            blob.seen = hashed.as_ref().map(|hashed| hashed.meta.size);
            let bad = match hashed {
                Some(hashed) => hashed.judged(&sha256, blob.expected),
                None => blob.expected.map(|_| BadBlob::missing(&sha256)),
            };
            if let Some(bad) = bad {
                self.bad_blobs.insert(sha256, bad);
            }
        }
        Ok(())
    }

    /// Goes through the log, if need be, for the names of files that miss their entry or their blob.
    pub(super) async fn settle_log(&mut self) -> Result<()> {
        if self.bad_blobs.is_empty() && !self.census.files.values().any(File::is_unserved) {
            return Ok(());
        }
        let (store, index, repair) = (self.store.clone(), self.index.clone(), self.options.repair);
        let (census, bad_blobs) = (&self.census, &self.bad_blobs);
        let mut settled = log(&*store)
            .try_filter_map(|item| ready(Ok(suspect(census, bad_blobs, item))))
            .map_ok(|suspect| settle(&*store, &index, census, bad_blobs, suspect, repair))
            .try_buffer_unordered(self.small_reads());
        let mut all = Vec::new();
        while let Some(Settled { sha256, size, needed, named, found, repaired }) = settled.try_next().await? {
            all.push((sha256, size, needed, named));
            self.repaired.extend(repaired);
            if let Some(found) = found {
                self.report.add(found);
                if let Some(tell) = &self.options.progress {
                    let done = self.report.found();
                    tell(Progress { phase: Phase::Findings, done, of: None, bytes: 0, of_bytes: None });
                }
            }
        }
        drop(settled);
        for (sha256, size, needed, named) in all {
            if needed {
                // The log names it, so it is not an unrecorded one.
                self.census.blobs.entry(sha256).or_default().expected.get_or_insert(size);
            }
            if let Some(bad) = self.bad_blobs.get_mut(&sha256) {
                bad.named |= named;
            }
        }
        Ok(())
    }

    /// Goes through the index, if need be, for the names of entries that the log does not bear out.
    pub(super) async fn settle_index(&mut self) -> Result<()> {
        if self.census.files.values().all(File::is_borne_out) {
            return Ok(());
        }
        let store = self.store.clone();
        let mut keys = store.list(&Prefix::index());
        let mut left = Vec::new();
        while let Some(meta) = keys.try_next().await.map_err(failed)? {
            let file = FileId::of(&meta.key);
            let Some(known) = self.census.files.get(&file).filter(|file| !file.is_borne_out()) else { continue };
            let word = known.word;
            let (key, looked) = look(&*store, meta.key).await?;
            let entry = match looked {
                Looked::Gone => continue,
                Looked::Broken(problem) => Err(problem),
                Looked::Entry(entry) => Ok(entry),
            };
            match (word, entry) {
                (Some(Word { may_serve: false, .. }), entry) => left.push((file, leftover(&key, entry), key)),
                (None, Err(problem)) => {
                    let detail = format!("{problem}; no record says what belongs here: move it away");
                    self.report.add(finding(Kind::Unreadable, key.to_string(), detail));
                }
                (Some(_), Err(problem)) => self.report.add(finding(Kind::Unreadable, key.to_string(), problem)),
                (None, Ok(entry)) => {
                    let detail = format!("its entry {key} was written by nobody who kept a record");
                    self.report.add(finding(Kind::NoLogRecord, of_entry(&entry), detail));
                }
                (Some(_), Ok(entry)) => {
                    let detail = format!("its entry {key} and its log record say different things");
                    self.report.add(finding(Kind::Disagreement, of_entry(&entry), detail));
                }
            }
            self.at(Phase::Findings, self.report.found());
        }
        drop(keys);
        self.settle_leftovers(left).await
    }

    /// Names and removes entries of removed files, but for those that came back or went meanwhile.
    async fn settle_leftovers(&mut self, left: Vec<(FileId, Finding, Key)>) -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        self.reread_log().await?;
        for (file, found, key) in left {
            let word = self.census.files.get(&file).and_then(|file| file.word);
            let Some(word) = word.filter(|word| !word.may_serve) else { continue };
            if self.store.head(&key).await.map_err(failed)?.is_none() {
                continue;
            }
            if self.options.repair {
                self.store.delete(&key).await.map_err(|error| Error::Index(error.into()))?;
                self.repaired.insert(file, word);
            }
            self.report.add(Finding { repaired: self.options.repair, ..found });
            self.at(Phase::Findings, self.report.found());
        }
        Ok(())
    }

    /// Reports the blobs that no file's name could be found for, if they are still there.
    pub(super) async fn settle_blobs(&mut self) -> Result<()> {
        for (sha256, bad) in self.bad_blobs.iter().filter(|(_, bad)| !bad.named) {
            self.report.add(finding(bad.kind, sha256.to_string(), bad.detail.clone()));
        }
        let store = self.store.clone();
        let strays = self.census.blobs.iter().filter(|(sha256, blob)| {
            blob.seen.is_some() && blob.expected.is_none() && !blob.recent && !self.bad_blobs.contains_key(*sha256)
        });
        let mut strays = stream::iter(strays)
            .map(|(sha256, _)| (sha256, &store))
            .map(|(sha256, store)| async move {
                let meta = store.head(&Key::blob(sha256)).await.map_err(failed)?;
                Result::Ok((sha256, meta))
            })
            .buffer_unordered(self.small_reads());
        while let Some((sha256, meta)) = strays.try_next().await? {
            if let Some(meta) = meta {
                let detail = format!(
                    "{} bytes that no entry names; a fill that needs them adopts them, gc removes them",
                    meta.size
                );
                self.report.add(finding(Kind::UnrecordedBlob, sha256.to_string(), detail));
            }
        }
        Ok(())
    }

    /// Gives way to who recorded something of a file while its entry was repaired: its last record is what counts.
    pub(super) async fn give_way(&mut self) -> Result<()> {
        if self.repaired.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        let mut newer: HashMap<FileId, (Word, NewRecord)> = HashMap::new();
        let mut items = log(&*store);
        while let Some(item) = items.try_next().await? {
            let LogItem::Record(logged) = item else { continue };
            let (file, Some(word)) = (FileId::of_record(&logged.record), Word::of(&logged.record)) else { continue };
            if self.repaired.get(&file).is_none_or(|by| word <= *by) {
                continue;
            }
            match newer.entry(file) {
                Place::Occupied(known) if known.get().0 > word => {}
                place => drop(place.insert_entry((word, logged.record.fact))),
            }
        }
        for (word, fact) in newer.into_values() {
            let entry = Entry::of(&fact);
            if !word.may_serve {
                self.index.remove(&entry.repo, entry.commit, &entry.path).await?;
            } else if matches!(look(&*store, entry.key()).await?.1, Looked::Gone) && is_there(&*store, &fact).await? {
                self.index.write(&entry).await?;
            }
        }
        Ok(())
    }
}

/// The record, if it has to do with what seems wrong.
fn suspect(census: &Census, bad_blobs: &HashMap<Sha256, BadBlob>, item: LogItem) -> Option<Suspect> {
    let LogItem::Record(logged) = item else { return None };
    let word = Word::of(&logged.record).filter(|word| word.may_serve)?;
    let file = census.files.get(&FileId::of_record(&logged.record)).copied().unwrap_or_default();
    let bad = bad_blobs.get(&logged.record.fact.sha256);
    let standing = match file.word {
        Some(newest) if word == newest => {
            let unserved = file.is_unserved();
            (unserved || bad.is_some()).then_some(Standing::Current { unserved })
        }
        newest if Some(word) > newest => Some(Standing::New),
        newest => {
            let is_removed = newest.is_some_and(|newest| !newest.may_serve);
            (is_removed && bad.is_some_and(|bad| bad.kind == Kind::MissingBlob)).then_some(Standing::Past)
        }
    };
    Some(Suspect { fact: logged.record.fact, word, standing: standing? })
}

async fn settle(
    store: &dyn Store,
    index: &Index,
    census: &Census,
    bad_blobs: &HashMap<Sha256, BadBlob>,
    suspect: Suspect,
    repair: bool,
) -> Result<Settled> {
    let Suspect { fact, word, standing } = suspect;
    let (sha256, size) = (fact.sha256, fact.size);
    let mut settled = Settled { sha256, size, needed: true, named: false, found: None, repaired: None };
    match (standing, bad_blobs.get(&sha256)) {
        (Standing::Current { unserved }, Some(bad)) => {
            let wanted = unserved || has_entry(store, &fact).await?;
            settled.found = wanted.then(|| finding(bad.kind, of_fact(&fact), bad.detail.clone()));
            settled.named = true;
        }
        (Standing::Current { .. }, None) => {
            let was_there = census.blobs.get(&sha256).is_some_and(|blob| blob.seen.is_some());
            settled.found = unindexed(store, index, &fact, was_there, repair).await?;
            let written = settled.found.as_ref().is_some_and(|found| found.repaired);
            settled.repaired = written.then(|| (FileId::of(&Entry::of(&fact).key()), word));
        }
        (Standing::Past, _) => {
            settled.needed = false;
            settled.named = !has_entry(store, &fact).await?;
        }
        (Standing::New, _) => {}
    }
    Ok(settled)
}

/// The finding of a recorded file that the index lacks; its blob, if there was one, was whole.
async fn unindexed(
    store: &dyn Store,
    index: &Index,
    fact: &NewRecord,
    blob_was_there: bool,
    repair: bool,
) -> Result<Option<Finding>> {
    let entry = Entry::of(fact);
    let broken = match look(store, entry.key()).await?.1 {
        Looked::Entry(_) => return Ok(None),
        Looked::Broken(problem) => Some(problem),
        Looked::Gone => None,
    };
    let Some(blob) = store.head(&Key::blob(&fact.sha256)).await.map_err(failed)? else {
        let detail = format!(
            "in the log, but neither its entry nor its blob {} is there; asked for again, the file is fetched again",
            fact.sha256
        );
        return Ok(Some(finding(Kind::MissingBlob, of_fact(fact), detail)));
    };
    if !blob_was_there {
        // Nobody has hashed it here: somebody is storing it just now.
        return Ok(None);
    }
    let whole = blob.size == fact.size;
    if whole && repair {
        index.write(&entry).await?;
    }
    let kind = if broken.is_some() { Kind::Unreadable } else { Kind::NoIndexEntry };
    let detail = match (broken, whole) {
        (_, false) => format!("recorded with {} bytes, its blob has another size", fact.size),
        (Some(problem), true) => format!("its entry {}: {problem}", entry.key()),
        (None, true) => "recorded and whole, but not served; --repair writes its entry".into(),
    };
    Ok(Some(Finding { kind, name: of_fact(fact), detail, repaired: whole && repair }))
}

/// The finding of what stands in the index for a file whose removal is in the log.
fn leftover(key: &Key, entry: std::result::Result<Entry, String>) -> Finding {
    match entry {
        Ok(entry) => {
            let detail = format!("evicted or withdrawn, but its entry {key} stands; --repair removes it");
            finding(Kind::ServedAfterRemoval, of_entry(&entry), detail)
        }
        Err(problem) => {
            let detail = format!("{problem}; its file was evicted or withdrawn, --repair removes it");
            finding(Kind::Unreadable, key.to_string(), detail)
        }
    }
}

async fn has_entry(store: &dyn Store, fact: &NewRecord) -> Result<bool> {
    Ok(store.head(&Entry::of(fact).key()).await.map_err(failed)?.is_some())
}

async fn is_there(store: &dyn Store, fact: &NewRecord) -> Result<bool> {
    let blob = store.head(&Key::blob(&fact.sha256)).await.map_err(failed)?;
    Ok(blob.is_some_and(|blob| blob.size == fact.size))
}

fn of_entry(entry: &Entry) -> String {
    name(&entry.repo, entry.commit, &entry.path)
}

fn of_fact(fact: &NewRecord) -> String {
    name(&fact.repo, fact.commit, &fact.path)
}
