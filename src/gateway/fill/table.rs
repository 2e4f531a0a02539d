//! All live fills: makes two misses of one blob one fetch, and bounds how many there are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Claim, Fill, FillEnd, FillKey, Order, Progress, Readers, State};
use crate::{
    gateway::{Error, tasks::Tasks, turns::Turns},
    hub::BlobId,
    manifest::Manifest,
    policy::PolicyHandle,
    store::{self, Store},
    telemetry::Family,
};

/// `[fill]`: transfers from the origin that are under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FillConfig {
    /// How many blobs may be fetched at once. Past it, a miss is answered 503 with Retry-After.
    pub max_live: usize,
    /// How many of them one client may have begun.
    pub per_client: usize,
    /// Files up to this size are verified before their first byte goes out. Files that the Hub names by
    /// a git id always are.
    pub verify_first: ByteSize,
}

impl Default for FillConfig {
    fn default() -> Self {
        Self { max_live: 128, per_client: 32, verify_first: ByteSize::mib(8) }
    }
}

/// The wait after the first mismatch of a digest; it doubles with each up to [`MAX_SLOW`].
const FIRST_SLOW: Duration = Duration::from_secs(5);
const MAX_SLOW: Duration = Duration::from_mins(5);

/// How many digests with mismatches are remembered.
const MAX_MISMATCHES: usize = 10_000;

/// How long the origin may take to show that a file can be had, before anything goes for it.
const PROOF_WITHIN: Duration = Duration::from_secs(8);

/// A content and the size that it was said to have. A wrong size that one repo states is no fault of another that
/// states the right one.
type Announced = (FillKey, u64);

/// The table.
pub(crate) struct Fills {
    config: FillConfig,
    store: Arc<dyn Store>,
    manifest: Manifest,
    policy: Arc<PolicyHandle>,
    contact: Option<String>,
    tasks: Tasks,
    live: Mutex<HashMap<FillKey, Arc<Fill>>>,
    mismatches: Mutex<HashMap<Announced, (u32, Instant)>>,
    ended: Family<1>,
    /// Who begins a fill takes its key's turn, so that many who miss one blob at once stage it once.
    turns: Turns,
}

/// Takes a fill off the table when its task ends, however it ends.
struct Landing {
    table: Arc<Fills>,
    fill: Arc<Fill>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        // A task that ended without a word: whoever waits for it must not wait for ever.
        self.fill.change(|state| {
            state.claims = None;
            state.end.get_or_insert(FillEnd::Abandoned);
        });
        self.table.live().remove(&self.fill.key);
        self.table.remember_end((self.fill.key.clone(), self.fill.size), self.fill.end().as_ref());
    }
}

/// Gives up the fill that is paused longest, for another that somebody waits for. A client that breaks off
/// many downloads must not keep everybody's places.
fn make_room<'a>(live: impl Iterator<Item = &'a Arc<Fill>>) -> bool {
    let paused = live.filter(|fill| !fill.give_up.is_cancelled());
    let paused = paused.filter_map(|fill| Some((fill.paused_since()?, fill)));
    let Some((_, longest)) = paused.min_by_key(|(since, _)| *since) else { return false };
    tracing::info!(key = ?longest.key, "a paused fill gives way to another");
    longest.give_up.cancel();
    true
}

/// What [`Fills::join`] found.
pub(crate) enum Joined {
    /// A fill was begun.
    Begun(Arc<Fill>),
    /// One is under way, and will record our file too.
    Live(Arc<Fill>),
    /// One has just ended or is about to: wait for it and look in the store again.
    Ending(Arc<Fill>),
}

impl Fills {
    /// An empty table; its fills run as `tasks`.
    pub(crate) fn new(
        config: FillConfig,
        store: Arc<dyn Store>,
        manifest: Manifest,
        policy: Arc<PolicyHandle>,
        contact: Option<String>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let (live, mismatches) = (Mutex::default(), Mutex::default());
        let ended = Family::new(["end"]);
        Arc::new(Self {
            config,
            store,
            manifest,
            policy,
            contact,
            tasks,
            live,
            mismatches,
            ended,
            turns: Turns::default(),
        })
    }

    /// Begins a fill for the order, or joins the one that is under way.
    pub(crate) async fn join(self: &Arc<Self>, order: Order) -> Result<Joined, Error> {
        if let Some(fill) = self.find(&order.key) {
            return self.join_live(fill, order);
        }
        let _turn = self.turns.take(&order.key).await;
        // The one before us may have begun it.
        if let Some(fill) = self.find(&order.key) {
            return self.join_live(fill, order);
        }
        self.refuse_while_slowed(&(order.key.clone(), order.size))?;
        self.refuse_past_limits(&self.live(), &order.asked_by, order.background)?;
        let announced = match order.blob {
            BlobId::Sha256(sha256) => Some(sha256),
            BlobId::Git(_) => None,
        };
        self.make_room_for(&order).await?;
        let stage = self.store.stage(order.size, announced).await.map_err(|error| self.no_place(&order, error))?;
        let nothing_unverified = order.verified_only
            || order.size <= self.config.verify_first.as_u64()
            || matches!(order.blob, BlobId::Git(_));
        let fill = Arc::new(Fill {
            key: order.key.clone(),
            blob: order.blob,
            size: order.size,
            asked_by: order.asked_by,
            origin: Mutex::new(order.origin),
            store: self.store.clone(),
            policy: self.policy.clone(),
            contact: self.contact.clone(),
            file: stage.file(),
            _room: stage.room(),
            state: Mutex::new(State {
                progress: Progress::new(order.size, nothing_unverified),
                extra: 0,
                extra_failures: 0,
                claims: Some(vec![Claim { record: order.record, grant: order.grant }]),
                refused: HashMap::new(),
                stalls: 0,
                stalled_by: None,
                stalled_since: None,
                end: None,
                given_to: BTreeMap::new(),
            }),
            version: watch::Sender::new(0),
            readers: watch::Sender::new(Readers { count: 0, since: Instant::now(), arrived: 0 }),
            taint: OnceCell::new(),
            give_up: CancellationToken::new(),
            deserted: CancellationToken::new(),
            tasks: self.tasks.clone(),
        });
        {
            let mut live = self.live();
            // Others have begun theirs while the stage was made.
            self.refuse_past_limits(&live, &fill.asked_by, order.background)?;
            live.insert(order.key, fill.clone());
        }
        let landing = Landing { table: self.clone(), fill: fill.clone() };
        self.tasks.spawn(async move {
            landing.fill.clone().run(stage, landing.table.manifest.clone()).await;
        });
        Ok(Joined::Begun(fill))
    }

    /// Has the store make room, where there is none, once the origin has shown that the file can be had: what is stored
    /// must not go for one that can't, and during an outage it could not be fetched again.
    async fn make_room_for(&self, order: &Order) -> Result<(), Error> {
        let fits = self.store.has_room(order.size).map_err(|error| self.no_place(order, error))?;
        if !fits {
            // One byte: the CDN's place for the file is kept for the fill.
            // And not for long: whoever wants the same file waits for us.
            let proof = tokio::time::timeout(PROOF_WITHIN, order.origin.open(0..order.size.min(1), order.size)).await;
            drop(proof.map_err(|_| Self::unproven())?.map_err(Error::Upstream)?);
            self.store.make_room(order.size).await.map_err(|error| self.no_place(order, error))?;
        }
        Ok(())
    }

    fn unproven() -> Error {
        let why = "no room for another transfer, and the origin does not show in time that the file can be had";
        Error::Busy { why: why.into(), retry_after: Duration::from_secs(10) }
    }

    /// That the store has no place for another transfer. A paused one gives way to the next try.
    fn no_place(&self, order: &Order, error: store::Error) -> Error {
        let store::ErrorKind::Full(limit) = &error.kind else { return error.into() };
        make_room(self.live().values());
        tracing::warn!(%limit, size = order.size, "no room for another transfer; what is stored is served");
        Error::Busy { why: format!("no room for another transfer: {limit}"), retry_after: Duration::from_secs(10) }
    }

    fn find(&self, key: &FillKey) -> Option<Arc<Fill>> {
        self.live().get(key).cloned()
    }

    /// Joins a live fill with the order's record.
    pub(crate) fn join_live(&self, fill: Arc<Fill>, order: Order) -> Result<Joined, Error> {
        let (repo, commit, path) = (&order.record.repo, order.record.commit, &order.record.path);
        // The size of an LFS file is whatever its author wrote. One content has one size.
        if fill.size != order.size {
            let (announced, coming) = (order.size, fill.size);
            return Err(Error::Insane(format!(
                "{repo}@{commit}: {path} is announced with {announced} bytes, and the same content is coming in under another \
                 name with {coming} bytes announced"
            )));
        }
        let mut claim = Claim { record: order.record, grant: order.grant };
        // The fill has looked at the policy in force already.
        let policy = self.policy.current();
        if claim.grant.policy.digest() != policy.digest()
            && let Err(denial) = claim.decide(&policy, None)
        {
            return Err(fill.denied(&denial).into_error());
        }
        // What fails where it was begun, under a repo's former name perhaps, may be had where it is asked for now.
        if fill.peek(|state| state.stalled_since.is_some()) {
            *fill.origin.lock().unwrap_or_else(PoisonError::into_inner) = order.origin;
        }
        if !order.background {
            fill.origin().hurry();
        }
        let joined = fill.peek(|state| {
            let Some(claims) = &mut state.claims else { return false };
            state.refused.remove(&claim.file());
            match claims.iter_mut().find(|known| known.is_of(&claim.record)) {
                // The later decision; the record is of who asked first.
                Some(known) => known.grant = claim.grant,
                None => claims.push(claim),
            }
            true
        });
        Ok(if joined { Joined::Live(fill) } else { Joined::Ending(fill) })
    }

    /// The live fill that this client was given all bytes of before `until`.
    pub(crate) fn read_by(&self, key: &FillKey, client: &str, until: u64) -> Option<Arc<Fill>> {
        let fill = self.live().get(key).cloned()?;
        fill.peek(|state| state.given_to.get(client).is_some_and(|given| *given >= until)).then_some(fill)
    }

    fn refuse_past_limits(
        &self,
        live: &HashMap<FillKey, Arc<Fill>>,
        asked_by: &str,
        background: bool,
    ) -> Result<(), Error> {
        let busy = |why: String| Error::Busy { why, retry_after: Duration::from_secs(5) };
        // One that was given up leaves the table in a moment.
        let all = || live.values().filter(|fill| !fill.give_up.is_cancelled());
        if background && self.config.max_live > 1 && all().count() >= self.config.max_live.div_ceil(2) {
            return Err(busy("half of the places for transfers are in use; the rest are kept for clients".into()));
        }
        if all().count() >= self.config.max_live && !make_room(all()) {
            return Err(busy(format!("{} transfers are under way (fill.max_live)", all().count())));
        }
        let theirs = || all().filter(|fill| fill.asked_by == asked_by);
        if theirs().count() >= self.config.per_client && !make_room(theirs()) {
            let most = self.config.per_client;
            return Err(busy(format!("{asked_by} has {most} transfers under way (fill.per_client)")));
        }
        Ok(())
    }

    /// Gives up all paused fills, as when the process is stopping.
    pub(crate) fn give_up_paused(&self) {
        while make_room(self.live().values()) {}
    }

    /// How many fills are under way.
    pub(crate) fn count(&self) -> usize {
        self.live().len()
    }

    /// How those before them ended.
    pub(crate) fn ended(&self) -> &Family<1> {
        &self.ended
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<FillKey, Arc<Fill>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Content that was not what was announced is not fetched again at once.
    fn refuse_while_slowed(&self, announced: &Announced) -> Result<(), Error> {
        let mismatches = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner);
        match mismatches.get(announced) {
            Some((times, until)) if *until > Instant::now() => Err(Error::Busy {
                why: format!("the origin sent wrong content {times} times; the next try waits"),
                retry_after: until.duration_since(Instant::now()),
            }),
            _ => Ok(()),
        }
    }

    fn remember_end(&self, announced: Announced, end: Option<&FillEnd>) {
        if let Some(end) = end {
            self.ended.count([end.name()]);
        }
        let mut mismatches = self.mismatches.lock().unwrap_or_else(PoisonError::into_inner);
        match end {
            Some(FillEnd::Rejected(_) | FillEnd::WrongSize(_)) => {
                if mismatches.len() >= MAX_MISMATCHES {
                    mismatches.retain(|_, (_, until)| *until > Instant::now());
                }
                let times = mismatches.get(&announced).map_or(0, |(times, _)| *times) + 1;
                let wait = MAX_SLOW.min(FIRST_SLOW * 2_u32.saturating_pow(times - 1));
                mismatches.insert(announced, (times, Instant::now() + wait));
            }
            Some(FillEnd::Stored(_)) => {
                mismatches.remove(&announced);
            }
            _ => {}
        }
    }
}
