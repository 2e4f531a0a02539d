//! The stand-in as tests hold it: asked about, changed, stopped, started again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::builder::Builder;
use crate::counters::{Class, Counters, Origin, Recorded};
use crate::describe::{NewCommit, RepoBuilder};
use crate::faults::{Fault, FaultState, glob};
use crate::file::File;
use crate::origin::OriginHandler;
use crate::repo::{Repo, RepoName};
use crate::server::Listening;
use crate::state::{State, Urls};
use crate::tls::Tls;

/// A running stand-in. Dropping it stops it.
pub struct Standin {
    pub(crate) state: Arc<State>,
    pub(crate) urls: Urls,
    pub(crate) addresses: (SocketAddr, SocketAddr),
    pub(crate) running: Mutex<(Option<Listening>, Option<Listening>)>,
    pub(crate) control: Option<Listening>,
    pub(crate) tls: Option<Tls>,
}

impl Standin {
    /// An empty one to describe.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Scheme, host and port of the Hub, without a slash at the end.
    pub fn hub_url(&self) -> &str {
        &self.urls.hub
    }

    /// Scheme, host and port of the CDN.
    pub fn cdn_url(&self) -> &str {
        &self.urls.cdn
    }

    /// Where the Hub listens.
    pub fn hub_address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// Where the CDN listens.
    pub fn cdn_address(&self) -> SocketAddr {
        self.addresses.1
    }

    /// Where control requests go, if asked for.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(|control| control.address)
    }

    /// The certificate authority to trust, when it speaks TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|tls| tls.ca_pem.as_str())
    }

    /// The token that has access.
    pub fn token(&self) -> String {
        self.state.world().token.clone()
    }

    /// Another token is the good one from now on; the old one is refused.
    pub fn set_token(&self, token: impl Into<String>) {
        self.state.world_mut().token = token.into();
    }

    /// Breaks all connections of both origins; their ports refuse from then on.
    pub async fn stop(&self) {
        self.stop_origin(Origin::Hub).await;
        self.stop_origin(Origin::Cdn).await;
    }

    /// Stops one origin.
    pub async fn stop_origin(&self, origin: Origin) {
        let listening = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match origin {
                Origin::Hub => running.0.take(),
                Origin::Cdn => running.1.take(),
            }
        };
        if let Some(listening) = listening {
            listening.stop().await;
        }
    }

    /// Listens again on the same ports, with the same repos, faults and counts; stops first if it runs.
    ///
    /// # Panics
    /// When a port was taken meanwhile.
    pub async fn restart(&self) {
        self.restart_origin(Origin::Hub).await;
        self.restart_origin(Origin::Cdn).await;
    }

    /// Restarts one origin.
    ///
    /// # Panics
    /// When its port was taken meanwhile.
    pub async fn restart_origin(&self, origin: Origin) {
        self.stop_origin(origin).await;
        let address = if origin == Origin::Hub { self.addresses.0 } else { self.addresses.1 };
        let tls = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        let handler = OriginHandler { state: self.state.clone(), origin };
        let listening = match Listening::start(address, tls, handler).await {
            Ok(listening) => listening,
            Err(error) => panic!("the stand-in Hub cannot restart: {error}"),
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match origin {
            Origin::Hub => running.0 = Some(listening),
            Origin::Cdn => running.1 = Some(listening),
        }
    }

    /// Something goes wrong from now on. Returns the id to end it by.
    pub fn fault(&self, fault: Fault) -> u64 {
        self.state.faults.add(fault)
    }

    /// Ends a fault; what stalls on it goes on.
    pub fn clear_fault(&self, id: u64) {
        self.state.faults.clear(Some(id));
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.state.faults.clear(None);
    }

    /// The faults in force, and how often each struck.
    pub fn faults(&self) -> Vec<FaultState> {
        self.state.faults.list()
    }

    /// Caps an origin over all its connections; 0 ends it.
    pub fn set_rate(&self, origin: Origin, bytes_per_second: u64) {
        self.state.pacer(origin).set(bytes_per_second);
    }

    /// All counts as they are now.
    pub fn counters(&self) -> Counters {
        self.state.counting.snapshot()
    }

    /// Requests of a class so far.
    pub fn count(&self, class: Class) -> u64 {
        self.state.counting.with(|now| now.of(class))
    }

    /// The kept requests whose `METHOD /path` matches a glob, oldest first.
    pub fn requests(&self, pattern: &str) -> Vec<Recorded> {
        let matches = |request: &&Recorded| {
            let path = request.target.split('?').next().unwrap_or_default();
            glob(pattern, &format!("{} {path}", request.method))
        };
        self.state.counting.with(|now| now.recent.iter().filter(matches).cloned().collect())
    }

    /// Forgets all counts and requests.
    pub fn reset_counters(&self) {
        self.state.counting.reset();
    }

    /// Waits until the counts are as wanted.
    ///
    /// # Panics
    /// After 30 s.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Counters) -> bool) {
        let mut changed = self.state.counting.changed.subscribe();
        let arrive = async {
            while !self.state.counting.with(&wanted) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let arrived = tokio::time::timeout(Duration::from_secs(30), arrive).await;
        assert!(arrived.is_ok(), "the stand-in Hub did not see {what} within 30 s");
    }

    /// Adds a repo, in place of one of that name.
    ///
    /// # Panics
    /// When its content can't be read.
    pub fn add(&self, repo: RepoBuilder) {
        if let Err(error) = self.state.world_mut().add(repo) {
            panic!("the repo cannot be added: {error}");
        }
    }

    /// Removes a repo: from now on it was never there.
    pub fn remove(&self, repo: impl Into<RepoName>) {
        self.state.world_mut().remove(&repo.into());
    }

    /// Gives a repo another id, which the old one redirects to.
    pub fn rename(&self, repo: impl Into<RepoName>, id: &str) {
        self.state.world_mut().rename(&repo.into(), id);
    }

    /// Changes settings of a repo, such as its owner and object id.
    ///
    /// # Panics
    /// When there is no such repo.
    pub fn update(&self, repo: impl Into<RepoName>, change: impl FnOnce(&mut Repo)) {
        let name = repo.into();
        match self.state.world_mut().repo_mut(&name) {
            Some(repo) => change(repo),
            None => panic!("the stand-in Hub has no repo {name}"),
        }
    }

    /// Commits to a ref, which moves. Returns the commit's id.
    ///
    /// # Panics
    /// When there is no such repo or the content can't be read.
    pub fn push(&self, repo: impl Into<RepoName>, reference: &str, commit: NewCommit) -> String {
        let mut id = String::new();
        self.update(repo, |repo| match repo.push(&crate::repo::full_ref(reference), commit) {
            Ok(commit) => id.clone_from(&commit.id),
            Err(error) => panic!("the commit cannot be made: {error}"),
        });
        id
    }

    /// Points a branch, or a ref by its full name, at a commit.
    ///
    /// # Panics
    /// When there is no such repo or commit.
    pub fn set_branch(&self, repo: impl Into<RepoName>, reference: &str, commit: &str) {
        self.update(repo, |repo| {
            if let Err(error) = repo.point(reference, commit) {
                panic!("{error}");
            }
        });
    }

    /// Deletes a branch; its commits stay.
    ///
    /// # Panics
    /// When there is no such repo.
    pub fn delete_branch(&self, repo: impl Into<RepoName>, branch: &str) {
        self.update(repo, |repo| {
            repo.refs.remove(&crate::repo::full_ref(branch));
        });
    }

    /// The commit that a revision means.
    ///
    /// # Panics
    /// When there is no such repo or revision.
    pub fn commit(&self, repo: impl Into<RepoName>, revision: &str) -> String {
        let name = repo.into();
        let commit = self.state.world().repo(&name).and_then(|repo| repo.resolve(revision));
        match commit {
            Some(commit) => commit.id.clone(),
            None => panic!("the stand-in Hub has no {name} at {revision}"),
        }
    }

    /// The bytes of a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn bytes(&self, repo: impl Into<RepoName>, revision: &str, path: &str) -> Vec<u8> {
        let file = self.file(repo.into(), revision, path);
        match file.content.read(0..file.size) {
            Ok(bytes) => bytes,
            Err(error) => panic!("{path} cannot be read: {error}"),
        }
    }

    /// The ETag of a file as `/resolve/` tells it: sha256 of an LFS file, git blob id of another.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn etag(&self, repo: impl Into<RepoName>, revision: &str, path: &str) -> String {
        self.file(repo.into(), revision, path).etag().to_owned()
    }

    /// The sha256 of a file's content.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn sha256(&self, repo: impl Into<RepoName>, revision: &str, path: &str) -> String {
        match self.file(repo.into(), revision, path).content.sha256() {
            Ok(sha256) => sha256,
            Err(error) => panic!("{path} cannot be read: {error}"),
        }
    }

    fn file(&self, name: RepoName, revision: &str, path: &str) -> Arc<File> {
        let commit = self.state.world().repo(&name).and_then(|repo| repo.resolve(revision));
        match commit.and_then(|commit| commit.tree.file(path)) {
            Some(file) => file,
            None => panic!("the stand-in Hub has no {path} in {name} at {revision}"),
        }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for listening in [running.0.take(), running.1.take(), self.control.take()].into_iter().flatten() {
            listening.abort();
        }
    }
}
