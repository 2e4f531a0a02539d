//! Files: where one is, and its bytes, from the store or from a fill.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Asker, Awaited, Body, Cached, DEADLINE, Error, File, Gateway, Located, OnWhole, Opened, Opening, Refusal, Result,
    by,
    fill::{Fill, FillEnd, FillKey, Joined, Order, Reader, Reading, taint_mark},
    grant::remember_policy,
    origin::HubFile,
    view::View,
};
use crate::{
    hub::{BlobId, Commit, Repo, RepoPath, Revision, Sha256},
    manifest::{Entry, What},
    policy::{FileVerdict, Ranges},
    store::{Key, ObjectMeta, PutMode},
};

/// A larger oid object is nothing that we wrote.
const MAX_OID_BYTES: u64 = 256;

/// What opening a file gets in any case, however long finding it took.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// How often an answer that ended under our feet is looked up again.
const MAX_TRIES: usize = 4;

impl Gateway {
    /// Where a file is and all that HEAD says of it. Never fetches the file.
    pub async fn locate(&self, asker: &Asker, asked: &Repo, revision: &Revision, path: &RepoPath) -> Result<Located> {
        by(Instant::now() + DEADLINE, Awaited::Origin, self.locate_unhurried(asker, asked, revision, path)).await
    }

    pub(super) async fn locate_unhurried(
        &self,
        asker: &Asker,
        asked: &Repo,
        revision: &Revision,
        path: &RepoPath,
    ) -> Result<Located> {
        let view = self.settled_view(asker, asked, revision).await?;
        let node = self.node(asker, &view, path).await?;
        let (repo, commit) = (view.resolved.repo.clone(), view.resolved.commit);
        let Some(blob) = node.blob_id() else { return Err(Error::EntryNotFound { repo, commit }) };
        match view.grant.approved.rule.decide_file(path, node.size, Some(blob)) {
            FileVerdict::Served => {}
            FileVerdict::Refused(denial) => return Err(self.denied(&denial)),
            FileVerdict::Hidden(denial) => {
                return Err(Error::Hidden { path: path.clone(), refusal: self.refusal(&denial) });
            }
        }
        // What is rare is boxed, here and below: an answer's state is moved about as a whole, and a memory that is mostly
        // copied unused was a sixth of what a HEAD cost.
        if view.grant.policy.asks_for_content(&view.grant.approved.rule, path) {
            Box::pin(self.content_may_be_served(&view, path, &blob)).await?;
        }
        self.hook_admits(asker, &view, path, &blob).await?;
        if let Some((limit, key)) = self.store.largest_stage()
            && node.size > limit
            && !Box::pin(self.is_stored(&repo, commit, path, &blob)).await?
        {
            return Err(Error::NeverFits { size: node.size, limit, key });
        }
        let here = revision.as_commit() == Some(commit) && *asked == repo;
        let file = File {
            repo,
            commit,
            path: path.clone(),
            size: node.size,
            blob,
            oid: node.oid,
            warning: view.grant.warning.clone(),
            stale: view.resolved.stale,
            revision: view.resolved.revision,
            grant: view.grant,
        };
        Ok(if here { Located::Here(file) } else { Located::Elsewhere(file) })
    }

    /// Opens a file, or a range of it that lies inside.
    pub async fn open(&self, asker: &Asker, file: &File, opening: Opening) -> Result<Opened> {
        let Opening { range, rest, asked_at } = opening;
        // What finding the file has cost is over; what is stored opens in far less than a second.
        let answer_by = (Instant::from_std(asked_at) + DEADLINE).max(Instant::now() + LEAST_TIME);
        let wanted = Wanted { range: range.unwrap_or(0..file.size), to_the_end: rest.is_some() };
        let source = by(answer_by, Awaited::Store, Box::pin(self.source(asker, file, wanted, rest))).await?;
        let filled = async {
            let opened = match source {
                Source::Stored(hit) => return Ok(hit),
                Source::Fill(fill, wanted) => self.follow(asker, file, fill, wanted).await,
                Source::AnyFill(wanted) => self.open_by_fill(asker, file, wanted).await,
            };
            match opened {
                Err(error) => Err(self.told_of_move(file, error).await),
                opened => opened,
            }
        };
        by(answer_by, Awaited::Origin, Box::pin(filled)).await
    }

    /// Where the bytes may come from for a client that may have those before them; and which it gets.
    async fn source(&self, asker: &Asker, file: &File, mut wanted: Wanted, rest: Option<OnWhole>) -> Result<Source> {
        if let (Some(on_whole), BlobId::Sha256(sha256)) = (rest, file.blob)
            && wanted.range.start > 0
        {
            // Before the mark is looked at: a fill that ends stored takes its own away first.
            let live = self.fills.read_by(&FillKey::Sha256(sha256), &asker.label(), wanted.range.start);
            if let Some(mark) = taint_mark(&*self.store, &sha256).await? {
                match (live, on_whole) {
                    // What this client has is of this very fill, and so must the rest be.
                    (Some(fill), _) if fill.has_set(&mark) => return Ok(Source::Fill(fill, wanted)),
                    (_, OnWhole::StartsOver) => wanted.range = 0..file.size,
                    (_, OnWhole::TakesItForTheRest) => return Err(Error::Spoiled { path: file.path.clone() }),
                }
            }
        }
        Ok(match self.hit(asker, file, wanted.range.clone()).await? {
            Some(hit) => Source::Stored(hit),
            None => Source::AnyFill(wanted),
        })
    }

    /// A fill's error; where the origin has another name for the repo by now, that is noted and put to policy.
    pub(super) async fn told_of_move(&self, file: &File, error: Error) -> Error {
        match error {
            Error::Upstream(error) if error.moved_to().is_some() => {
                self.failed(&file.repo, &file.commit.into(), error).await
            }
            error => error,
        }
    }

    /// Bytes of a file from this fill, and from the store once it has ended.
    async fn follow(&self, asker: &Asker, file: &File, fill: Arc<Fill>, wanted: Wanted) -> Result<Opened> {
        let order = self.order(asker, &self.as_led_to(file).await);
        match self.fills.join_live(fill, order)? {
            Joined::Begun(fill) | Joined::Live(fill) => read_from(asker, file, &fill, wanted, Cached::Joined).await,
            Joined::Ending(fill) => match fill.ended().await {
                FillEnd::Stored(_) => match self.hit(asker, file, wanted.range.clone()).await? {
                    Some(hit) => Ok(hit),
                    None => self.open_by_fill(asker, file, wanted).await,
                },
                // Those that it was for; not us.
                FillEnd::Denied(_) => self.open_by_fill(asker, file, wanted).await,
                end => Err(end.into_error()),
            },
        }
    }

    async fn open_by_fill(&self, asker: &Asker, file: &File, wanted: Wanted) -> Result<Opened> {
        let file = &self.as_led_to(file).await;
        for _ in 0..MAX_TRIES {
            let (fill, cached) = match self.fills.join(self.order(asker, file)).await? {
                Joined::Begun(fill) => (fill, Cached::Fill),
                Joined::Live(fill) => (fill, Cached::Joined),
                Joined::Ending(fill) => match fill.ended().await {
                    FillEnd::Stored(_) => match self.hit(asker, file, wanted.range.clone()).await? {
                        Some(hit) => return Ok(hit),
                        None => continue,
                    },
                    // Those that it was for; not us.
                    FillEnd::Denied(_) => continue,
                    end => return Err(end.into_error()),
                },
            };
            return read_from(asker, file, &fill, wanted, cached).await;
        }
        Err(Error::Busy { why: "the file comes and goes; ask again".into(), retry_after: super::RETRY })
    }

    /// Refuses content that is denied by its digest, or locked with another. A git file's is known once it was fetched; what is fetched for
    /// the first time is refused at the end of its fill.
    async fn content_may_be_served(&self, view: &View, path: &RepoPath, blob: &BlobId) -> Result<()> {
        let (policy, rule) = (&view.grant.policy, &view.grant.approved.rule);
        let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
        let sha256 = match self.manifest.entry(repo, commit, path).await? {
            Some(entry) => Some(entry.sha256),
            None => self.known_sha256(repo, blob).await?,
        };
        let refused = sha256.map_or(Ok(()), |sha256| policy.decide_content(rule, repo, path, &sha256));
        refused.map_err(|denial| self.denied(&denial))
    }

    async fn is_stored(&self, repo: &Repo, commit: Commit, path: &RepoPath, blob: &BlobId) -> Result<bool> {
        if self.manifest.entry(repo, commit, path).await?.is_some() {
            return Ok(true);
        }
        match blob {
            BlobId::Sha256(sha256) => Ok(self.store.head(&Key::blob(sha256)).await?.is_some()),
            BlobId::Git(_) => Ok(false),
        }
    }

    /// The file with the branch or tag that led to its commit last: another one may have since it was found
    /// (`view` keeps what it shows for a moment), and the manifest names it.
    async fn as_led_to(&self, file: &File) -> File {
        let led_to = self.led_to(&file.grant.approved.rule, &file.repo, file.commit).await;
        File { revision: led_to.unwrap_or_else(|| file.revision.clone()), ..file.clone() }
    }

    /// The file from the store, if the manifest has it or the same content is there under another name.
    async fn hit(&self, asker: &Asker, file: &File, range: Range<u64>) -> Result<Option<Opened>> {
        let entry = match self.manifest.entry(&file.repo, file.commit, &file.path).await? {
            Some(entry) => entry,
            None => match Box::pin(async { self.adopt(asker, &self.as_led_to(file).await).await }).await? {
                Some(entry) => entry,
                None => return Ok(None),
            },
        };
        if entry.size != file.size || entry.etag != file.blob {
            let (repo, commit, path) = (&file.repo, file.commit, &file.path);
            tracing::error!(%repo, %commit, %path, "manifest and snapshot disagree; run `hubgate verify`");
            return Err(Error::Insane(format!("{repo}@{commit}: manifest and snapshot disagree on {path}")));
        }
        let whole = range.start == 0 && range.end == file.size;
        let key = Key::blob(&entry.sha256);
        let object = match self.store.open(&key, (!whole).then(|| range.clone())).await {
            Ok(object) => object.filter(|object| object.size == file.size),
            // A range outside of what is left of a blob; or the store's own trouble.
            Err(error) => match self.store.head(&key).await? {
                Some(ObjectMeta { size, .. }) if size != file.size => None,
                _ => return Err(error.into()),
            },
        };
        let Some(object) = object else {
            let sha256 = entry.sha256;
            tracing::error!(
                %sha256, path = %file.path, alarm = true,
                "recorded, but the blob is gone or not of its size; fetching it again"
            );
            Box::pin(self.manifest.forget(&file.repo, file.commit, &file.path)).await;
            return Ok(None);
        };
        Ok(Some(Opened { range, body: Body::Stored(object.body), cached: Cached::Hit }))
    }

    /// Content that is here under another repo or revision is recorded for this file too, and not fetched.
    pub(super) async fn adopt(&self, asker: &Asker, file: &File) -> Result<Option<Arc<Entry>>> {
        let Some(sha256) = self.known_sha256(&file.repo, &file.blob).await? else { return Ok(None) };
        let blob = Key::blob(&sha256);
        if !self.is_here(&blob, file.size).await? {
            return Ok(None);
        }
        // Perhaps nobody has recorded it, or it is being evicted. Who removes blobs looks for claims first, so from here
        // on it stays, or we see below that it went.
        self.store.put(&Key::claim(&sha256), Bytes::from_static(b"{}"), PutMode::Overwrite).await?;
        if !self.is_here(&blob, file.size).await? {
            return Ok(None);
        }
        let grant = &file.grant;
        remember_policy(&self.manifest, &grant.policy).await?;
        let origin = self.upstream.endpoint_host();
        let record = grant.record(file, sha256, asker.label(), origin);
        let entry = self.manifest.record_adopted(record).await?;
        if self.is_here(&blob, file.size).await? {
            return Ok(Some(entry));
        }
        // Who removed it may have looked for entries just before ours came. A fill will write both again, if it can.
        self.manifest.record(entry.removal(What::Evicted, asker.label(), origin)).await?;
        Ok(None)
    }

    async fn is_here(&self, blob: &Key, size: u64) -> Result<bool> {
        Ok(self.store.head(blob).await?.is_some_and(|meta| meta.size == size))
    }

    /// The content's sha256: announced, or known since a git file of the same id was verified.
    pub(super) async fn known_sha256(&self, repo: &Repo, blob: &BlobId) -> Result<Option<Sha256>> {
        match blob {
            BlobId::Sha256(sha256) => Ok(Some(*sha256)),
            BlobId::Git(oid) => {
                let body = self.store.get(&Key::oid(repo, oid), MAX_OID_BYTES).await?;
                Ok(body.and_then(|body| std::str::from_utf8(&body).ok()?.trim().parse().ok()))
            }
        }
    }

    pub(super) fn order(&self, asker: &Asker, file: &File) -> Order {
        let (key, announced) = match file.blob {
            BlobId::Sha256(sha256) => (FillKey::Sha256(sha256), sha256),
            // Filled in when the content is verified.
            BlobId::Git(oid) => (FillKey::Git(file.repo.clone(), oid), Sha256::of(b"")),
        };
        let (asked_by, origin) = (asker.label(), self.upstream.endpoint_host());
        // By the name that policy was asked about last.
        let origin_file = self.upstream.file(file.grant.called(), file.commit, &file.path);
        let record = file.grant.record(file, announced, asked_by.clone(), origin);
        Order {
            key,
            blob: file.blob,
            size: file.size,
            verified_only: file.grant.approved.rule.ranges == Ranges::Verified,
            grant: file.grant.clone(),
            record,
            origin: Arc::new(HubFile::new(origin_file.for_purpose(asker.purpose()))),
            asked_by,
            background: asker.background,
        }
    }

    /// A policy's no, with whom to ask.
    pub(super) fn refusal(&self, denial: &crate::policy::Denial) -> Refusal {
        Refusal::of_policy(denial, self.config.contact.as_deref())
    }

    /// The same as an error.
    pub(super) fn denied(&self, denial: &crate::policy::Denial) -> Error {
        Error::Denied(self.refusal(denial))
    }
}

/// Which bytes of a file are asked for; and whether as all from there on, as one that resumes asks.
struct Wanted {
    range: Range<u64>,
    to_the_end: bool,
}

/// Where an answer's bytes come from.
enum Source {
    Stored(Opened),
    /// This fill, which gave the client what it has.
    Fill(Arc<Fill>, Wanted),
    /// Whichever fill there is, or a new one.
    AnyFill(Wanted),
}

/// Bytes of a file from a fill under way, once the first are there.
async fn read_from(asker: &Asker, file: &File, fill: &Arc<Fill>, wanted: Wanted, cached: Cached) -> Result<Opened> {
    let Wanted { range, to_the_end } = wanted;
    // A bounded range is asked for what lies there, not for all before it.
    let reading = if file.grant.approved.rule.ranges == Ranges::Verified {
        Reading::Verified
    } else if range.end == file.size && (range.start == 0 || to_the_end) {
        Reading::Sequential
    } else {
        Reading::Slice
    };
    let body = Reader::new(fill, file.name(), range.clone(), reading, asker.label()).into_body().await?;
    Ok(Opened { range, body: Body::Filling(body), cached })
}
