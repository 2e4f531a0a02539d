//! The policy in force: looked at every 5 seconds, changed whole or not at all.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use time::{Date, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use super::{env_lists::EnvLists, load::Sources, load_error::LoadError, overlay::Overlay, set::PolicySet};

/// How often the folder is looked at. A ConfigMap's change signals nobody.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The day in UTC, for `today` of the decisions.
pub fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

/// The policy in force, and the reason why a newer one is not.
#[derive(Debug)]
pub struct PolicyHandle {
    /// Where it comes from; `None` for a policy that never changes.
    source: Option<Place>,
    current: ArcSwap<PolicySet>,
    problem: ArcSwapOption<LoadError>,
    /// Held while a policy is made, so that an older reading can't replace a newer one.
    made_of: Mutex<MadeOf>,
}

/// Where a policy is read from.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    lock: Option<PathBuf>,
    lists: EnvLists,
}

impl Place {
    fn read(&self, before: Option<&Sources>) -> Result<Sources, LoadError> {
        Sources::read(&self.dir, self.lock.as_deref(), &self.lists, before)
    }
}

/// What the policy in force was made of.
#[derive(Debug, Default)]
struct MadeOf {
    /// The folder as it was last accepted; `None` for a policy that never changes.
    folder: Option<Sources>,
    overlay: Overlay,
}

/// What a look at the folder found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The same contents.
    Unchanged,
    /// Another policy, in force from now on.
    Changed,
}

impl PolicyHandle {
    /// Loads the policy from a folder, narrowed by the environment's lists, or made of them where there is no folder. A
    /// bad policy is an error here: there is no old one to keep.
    pub fn open(dir: impl Into<PathBuf>, lists: EnvLists) -> Result<Self, LoadError> {
        Self::open_locked(dir, None, lists)
    }

    /// The same, with what a lock file holds it to.
    pub fn open_locked(dir: impl Into<PathBuf>, lock: Option<PathBuf>, lists: EnvLists) -> Result<Self, LoadError> {
        let place = Place { dir: dir.into(), lock, lists };
        let folder = place.read(None)?;
        let set = PolicySet::from_sources(folder.clone())?;
        let made_of = Mutex::new(MadeOf { folder: Some(folder), overlay: Overlay::default() });
        Ok(Self { source: Some(place), made_of, ..Self::fixed(set) })
    }

    /// A policy that never changes.
    pub fn fixed(set: PolicySet) -> Self {
        Self {
            source: None,
            current: ArcSwap::from_pointee(set),
            problem: ArcSwapOption::empty(),
            made_of: Mutex::default(),
        }
    }

    /// The policy in force. Ask once for a request and decide all of it by one policy.
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }

    /// Why the folder's contents are not in force, for readyz and metrics; `None` when they are.
    pub fn problem(&self) -> Option<Arc<LoadError>> {
        self.problem.load_full()
    }

    /// Looks at the folder now (SIGHUP, the admin API). It reads files: call it where blocking is allowed. What it finds
    /// wrong is logged when it is new, remembered as [`PolicyHandle::problem`], and leaves the old policy in force; so
    /// does a folder that is gone.
    pub fn reload(&self) -> Result<Reload, Arc<LoadError>> {
        let Some(place) = &self.source else { return Ok(Reload::Unchanged) };
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let loaded = place.read(made_of.folder.as_ref()).and_then(|folder| {
            if made_of.folder.as_ref().is_some_and(|before| before.digest == folder.digest) {
                return Ok((folder, None));
            }
            if !folder.folder_exists() {
                let remedy = "put it back; an empty folder denies everything";
                return Err(LoadError::of_file(&place.dir, "the policy folder is gone", remedy));
            }
            let set = PolicySet::from_sources(folder.clone().with(&made_of.overlay))?;
            Ok((folder, Some(set)))
        });
        match loaded {
            Ok((folder, set)) => {
                // The same contents too: they may have been read from another file, or when that had only just changed.
                made_of.folder = Some(folder);
                let was_bad = self.problem.swap(None).is_some();
                let Some(set) = set else {
                    if was_bad {
                        tracing::info!(policy = %current.digest(), "policy folder is as it was: no problem any more");
                    }
                    return Ok(Reload::Unchanged);
                };
                tracing::info!(policy = %set.digest(), before = %current.digest(), rules = set.rules().len(), "policy changed");
                self.current.store(Arc::new(set));
                Ok(Reload::Changed)
            }
            Err(error) => {
                let error = Arc::new(error);
                let before = self.problem.swap(Some(Arc::clone(&error)));
                if before.as_ref() != Some(&error) {
                    tracing::error!(policy = %current.digest(), %error, "policy refused; the old one stays in force");
                }
                Err(error)
            }
        }
    }

    /// Puts what operators decided on top of the folder, in place of what they had decided before. It holds over
    /// changes of the folder, and while the newest folder is refused.
    pub fn set_overlay(&self, overlay: Overlay) -> Result<Reload, LoadError> {
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        if made_of.overlay == overlay {
            return Ok(Reload::Unchanged);
        }
        let Some(folder) = made_of.folder.clone() else { return Ok(Reload::Unchanged) };
        let set = PolicySet::from_sources(folder.with(&overlay))?;
        let (approvals, denials) = (overlay.approvals.len(), overlay.denials.len());
        tracing::info!(policy = %set.digest(), approvals, denials, "policy changed by what admins decided");
        made_of.overlay = overlay;
        self.current.store(Arc::new(set));
        Ok(Reload::Changed)
    }

    /// The policy that this overlay would make. Nothing changes. All of it is put together, and another may be just then: call
    /// it where blocking is allowed.
    pub fn preview(&self, overlay: &Overlay) -> Result<Arc<PolicySet>, LoadError> {
        let folder = self.made_of.lock().unwrap_or_else(PoisonError::into_inner).folder.clone();
        match folder {
            Some(folder) => PolicySet::from_sources(folder.with(overlay)).map(Arc::new),
            None => Ok(self.current()),
        }
    }

    /// Looks at the folder every 5 seconds until `shutdown`.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = looks.tick() => {}
            }
            let handle = Arc::clone(&self);
            // What a look finds is logged and remembered by the look itself.
            let look = tokio::task::spawn_blocking(move || drop(handle.reload()));
            if let Err(error) = look.await {
                tracing::error!(%error, "looking at the policy folder failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::policy::overlay::tests::approval;

    fn write(dir: &std::path::Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    fn rules(handle: &PolicyHandle) -> Vec<String> {
        handle.current().rules().iter().map(|rule| rule.name.clone()).collect()
    }

    #[test]
    fn a_bad_file_leaves_the_old_policy_in_force_until_it_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "repos.toml", "[[allow]]\nrepo = \"acme/a\"");
        let handle = PolicyHandle::open(dir.path(), EnvLists::default()).unwrap();
        assert_eq!(handle.reload(), Ok(Reload::Unchanged));

        write(dir.path(), "more.toml", "[[allow]]\nrepoo = \"acme/b\"");
        let error = handle.reload().unwrap_err();
        assert_eq!(handle.problem(), Some(error));
        assert_eq!(rules(&handle), ["acme/a"]);

        write(dir.path(), "more.toml", "[[allow]]\nrepo = \"acme/b\"");
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        assert_eq!(handle.problem(), None);
        assert_eq!(rules(&handle), ["acme/b", "acme/a"]);
    }

    #[test]
    fn a_lock_is_a_part_of_the_policy_and_a_bad_one_leaves_the_old_in_force() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "repos.toml", "[[allow]]\nrepo = \"acme/a\"");
        let lock = dir.path().join("models.lock");
        let open = || PolicyHandle::open_locked(dir.path(), Some(lock.clone()), EnvLists::default());
        let error = open().unwrap_err();
        assert!(error.to_string().contains("models.lock: policy.lock names this file, and it is not there"), "{error}");
        write(dir.path(), "models.lock", "version = 1\n");
        let handle = open().unwrap();
        let before = handle.current();
        let (sha256, text) = before.lock_text().unwrap();
        assert_eq!((sha256, text), (crate::hub::Sha256::of(b"version = 1\n"), "version = 1\n"));
        assert!(
            before.text().contains(&format!("# ==> lock models.lock (12 bytes), sha256 {sha256}")),
            "{}",
            before.text()
        );
        assert_eq!(handle.reload(), Ok(Reload::Unchanged));

        write(dir.path(), "models.lock", "version = 1\nrepos = 1\n");
        let error = handle.reload().unwrap_err();
        assert!(error.to_string().contains("models.lock:2: repos: unknown field"), "{error}");
        assert_eq!((handle.problem(), handle.current().digest()), (Some(error), before.digest()));
        write(dir.path(), "models.lock", "version = 1\n# reviewed\n");
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        assert_ne!(handle.current().digest(), before.digest());
    }

    #[test]
    fn a_lock_is_understood_once_whatever_admins_decide() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "repos.toml", "[[allow]]\nrepo = \"acme/a\"");
        write(dir.path(), "models.lock", "version = 1\n");
        let lock = Some(dir.path().join("models.lock"));
        let handle = PolicyHandle::open_locked(dir.path(), lock, EnvLists::default()).unwrap();
        let before = handle.current();
        let overlay = Overlay { approvals: vec![approval("acme/x")], denials: Vec::new() };
        let preview = handle.preview(&overlay).unwrap();
        handle.set_overlay(overlay).unwrap();
        write(dir.path(), "repos.toml", "[[allow]]\nrepo = \"acme/b\"");
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        for set in [preview, handle.current()] {
            assert_ne!(set.digest(), before.digest());
            assert!(std::ptr::eq(set.lock().unwrap(), before.lock().unwrap()));
        }
    }

    #[test]
    fn each_look_is_what_the_next_one_is_compared_with() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "models.lock", "version = 1\n");
        let lock = Some(dir.path().join("models.lock"));
        let handle = PolicyHandle::open_locked(dir.path(), lock, EnvLists::default()).unwrap();
        let read = || handle.made_of.lock().unwrap().folder.as_ref().and_then(Sources::lock_file).unwrap();
        let before = read();
        // Another file with the same contents.
        write(dir.path(), "new.lock", "version = 1\n");
        fs::rename(dir.path().join("new.lock"), dir.path().join("models.lock")).unwrap();
        assert_eq!(handle.reload(), Ok(Reload::Unchanged));
        assert!(!Arc::ptr_eq(&before, &read()), "its stamp is forgotten, and it is read at every look");
    }

    #[test]
    fn a_problem_goes_when_the_old_contents_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let good = "[[allow]]\nrepo = \"acme/a\"";
        write(dir.path(), "repos.toml", good);
        let handle = PolicyHandle::open(dir.path(), EnvLists::default()).unwrap();
        write(dir.path(), "repos.toml", "nonsense");
        assert!(handle.reload().is_err());
        write(dir.path(), "repos.toml", good);
        assert_eq!(handle.reload(), Ok(Reload::Unchanged));
        assert_eq!(handle.problem(), None);
    }

    #[test]
    fn a_folder_that_goes_away_leaves_the_old_policy_and_an_empty_one_denies_all() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("policy");
        fs::create_dir(&dir).unwrap();
        write(&dir, "repos.toml", "[[allow]]\nrepo = \"acme/a\"");
        let handle = PolicyHandle::open(&dir, EnvLists::default()).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(handle.reload().unwrap_err().to_string().contains("gone"));
        assert_eq!(rules(&handle), ["acme/a"]);
        fs::create_dir(&dir).unwrap();
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        assert!(rules(&handle).is_empty());
    }

    #[test]
    fn an_emptied_folder_denies_all_whatever_the_lists_name() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("policy");
        let lists = || EnvLists::parse(Some("acme/x"), Some("mit")).unwrap();
        assert_eq!(rules(&PolicyHandle::open(&dir, lists()).unwrap()), ["HF_REPOS acme/x"], "no folder");
        fs::create_dir(&dir).unwrap();
        write(&dir, "repos.toml", "[[allow]]\nrepo = \"acme/*\"");
        let handle = PolicyHandle::open(&dir, lists()).unwrap();
        assert_eq!(rules(&handle), ["acme/*"]);
        fs::rename(dir.join("repos.toml"), dir.join("repos.toml.disabled")).unwrap();
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        for set in [handle.current(), PolicyHandle::open(&dir, lists()).unwrap().current()] {
            let denial = set.decide_repo(&"acme/x".parse().unwrap(), today()).unwrap_err();
            assert!(denial.reason().contains("has no *.toml file"), "{denial}");
        }
    }

    #[test]
    fn a_folder_that_appears_empty_ends_the_policy_that_the_lists_were() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("policy");
        let handle = PolicyHandle::open(&dir, EnvLists::parse(Some("acme/x"), None).unwrap()).unwrap();
        assert_eq!(rules(&handle), ["HF_REPOS acme/x"]);
        fs::create_dir(&dir).unwrap();
        assert_eq!(handle.reload(), Ok(Reload::Changed));
        assert!(rules(&handle).is_empty());
    }

    /// Kubernetes mounts a ConfigMap as links through `..data`, which it swings to a new folder by a rename.
    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
    async fn a_swapped_config_map_is_noticed_by_the_watch() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        for (version, repo) in [("..v1", "acme/a"), ("..v2", "acme/b")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            write(&dir.path().join(version), "repos.toml", &format!("[[allow]]\nrepo = \"{repo}\""));
        }
        symlink("..v1", dir.path().join("..data")).unwrap();
        symlink("..data/repos.toml", dir.path().join("repos.toml")).unwrap();
        let handle = Arc::new(PolicyHandle::open(dir.path(), EnvLists::default()).unwrap());
        assert_eq!(rules(&handle), ["acme/a"]);

        let shutdown = CancellationToken::new();
        let watch = tokio::spawn(Arc::clone(&handle).watch(shutdown.clone()));
        symlink("..v2", dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        // The clock is paused and runs as fast as the looks do.
        while rules(&handle) != ["acme/b"] {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        shutdown.cancel();
        watch.await.unwrap();
    }
}
