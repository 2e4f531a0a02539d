//! What bringing a commit in would take: every file, its size, and whether it is here, missing or not to come.

use std::{
    collections::{HashMap, HashSet},
    ops::AddAssign,
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use serde::Serialize;

use crate::{
    gateway::{Asker, Error, Gateway, Refusal, Result},
    hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256, TreeNode},
    manifest::Entry,
    policy::{FileVerdict, Rule, Selection},
    store::Key,
};

/// Files that are looked up in the store at a time.
const LOOKS_AT_ONCE: usize = 16;

/// What bringing in one revision of one repo would take.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The repo as it was asked for.
    pub asked: Repo,
    /// The revision as it was asked for.
    pub revision: Revision,
    /// The commit and its files, or policy's no to all of it.
    pub verdict: std::result::Result<Planned, Refusal>,
}

/// A commit that policy lets in, and its files.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The repo under its canonical name.
    pub repo: Repo,
    /// The commit that the revision means.
    pub commit: Commit,
    /// Whether upstream could not be asked, so that this is the last commit known, maybe not the newest.
    pub stale: bool,
    /// The licence, as the manifest has it: ids joined by ` AND `.
    pub licence: String,
    /// Where it was found.
    pub licence_from: String,
    /// The rule that allows it.
    pub rule: String,
    /// One ASCII line: what is withheld, and a rule that ends soon.
    pub warning: Option<Arc<str>>,
    /// All files of the commit, in the order of their paths.
    pub files: Vec<PlannedFile>,
}

/// A file of a planned commit.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// Its path.
    pub path: RepoPath,
    /// Its length in bytes.
    pub size: u64,
    /// How the Hub names its content.
    pub blob: BlobId,
    /// Whether it is here, or what keeps it from coming.
    pub state: FileState,
}

/// Where a file of a plan stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// Stored and recorded.
    Stored(Sha256),
    /// Its content is here under another name; recording it costs no byte from the origin.
    Here,
    /// To be fetched.
    Missing,
    /// The rule hides it from clients: why. Nobody misses it.
    Withheld(String),
    /// It would be listed, and refused to whoever asks for it: why.
    Refused(String),
    /// The selection leaves it out.
    Excluded,
}

/// Some files together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// How many.
    pub files: usize,
    /// Their lengths together, in bytes.
    pub bytes: u64,
}

/// The files of a plan by their states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// [`FileState::Stored`].
    pub stored: Sum,
    /// [`FileState::Here`].
    pub here: Sum,
    /// [`FileState::Missing`].
    pub missing: Sum,
    /// [`FileState::Withheld`].
    pub withheld: Sum,
    /// [`FileState::Refused`].
    pub refused: Sum,
    /// [`FileState::Excluded`].
    pub excluded: Sum,
}

impl Sum {
    /// Counts one more file of `bytes`.
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

impl Planned {
    /// The files by their states.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for file in &self.files {
            let sum = match file.state {
                FileState::Stored(_) => &mut sums.stored,
                FileState::Here => &mut sums.here,
                FileState::Missing => &mut sums.missing,
                FileState::Withheld(_) => &mut sums.withheld,
                FileState::Refused(_) => &mut sums.refused,
                FileState::Excluded => &mut sums.excluded,
            };
            sum.add(file.size);
        }
        sums
    }

    /// The files to bring in: those that are missing, and those to be recorded only.
    pub fn wanted(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| matches!(file.state, FileState::Missing | FileState::Here))
    }
}

impl Gateway {
    /// What it would take to bring in the selected files of a revision. Policy's no is a value, with its text;
    /// an error is a repo or revision that is not there, or trouble of the origin or the store.
    ///
    /// What it learns of the commit is kept in the store; a plan that must not touch it is made by
    /// [`Gateway::dry_run`]'s gateway.
    pub async fn plan(&self, asker: &Asker, asked: &Repo, revision: &Revision, selection: &Selection) -> Result<Plan> {
        let verdict = match self.planned(asker, asked, revision, selection).await {
            Ok(planned) => Ok(planned),
            Err(Error::Denied(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        };
        Ok(Plan { asked: asked.clone(), revision: revision.clone(), verdict })
    }

    async fn planned(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
        selection: &Selection,
    ) -> Result<Planned> {
        let view = self.view(asker, asked, revision).await?;
        let snapshot = self.whole(asker, &view.known).await?;
        let view = self.redecided(asked, view, snapshot.clone()).await?;
        let (repo, commit) = (view.resolved.repo.clone(), view.resolved.commit);
        let approved = &view.grant.approved;
        let recorded = self.recorded(&repo, commit).await?;
        let mut files = Vec::with_capacity(snapshot.index.files);
        let mut to_come = HashSet::new();
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(&snapshot, number).await?;
            let nodes = piece.nodes.iter().filter_map(|node| Some((node, node.blob_id()?)));
            let looks = nodes.map(|(node, blob)| {
                let (repo, rule, recorded) = (&repo, &approved.rule, recorded.get(&node.path));
                let look = async move {
                    let state = match left_out(rule, node, selection) {
                        Some(state) => state,
                        None => self.state(repo, node.size, blob, recorded.map(|entry| &**entry)).await?,
                    };
                    Ok::<_, Error>(PlannedFile { path: node.path.clone(), size: node.size, blob, state })
                };
                // Boxed, or a task that plans would not be seen to be `Send`.
                look.boxed()
            });
            let looks: Vec<BoxFuture<'_, Result<PlannedFile>>> = looks.collect();
            let planned: Vec<PlannedFile> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
            files.extend(planned.into_iter().map(|mut file| {
                // The same content twice comes once.
                if file.state == FileState::Missing && !to_come.insert(file.blob) {
                    file.state = FileState::Here;
                }
                file
            }));
        }
        Ok(Planned {
            stale: view.resolved.stale,
            licence: view.grant.licence(),
            licence_from: approved.license.source.to_string(),
            rule: approved.rule.name.clone(),
            warning: view.grant.warning.clone(),
            repo,
            commit,
            files,
        })
    }

    /// What the manifest's index has of a commit.
    pub(in crate::gateway) async fn recorded(
        &self,
        repo: &Repo,
        commit: Commit,
    ) -> Result<HashMap<RepoPath, Arc<Entry>>> {
        let entries = self.manifest.entries_of(repo, commit);
        Ok(entries.map_ok(|entry| (entry.path.clone(), entry)).try_collect().await?)
    }

    /// Where a file stands that policy and selection let in.
    async fn state(&self, repo: &Repo, size: u64, blob: BlobId, recorded: Option<&Entry>) -> Result<FileState> {
        let recorded = recorded.filter(|entry| entry.size == size && entry.etag == blob).map(|entry| entry.sha256);
        let known = match recorded {
            Some(sha256) => Some(sha256),
            None => self.known_sha256(repo, &blob).await?,
        };
        if let Some(sha256) = known
            && self.store.head(&Key::blob(&sha256)).await?.is_some_and(|object| object.size == size)
        {
            return Ok(if recorded.is_some() { FileState::Stored(sha256) } else { FileState::Here });
        }
        Ok(match self.store.largest_stage() {
            Some((limit, key)) if size > limit => FileState::Refused(Error::NeverFits { size, limit, key }.to_string()),
            _ => FileState::Missing,
        })
    }
}

/// Why a file does not come in, whatever is stored.
pub(in crate::gateway) fn left_out(rule: &Rule, node: &TreeNode, selection: &Selection) -> Option<FileState> {
    match rule.decide_file(&node.path, node.size, node.blob_id()) {
        FileVerdict::Hidden(denial) => Some(FileState::Withheld(denial.reason().to_owned())),
        _ if !selection.takes(&node.path) => Some(FileState::Excluded),
        FileVerdict::Refused(denial) => Some(FileState::Refused(denial.reason().to_owned())),
        FileVerdict::Served => None,
    }
}
