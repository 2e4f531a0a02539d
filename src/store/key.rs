//! The names of all objects: the layout that DESIGN section 4 promises, in one place.
//!
//! Repos are one segment (`org--name`); paths and revisions are hashed, since as keys they clash (`a` and
//! `a/b`), grow past 255 bytes or hold what MinIO refuses. The readable name stands in the object's body.

use std::fmt;

use super::published::{CATALOGUE, MARKER, PublishPrefix};
use crate::hub::{Commit, GitOid, Repo, RepoPath, Revision, Sha256};

/// The name of one object, relative to the store's prefix. Segments are plain ASCII, so a key is a safe
/// relative path in a directory too.
///
/// A key that begins with `/` is a published copy's: it counts from the top of the bucket or directory, and its
/// segments are the Hub's own names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The beginning of keys, ending in `/`, for listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Key {
    /// `{"layout": 1}`.
    pub fn layout() -> Self {
        Self("layout.json".into())
    }

    /// A blob's content.
    pub fn blob(sha256: &Sha256) -> Self {
        let hex = sha256.to_string();
        Self(format!("blobs/sha256/{}/{hex}", &hex[..2]))
    }

    /// The sha256 of a git file of this repo, once verified.
    pub fn oid(repo: &Repo, oid: &GitOid) -> Self {
        Self(format!("oids/{}/{oid}", of_repo(repo)))
    }

    /// One part of a commit's snapshot: `facts.json`, `tree/<digest>.json`, `tree/<digest>/00000.jsonl`, `commits.json`, or
    /// `early.json` without it.
    pub fn snapshot(repo: &Repo, commit: Commit, part: &str) -> Self {
        Self(format!("snapshots/{}/{commit}/{part}", of_repo(repo)))
    }

    /// What upstream says a repo's name, id and author are, as first seen. `repo` is the name as asked.
    pub fn identity(repo: &Repo) -> Self {
        Self(format!("repos/{}.json", of_repo(repo)))
    }

    /// What upstream calls a repo now, once that is another name. One for all spellings of `repo`.
    pub fn called(repo: &Repo) -> Self {
        Self(format!("names/{}.json", of_repo(&repo.folded())))
    }

    /// The last look at a revision.
    pub fn reference(repo: &Repo, revision: &Revision) -> Self {
        Self(format!("refs/{}/{}.json", of_repo(repo), Sha256::of(revision.as_str().as_bytes())))
    }

    /// A repo's branches and tags as upstream last listed them.
    pub fn ref_list(repo: &Repo) -> Self {
        Self(format!("refs/{}/all.json", of_repo(repo)))
    }

    /// Whether this is a look at one revision, not the list of all.
    pub fn is_reference(&self) -> bool {
        self.0.starts_with("refs/") && !self.0.ends_with("/all.json")
    }

    /// One batch of log records of one writer.
    pub fn log(writer: &str, seq: u64) -> Self {
        Self(format!("manifest/log/{writer}/{seq:020}.jsonl"))
    }

    /// Where one writer's log ends.
    pub fn head(writer: &str) -> Self {
        Self(format!("manifest/heads/{writer}.json"))
    }

    /// The manifest's index entry of a file.
    pub fn index(repo: &Repo, commit: Commit, path: &RepoPath) -> Self {
        Self(format!("manifest/index/{}/{commit}/{}.json", of_repo(repo), Sha256::of(path.as_str().as_bytes())))
    }

    /// The text of a policy that decisions refer to.
    pub fn policy(digest: &Sha256) -> Self {
        Self(format!("policies/{digest}"))
    }

    /// The mark of a digest of which unverified bytes went out.
    pub fn taint(sha256: &Sha256) -> Self {
        Self(format!("tainted/sha256/{sha256}"))
    }

    /// That somebody is about to record a blob that was there already.
    pub fn claim(sha256: &Sha256) -> Self {
        Self(format!("claimed/sha256/{sha256}"))
    }

    /// What `hubgate gc` found unnamed at its last look.
    pub fn gc_candidates() -> Self {
        Self("usage/gc-candidates.json".into())
    }

    /// Which blobs a writer served on a day, and when last. `day` is `YYYY-MM-DD`.
    pub fn served(writer: &str, day: &str) -> Self {
        Self(format!("usage/{writer}/{day}.json"))
    }

    /// The blob whose content this is; `None` for any other key.
    pub fn digest(&self) -> Option<Sha256> {
        let digest = self.0.strip_prefix("blobs/sha256/")?.rsplit('/').next()?.parse().ok()?;
        (Self::blob(&digest) == *self).then_some(digest)
    }

    /// The repo of whose published copies this tells; `None` for any other key.
    pub fn publishes(&self) -> Option<Repo> {
        let mut parts = self.0.strip_prefix("published/")?.split('/');
        let (kinds, segment) = (parts.next()?, parts.next()?);
        Repo::new(kinds.strip_suffix('s')?.parse().ok()?, &segment.replacen("--", "/", 1)).ok()
    }

    /// A multipart upload about to begin.
    pub fn upload(writer: &str, id: &str) -> Self {
        Self(format!("uploads/{writer}/{id}.json"))
    }

    /// One part of what is known of a repo's published copies: `record.json`, `files.json`, `lease.json`. With a
    /// commit, of those below `@<commit>/`.
    pub fn publishing(repo: &Repo, commit: Option<Commit>, part: &str) -> Self {
        let place = commit.map_or_else(|| "current".into(), |commit| commit.to_string());
        Self(format!("published/{}/{place}/{part}", of_repo(repo)))
    }

    /// One run of the hook on a commit. Later runs have later names.
    pub fn hook(repo: &Repo, commit: Commit, run: &str) -> Self {
        Self(format!("evidence/{}/{commit}/hook-{run}.json", of_repo(repo)))
    }

    /// The published copy of a file; with a commit, the one below `@<commit>/`.
    pub fn published(prefix: &PublishPrefix, repo: &Repo, commit: Option<Commit>, path: &RepoPath) -> Self {
        Self(format!("{}{path}", prefix.folder(repo, commit)))
    }

    /// The marker that says which commit a repo's published copies are.
    pub fn marker(prefix: &PublishPrefix, repo: &Repo, commit: Option<Commit>) -> Self {
        Self(format!("{}{MARKER}", prefix.folder(repo, commit)))
    }

    /// The list of all published files.
    pub fn catalogue(prefix: &PublishPrefix) -> Self {
        Self(format!("/{prefix}/{CATALOGUE}"))
    }

    /// Whether this is a run of the hook.
    pub fn is_hook(&self) -> bool {
        self.0.starts_with("evidence/") && self.0.rsplit('/').next().is_some_and(|name| name.starts_with("hook-"))
    }

    /// Where it lies in the bucket or directory, if it is a published copy's and so counts from the top.
    pub fn from_top(&self) -> Option<&str> {
        self.0.strip_prefix('/')
    }

    /// A scratch object of the start-up probe.
    pub fn probe(writer: &str) -> Self {
        Self(format!("uploads/{writer}/probe"))
    }

    /// One entry of the audit log. `day` is `YYYY-MM-DD`, so that keys are in the order of days.
    pub fn audit(day: &str, writer: &str, seq: u64) -> Self {
        Self(format!("audit/{day}/{writer}/{seq:020}.json"))
    }

    /// The writer and the number of an entry of the audit log; `None` for any other key.
    pub fn audited(&self) -> Option<(&str, u64)> {
        let (_, entry) = self.0.strip_prefix("audit/")?.split_once('/')?;
        let (writer, seq) = entry.split_once('/')?;
        Some((writer, seq.strip_suffix(".json")?.parse().ok()?))
    }

    /// Where one writer's audit log ends.
    pub fn audit_head(writer: &str) -> Self {
        Self(format!("audit-heads/{writer}.json"))
    }

    /// An approval or a rejection; with a word, a note on it such as its revocation.
    pub fn approval(id: &str, word: Option<&str>) -> Self {
        Self(format!("approvals/{id}{}.json", dotted(word)))
    }

    /// A withdrawal; with a word, a note on it such as its end.
    pub fn withdrawal(id: &str, word: Option<&str>) -> Self {
        Self(format!("withdrawals/{id}{}.json", dotted(word)))
    }

    /// What was asked for and refused: of one repo, on one day, by what one writer saw, or by an admin in person.
    pub fn request(day: &str, repo: &Repo, part: &str) -> Self {
        Self(format!("requests/{day}/{}/{part}.json", of_repo(repo)))
    }

    /// The day of a request, `YYYY-MM-DD`; `None` for any other key.
    pub fn requested_on(&self) -> Option<&str> {
        self.0.strip_prefix("requests/")?.split('/').next()
    }

    /// The repo of a request and its last part; `None` for any other key.
    pub fn requested(&self) -> Option<(Repo, &str)> {
        let mut parts = self.0.strip_prefix("requests/")?.split('/').skip(1);
        let (kind, segment, part) = (parts.next()?, parts.next()?, parts.next()?);
        let repo = Repo::new(kind.parse().ok()?, &segment.replacen("--", "/", 1)).ok()?;
        Some((repo, part.strip_suffix(".json")?))
    }

    /// The repo and the commit of an index entry; `None` for any other key.
    pub fn indexed(&self) -> Option<(Repo, Commit)> {
        let mut parts = self.0.strip_prefix("manifest/index/")?.split('/');
        let (kind, segment, commit) = (parts.next()?, parts.next()?, parts.next()?);
        let repo = Repo::new(kind.parse().ok()?, &segment.replacen("--", "/", 1)).ok()?;
        Some((repo, commit.parse().ok()?))
    }

    /// One object of a job: `request.json`, `runs/<writer>.json`, `cancelled-<n>.json`, `retry-<n>.json`.
    pub fn job(id: &str, part: &str) -> Self {
        Self(format!("jobs/{id}/{part}"))
    }

    /// The repo whose identity this is; `None` for any other key.
    pub fn identified(&self) -> Option<Repo> {
        let (kind, segment) = self.0.strip_prefix("repos/")?.strip_suffix(".json")?.split_once('/')?;
        Repo::new(kind.parse().ok()?, &segment.replacen("--", "/", 1)).ok()
    }

    /// A key as a store listed it; not for making up names.
    pub fn listed(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, relative to the store's prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    /// Everything.
    pub fn all() -> Self {
        Self(String::new())
    }

    /// All blobs.
    pub fn blobs() -> Self {
        Self("blobs/sha256/".into())
    }

    /// All claims of blobs that were there already.
    pub fn claims() -> Self {
        Self("claimed/sha256/".into())
    }

    /// What was served when, and gc's last look.
    pub fn usage() -> Self {
        Self("usage/".into())
    }

    /// All log batches, of all writers.
    pub fn log() -> Self {
        Self("manifest/log/".into())
    }

    /// The heads of all writers.
    pub fn heads() -> Self {
        Self("manifest/heads/".into())
    }

    /// All index entries.
    pub fn index() -> Self {
        Self("manifest/index/".into())
    }

    /// The index entries of one commit.
    pub fn index_of(repo: &Repo, commit: Commit) -> Self {
        Self(format!("manifest/index/{}/{commit}/", of_repo(repo)))
    }

    /// The index entries of all commits of one repo.
    pub fn index_of_repo(repo: &Repo) -> Self {
        Self(format!("manifest/index/{}/", of_repo(repo)))
    }

    /// All snapshots, or those of one repo.
    pub fn snapshots(repo: Option<&Repo>) -> Self {
        Self(repo.map_or_else(|| "snapshots/".into(), |repo| format!("snapshots/{}/", of_repo(repo))))
    }

    /// The refs of one repo.
    pub fn references(repo: &Repo) -> Self {
        Self(format!("refs/{}/", of_repo(repo)))
    }

    /// The identities of all repos.
    pub fn identities() -> Self {
        Self("repos/".into())
    }

    /// What is known of all published copies.
    pub fn publishing() -> Self {
        Self("published/".into())
    }

    /// What is kept as evidence on a commit.
    pub fn evidence(repo: &Repo, commit: Commit) -> Self {
        Self(format!("evidence/{}/{commit}/", of_repo(repo)))
    }

    /// All copies of a repo, its marker and those below `@<commit>/` included; with a commit, only the latter.
    pub fn published(prefix: &PublishPrefix, repo: &Repo, commit: Option<Commit>) -> Self {
        Self(prefix.folder(repo, commit))
    }

    /// Where it lies in the bucket or directory, if it is of published copies.
    pub fn from_top(&self) -> Option<&str> {
        self.0.strip_prefix('/')
    }

    /// All intents of uploads.
    pub fn uploads() -> Self {
        Self("uploads/".into())
    }

    /// The whole audit log.
    pub fn audit() -> Self {
        Self("audit/".into())
    }

    /// The ends of all writers' audit logs.
    pub fn audit_heads() -> Self {
        Self("audit-heads/".into())
    }

    /// All approvals, rejections and notes on them.
    pub fn approvals() -> Self {
        Self("approvals/".into())
    }

    /// All withdrawals and notes on them.
    pub fn withdrawals() -> Self {
        Self("withdrawals/".into())
    }

    /// All requests.
    pub fn requests() -> Self {
        Self("requests/".into())
    }

    /// All jobs.
    pub fn jobs() -> Self {
        Self("jobs/".into())
    }

    /// The objects of one job.
    pub fn job(id: &str) -> Self {
        Self(format!("jobs/{id}/"))
    }

    /// The text; empty or ending in `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn dotted(word: Option<&str>) -> String {
    word.map_or_else(String::new, |word| format!(".{word}"))
}

fn of_repo(repo: &Repo) -> String {
    format!("{}/{}", repo.kind().plural(), repo.segment())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::RepoKind;

    #[test]
    fn keys_are_safe_relative_paths_whatever_the_names() {
        let repo = Repo::new(RepoKind::Dataset, "org/name").unwrap();
        let commit: Commit = "1".repeat(40).parse().unwrap();
        let path: RepoPath = "sub dir/filé #1 100%.txt".parse().unwrap();
        let revision: Revision = "refs/pr/1".parse().unwrap();
        let keys = [
            Key::index(&repo, commit, &path),
            Key::reference(&repo, &revision),
            Key::identity(&repo),
            Key::called(&repo),
            Key::snapshot(&repo, commit, "facts.json"),
            Key::blob(&Sha256::of(b"")),
        ];
        for key in keys {
            let text = key.as_str();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b)), "{text}");
            assert!(text.split('/').all(|s| !s.is_empty() && s.len() < 255 && s != "." && s != ".."), "{text}");
        }
        assert_eq!(Key::identity(&repo).identified(), Some(repo.clone()));
        assert_eq!(Key::index(&repo, commit, &path).indexed(), Some((repo.clone(), commit)));
        let request = Key::request("2026-11-24", &repo, "x.admin");
        assert_eq!(request.requested(), Some((repo.clone(), "x.admin")));
        assert_eq!(request.requested_on(), Some("2026-11-24"));
        assert!(Key::reference(&repo, &revision).as_str().starts_with(Prefix::references(&repo).as_str()));
    }
}
