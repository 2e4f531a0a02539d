//! What may be evicted: all blobs but those of kept files and of none, longest unused first.
//!
//! This grows with the store, so it holds of each file no more than where its entry is found again.

use std::{
    collections::{HashMap, hash_map},
    ops::Range,
    time::SystemTime,
};

use futures_util::TryStreamExt as _;

use super::{Result, kept::Kept};
use crate::{
    hub::{Commit, Repo, RepoPath, Sha256},
    manifest::Manifest,
    store::{Prefix, Store},
};

/// All that may be evicted. Some 90 bytes for each blob and 100 for each file.
pub(super) struct Candidates {
    /// Longest unused first.
    pub(super) blobs: Vec<Candidate>,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Bytes of blobs that a pin, the mirror list or published copies keep.
    pub(super) kept: u64,
    /// Bytes of blobs that no entry names.
    pub(super) unnamed: u64,
    /// By blob.
    files: Vec<File>,
    commits: Vec<(Repo, Commit)>,
}

/// A blob that may be evicted.
pub(super) struct Candidate {
    pub(super) sha256: Sha256,
    pub(super) size: u64,
    /// When it was written, by the listing.
    pub(super) modified: SystemTime,
    /// When it was served last, as far as is known, or written.
    pub(super) last_used: SystemTime,
    /// Its place in [`Candidates::files`].
    files: Range<u32>,
    named: Named,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Nowhere,
    ByEntries,
    Kept,
}

/// A file, by the places of its blob and its commit.
struct File {
    blob: u32,
    commit: u32,
    path: RepoPath,
}

impl Candidates {
    /// Looks at all blobs and all entries; `served` says when blobs were served last.
    pub(super) async fn read(
        store: &dyn Store,
        manifest: &Manifest,
        kept: &Kept,
        served: HashMap<Sha256, SystemTime>,
    ) -> Result<Self> {
        let mut blobs = Vec::new();
        let mut listed = store.list(&Prefix::blobs());
        while let Some(meta) = listed.try_next().await? {
            let Some(sha256) = meta.key.digest() else { continue };
            let last_used = served.get(&sha256).map_or(meta.modified, |then| meta.modified.max(*then));
            let (size, modified) = (meta.size, meta.modified);
            blobs.push(Candidate { sha256, size, modified, last_used, files: 0..0, named: Named::Nowhere });
        }
        drop((listed, served));
        blobs.sort_unstable_by_key(|blob| blob.sha256);

        let (mut files, mut commits, mut places) = (Vec::new(), Vec::new(), HashMap::new());
        let mut entries = manifest.all_entries();
        while let Some(entry) = entries.try_next().await? {
            let Ok(place) = blobs.binary_search_by_key(&entry.sha256, |blob| blob.sha256) else { continue };
            let blob = &mut blobs[place];
            if kept.keeps(&entry) {
                blob.named = Named::Kept;
            }
            if blob.named == Named::Kept {
                continue;
            }
            blob.named = Named::ByEntries;
            let commit = match places.entry((entry.repo, entry.commit)) {
                hash_map::Entry::Occupied(known) => *known.get(),
                hash_map::Entry::Vacant(new) => {
                    commits.push(new.key().clone());
                    *new.insert(narrow(commits.len() - 1))
                }
            };
            files.push(File { blob: narrow(place), commit, path: entry.path });
        }
        drop((entries, places));

        files.sort_unstable_by_key(|file: &File| file.blob);
        let mut first = 0;
        for of_blob in files.chunk_by(|one, other| one.blob == other.blob) {
            let end = first + narrow(of_blob.len());
            blobs[of_blob[0].blob as usize].files = first..end;
            first = end;
        }
        let sum = |named| blobs.iter().filter(|blob| blob.named == named).map(|blob| blob.size).sum();
        let (bytes, kept, unnamed) = (sum(Named::ByEntries), sum(Named::Kept), sum(Named::Nowhere));
        blobs.retain(|blob| blob.named == Named::ByEntries);
        blobs.sort_unstable_by_key(|blob| (blob.last_used, blob.sha256));
        Ok(Self { blobs, bytes, kept, unnamed, files, commits })
    }

    /// The files whose content a blob was when they were looked at.
    pub(super) fn files_of(&self, blob: &Candidate) -> impl Iterator<Item = (Repo, Commit, RepoPath)> {
        self.files[blob.files.start as usize..blob.files.end as usize].iter().map(|file| {
            let (repo, commit) = self.commits[file.commit as usize].clone();
            (repo, commit, file.path.clone())
        })
    }
}

/// A place among fewer than four thousand million; a store of more files than that would not be listed in a year.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
impl Candidate {
    /// A blob as a look found it.
    pub(super) fn seen(sha256: Sha256, modified: SystemTime) -> Self {
        Self { sha256, size: 1, modified, last_used: modified, files: 0..0, named: Named::ByEntries }
    }
}
