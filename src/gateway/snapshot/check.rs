//! Reads stored snapshots back for `hubgate verify`: every part of one, past all caches.

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use serde::de::DeserializeOwned;

use super::{Facts, MAX_FACTS_BYTES, Piece, TreeIndex, early::Stored};
use crate::{
    hub::{Commit, Repo, Sha256},
    manifest::verify::{SnapshotItem, SnapshotReader},
    store::{self, Key, Result, Store},
};

/// The reader of this gateway's snapshots.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoredSnapshots;

/// Where reading has come to in one snapshot.
struct Reading {
    /// The tree's digest, by which its objects are named.
    tree: Option<Sha256>,
    index: TreeIndex,
    piece: usize,
    /// Files and folders met so far.
    met: (usize, usize),
}

impl SnapshotReader for StoredSnapshots {
    fn read<'a>(&'a self, store: &'a dyn Store, repo: &'a Repo, commit: Commit) -> BoxStream<'a, Result<SnapshotItem>> {
        let items = async move {
            Ok::<_, store::Error>(match whole(store, repo, commit).await? {
                Ok(None) => stream::empty().boxed(),
                Ok(Some((tree, index))) => pieces(store, repo, commit, tree, index),
                Err(problem) => stream::iter([Ok(SnapshotItem::Problem(problem))]).boxed(),
            })
        };
        stream::once(items).try_flatten().boxed()
    }
}

/// What the pieces hold, one piece in memory at a time.
fn pieces<'a>(
    store: &'a dyn Store,
    repo: &'a Repo,
    commit: Commit,
    tree: Option<Sha256>,
    index: TreeIndex,
) -> BoxStream<'a, Result<SnapshotItem>> {
    let start = Reading { tree, index, piece: 0, met: (0, 0) };
    stream::try_unfold(Some(start), move |reading| async move {
        let Some(reading) = reading else { return Ok(None) };
        next_items(store, repo, commit, reading).await.map(Some)
    })
    .map_ok(|items| stream::iter(items).map(Ok))
    .try_flatten()
    .boxed()
}

/// The tree's digest and index of a snapshot, or what is wrong with it. Facts are written last: without them a crash came
/// first, and the snapshot will be learned anew.
async fn whole(
    store: &dyn Store,
    repo: &Repo,
    commit: Commit,
) -> Result<std::result::Result<Option<(Option<Sha256>, TreeIndex)>, String>> {
    let facts: Facts = match part(store, repo, commit, "facts.json").await? {
        Ok(Some(facts)) => facts,
        // Facts alone name no file.
        Ok(None) => {
            let early = part::<Stored<Facts>>(store, repo, commit, "early.json").await?;
            return Ok(early.and_then(|early| match early {
                Some(early) => is_of(&early.facts, repo, commit, "early.json").map(|()| None),
                None => Ok(None),
            }));
        }
        Err(problem) => return Ok(Err(problem)),
    };
    if let Err(problem) = is_of(&facts, repo, commit, "facts.json") {
        return Ok(Err(problem));
    }
    let name = TreeIndex::name(facts.tree);
    Ok(part(store, repo, commit, &name).await?.and_then(|index| match index {
        Some(index) => Ok(Some((facts.tree, index))),
        None => Err(format!("{name} is missing although facts.json is there")),
    }))
}

fn is_of(facts: &Facts, repo: &Repo, commit: Commit, part: &str) -> std::result::Result<(), String> {
    if (&facts.repo, facts.commit) == (repo, commit) {
        return Ok(());
    }
    Err(format!("{part} is that of {}@{}", facts.repo, facts.commit))
}

/// What one piece holds, and how to go on.
async fn next_items(
    store: &dyn Store,
    repo: &Repo,
    commit: Commit,
    mut reading: Reading,
) -> Result<(Vec<SnapshotItem>, Option<Reading>)> {
    let problem = |text: String| Ok((vec![SnapshotItem::Problem(text)], None));
    if reading.piece == reading.index.pieces() {
        let promised = (reading.index.files, reading.index.folders);
        if reading.met != promised {
            return problem(format!(
                "its index counts {} files and {} folders, the pieces hold {} and {}",
                promised.0, promised.1, reading.met.0, reading.met.1
            ));
        }
        return Ok((Vec::new(), None));
    }
    let name = TreeIndex::part(reading.tree, reading.piece);
    let Some(body) = store.get(&Key::snapshot(repo, commit, &name), MAX_FACTS_BYTES).await? else {
        return problem(format!("{name} is missing although the index names it"));
    };
    let piece = match Piece::from_lines(&body) {
        Ok(piece) => piece,
        Err(error) => return problem(format!("{name}: {error}")),
    };
    let misplaced = piece.nodes.iter().any(|node| reading.index.piece_of(&node.path) != Some(reading.piece));
    if misplaced || !piece.nodes.is_sorted_by(|a, b| a.path < b.path) {
        return problem(format!("{name} does not hold what the index says, in the order of paths"));
    }
    let folders = piece.nodes.iter().filter(|node| node.folder).count();
    reading.met.0 += piece.nodes.len() - folders;
    reading.met.1 += folders;
    reading.piece += 1;
    let files = piece.nodes.into_iter().filter_map(|node| {
        let id = node.blob_id()?;
        Some(SnapshotItem::File { path: node.path, size: node.size, id })
    });
    Ok((files.collect(), Some(reading)))
}

async fn part<T: DeserializeOwned>(
    store: &dyn Store,
    repo: &Repo,
    commit: Commit,
    name: &str,
) -> Result<std::result::Result<Option<T>, String>> {
    let Some(body) = store.get(&Key::snapshot(repo, commit, name), MAX_FACTS_BYTES).await? else {
        return Ok(Ok(None));
    };
    Ok(serde_json::from_slice(&body).map(Some).map_err(|error| format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{Snapshots, TreeNode},
        *,
    };
    use crate::{hub::RepoKind, manifest::testing::MemoryStore};

    const FILES: usize = 5000;

    async fn stored() -> (Arc<MemoryStore>, Repo, Commit) {
        let repo = Repo::new(RepoKind::Model, "org/name").unwrap();
        let commit: Commit = "a".repeat(40).parse().unwrap();
        let facts = Facts {
            repo: repo.clone(),
            commit,
            looked_at: "2026-11-24T06:00:00Z".into(),
            info: serde_json::json!({}),
            front_matter: None,
            tree: None,
        };
        let node = |n: usize| TreeNode {
            path: if n == 0 { "dir".into() } else { format!("dir/{n:05}") }.parse().unwrap(),
            size: n as u64,
            oid: "1".repeat(40).parse().unwrap(),
            lfs: None,
            folder: n == 0,
        };
        let store = MemoryStore::new();
        Snapshots::new(store.clone(), 1 << 20).keep(Arc::new(facts), (0..=FILES).map(node).collect()).await.unwrap();
        (store, repo, commit)
    }

    /// How many files are read, and the first problem.
    async fn read(store: &MemoryStore, repo: &Repo, commit: Commit) -> (usize, Option<String>) {
        let items: Vec<_> = StoredSnapshots.read(store, repo, commit).try_collect().await.unwrap();
        let problem = items.iter().find_map(|item| match item {
            SnapshotItem::Problem(problem) => Some(problem.clone()),
            SnapshotItem::File { .. } => None,
        });
        (items.iter().filter(|item| matches!(item, SnapshotItem::File { .. })).count(), problem)
    }

    #[tokio::test]
    async fn a_whole_snapshot_gives_its_files_and_one_that_was_cut_short_nothing() {
        let (store, repo, commit) = stored().await;
        assert_eq!(read(&store, &repo, commit).await, (FILES, None));
        store.uproot(Key::snapshot(&repo, commit, "facts.json").as_str());
        assert_eq!(read(&store, &repo, commit).await, (0, None));
    }

    #[tokio::test]
    async fn facts_without_a_tree_name_no_file_and_must_be_those_of_the_commit() {
        let (whole, repo, commit) = stored().await;
        let facts = Snapshots::new(whole, 1 << 20).find(&repo, commit).await.unwrap().unwrap().facts.clone();
        let store = MemoryStore::new();
        Snapshots::new(store.clone(), 1 << 20).keep_early(&facts, Some(10)).await.unwrap();
        assert_eq!(read(&store, &repo, commit).await, (0, None));
        let key = Key::snapshot(&repo, commit, "early.json").to_string();
        let text = String::from_utf8(store.object(&key).to_vec()).unwrap();
        for (broken, said) in [
            (text.replace("org/name", "org/other"), "early.json is that of org/other"),
            (text.replacen('{', "", 1), "early.json: "),
        ] {
            store.plant(&key, broken);
            let problem = read(&store, &repo, commit).await.1.unwrap();
            assert!(problem.starts_with(said), "{problem}");
        }
    }

    #[tokio::test]
    async fn whatever_part_is_gone_or_changed_is_a_problem() {
        // The digest in the names of the tree's objects is written here as `*`.
        let part = |store: &MemoryStore, repo: &Repo, commit, name: &str| {
            let facts = store.object(Key::snapshot(repo, commit, "facts.json").as_str());
            let tree = serde_json::from_slice::<Facts>(&facts).unwrap().tree.unwrap().to_string();
            (Key::snapshot(repo, commit, &name.replace('*', &tree)).to_string(), tree)
        };
        for (name, said) in
            [("tree/*.json", "tree/*.json is missing"), ("tree/*/00001.jsonl", "tree/*/00001.jsonl is missing")]
        {
            let (store, repo, commit) = stored().await;
            let (key, tree) = part(&store, &repo, commit, name);
            store.uproot(&key);
            let problem = read(&store, &repo, commit).await.1.unwrap();
            assert!(problem.starts_with(&said.replace('*', &tree)), "{problem}");
        }
        for (name, from, to, said) in [
            ("facts.json", "org/name", "org/other", "facts.json is that of org/other"),
            ("facts.json", "{", "", "facts.json: "),
            ("tree/*.json", ":5000", ":4999", "its index counts 4999 files"),
            ("tree/*/00000.jsonl", "dir/00007", "dir/70000", "tree/*/00000.jsonl does not hold"),
            ("tree/*/00001.jsonl", "{", "", "tree/*/00001.jsonl: "),
        ] {
            let (store, repo, commit) = stored().await;
            let (key, tree) = part(&store, &repo, commit, name);
            let text = String::from_utf8(store.object(&key).to_vec()).unwrap();
            assert!(text.contains(from), "{text:.200}");
            store.plant(&key, text.replacen(from, to, 1));
            let problem = read(&store, &repo, commit).await.1.unwrap();
            assert!(problem.starts_with(&said.replace('*', &tree)), "{name}: {problem}");
        }
    }
}
