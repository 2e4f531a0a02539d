//! What changed between what was locked and what is there now, for a reviewer.

use std::fmt;

use serde::Serialize;

use super::{Locked, LockedFile};
use crate::{
    hub::{Commit, Repo, RepoKind, RepoPath, Revision},
    policy::code::{RunsCode, runs_code},
};

/// One thing, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// As it was locked.
    pub before: T,
    /// As it is now.
    pub after: T,
}

/// What changed of one locked revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockChange {
    /// The repo under the name that policy allows.
    pub repo: Repo,
    /// Its kind.
    pub kind: RepoKind,
    /// The branch, tag or sha.
    pub revision: Revision,
    /// The commit.
    pub commit: Change<Commit>,
    /// The licence, where it is another.
    pub license: Option<Change<String>>,
    /// Upstream's name for the repo, where it is another.
    pub name: Option<Change<Repo>>,
    /// Upstream's id or the author, where it is another.
    pub owner: Option<Change<String>>,
    /// New files.
    pub added: Vec<FileChange>,
    /// Files with other content.
    pub changed: Vec<FileChange>,
    /// Files that are gone.
    pub removed: Vec<FileChange>,
}

/// A file that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path.
    pub path: RepoPath,
    /// As it was locked; none for a new one.
    pub before: Option<LockedFile>,
    /// As it is now; none for one that is gone.
    pub after: Option<LockedFile>,
    /// How it runs code where it is loaded, if it does.
    pub runs_code: Option<RunsCode>,
    /// Why policy withholds it now, if it does.
    pub withheld: Option<String>,
}

impl LockChange {
    /// What changed from `before` to `after`, two states of one revision.
    pub fn between(before: &Locked, after: &Locked) -> Self {
        fn changed<T: PartialEq + Clone>(before: &T, after: &T) -> Option<Change<T>> {
            (before != after).then(|| Change { before: before.clone(), after: after.clone() })
        }
        let file = |path: &RepoPath, before: Option<&LockedFile>, after: Option<&LockedFile>| FileChange {
            path: path.clone(),
            before: before.copied(),
            after: after.copied(),
            runs_code: runs_code(path),
            withheld: None,
        };
        let (mut added, mut altered) = (Vec::new(), Vec::new());
        for (path, now) in &after.files {
            match before.files.get(path) {
                None => added.push(file(path, None, Some(now))),
                Some(was) if !was.is_same(now) => altered.push(file(path, Some(was), Some(now))),
                Some(_) => {}
            }
        }
        let gone = before.files.iter().filter(|(path, _)| !after.files.contains_key(*path));
        let name = |locked: &Locked| locked.canonical.clone().unwrap_or_else(|| locked.repo.clone());
        let owner = |locked: &Locked| {
            let known = [&locked.identity.author, &locked.identity.id].into_iter().flatten();
            known.cloned().collect::<Vec<_>>().join(" ")
        };
        Self {
            repo: after.repo.clone(),
            kind: after.repo.kind(),
            revision: after.revision.clone(),
            commit: Change { before: before.commit, after: after.commit },
            license: changed(&before.license, &after.license),
            name: changed(&name(before), &name(after)),
            owner: changed(&owner(before), &owner(after)),
            removed: gone.map(|(path, was)| file(path, Some(was), None)).collect(),
            added,
            changed: altered,
        }
    }

    /// Whether nothing did.
    pub fn is_nothing(&self) -> bool {
        self.commit.before == self.commit.after
            && self.license.is_none()
            && self.name.is_none()
            && self.owner.is_none()
            && self.files().next().is_none()
    }

    /// All files that changed.
    pub fn files(&self) -> impl Iterator<Item = &FileChange> {
        self.added.iter().chain(&self.changed).chain(&self.removed)
    }

    /// New files, and files with new content, that run code where they are loaded.
    pub fn new_code(&self) -> impl Iterator<Item = (&FileChange, RunsCode)> {
        self.added.iter().chain(&self.changed).filter_map(|file| Some((file, file.runs_code?)))
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (&self.before, &self.after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        write!(f, "{what:<8} {}", self.path)?;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                write!(f, ": {before}, {} bytes -> {after}, {} bytes", before.size, after.size)?;
            }
            (Some(file), None) | (None, Some(file)) => write!(f, ": {file}, {} bytes", file.size)?,
            (None, None) => {}
        }
        if let Some(runs_code) = self.runs_code.filter(|_| self.after.is_some()) {
            write!(f, "; {runs_code}")?;
        }
        if self.withheld.is_some() {
            f.write_str("; policy withholds it")?;
        }
        Ok(())
    }
}

/// A line for each thing that changed; what runs code again at the end, so that nobody misses it.
impl fmt::Display for LockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { before, after } = &self.commit;
        if before == after {
            writeln!(f, "  commit   {before}, as it was locked")?;
        } else {
            writeln!(f, "  commit   {before} -> {after}")?;
        }
        if let Some(Change { before, after }) = &self.license {
            writeln!(f, "  licence  {before} -> {after}")?;
        }
        if let Some(Change { before, after }) = &self.name {
            writeln!(f, "  name     {before} -> {after}")?;
        }
        if let Some(Change { before, after }) = &self.owner {
            writeln!(f, "  owner    {before} -> {after}")?;
        }
        for file in self.files() {
            writeln!(f, "  {file}")?;
        }
        let code: Vec<&str> = self.new_code().map(|(file, _)| file.path.as_str()).collect();
        if !code.is_empty() {
            writeln!(f, "  review   new code or pickle files: {}", code.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{ONE, TWO, file, locked},
        *,
    };

    #[test]
    fn a_reviewer_sees_commit_licence_owner_files_and_new_code() {
        let mut before = locked("acme/x", "main", ONE);
        before.files.insert("old.py".parse().unwrap(), file(1, 'd', true));
        let mut after = locked("acme/x", "main", TWO);
        after.license = "gpl-3.0".into();
        after.identity.id = Some("id2".into());
        after.files.insert("model.safetensors".parse().unwrap(), file(11, 'c', false));
        after.files.insert("modeling.py".parse().unwrap(), file(5, 'e', true));
        after.files.insert("weights.PKL".parse().unwrap(), file(6, 'f', false));
        let change = LockChange::between(&before, &after);
        let digits = |digit: &str, count| digit.repeat(count);
        assert_eq!(
            change.to_string(),
            format!(
                "  commit   {ONE} -> {TWO}\n  licence  mit -> gpl-3.0\n  owner    acme id1 -> acme id2\n  \
                 added    modeling.py: git id {}, 5 bytes; Python code\n  \
                 added    weights.PKL: sha256 {}, 6 bytes; a pickle, which can run code when it is loaded\n  \
                 changed  model.safetensors: sha256 {}, 10 bytes -> sha256 {}, 11 bytes\n  \
                 removed  old.py: git id {}, 1 bytes\n  review   new code or pickle files: modeling.py, weights.PKL\n",
                digits("e", 40),
                digits("f", 64),
                digits("b", 64),
                digits("c", 64),
                digits("d", 40)
            )
        );
        assert!(!change.is_nothing());
        assert!(LockChange::between(&after, &after).is_nothing());
        let json = serde_json::to_value(&change).unwrap();
        assert_eq!((&json["commit"]["after"], &json["added"][0]["runs_code"]), (&TWO.into(), &"code".into()));
        assert_eq!(json["added"][0]["after"]["git"], digits("e", 40));
    }

    #[test]
    fn a_sha256_that_is_known_by_now_is_no_change() {
        let (before, mut after) = (locked("acme/x", "main", ONE), locked("acme/x", "main", ONE));
        let config = after.files.get_mut(&"config.json".parse().unwrap()).unwrap();
        config.sha256 = file(2, '7', false).sha256;
        assert!(LockChange::between(&before, &after).is_nothing());
    }
}
