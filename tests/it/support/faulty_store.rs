//! A store that fails, waits and slows down as it is told, over one that works.

use std::{
    any::Any,
    collections::HashMap,
    fs::File,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hubgate::{
    hub::Sha256,
    store::{
        Copied, CopyFacts, Error, ErrorKind, Key, Object, ObjectBody, ObjectMeta, Prefix, Probe, PutMode, PutOutcome,
        Result, Stage, Store,
    },
};
use tokio::sync::Semaphore;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Head,
    Get,
    Open,
    Put,
    Stage,
    Advance,
    Commit,
    Copy,
    List,
    Delete,
}

/// The wrapper. Keep an `Arc` of it to give orders while the code under test uses another.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    orders: Arc<Mutex<Orders>>,
}

#[derive(Debug, Default)]
struct Orders {
    failing: HashMap<Op, (u32, ErrorKind)>,
    delayed: HashMap<Op, Duration>,
    held: HashMap<Op, Arc<Semaphore>>,
    calls: HashMap<Op, u64>,
    bytes_per_second: Option<u64>,
}

impl FaultyStore {
    pub(crate) fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, orders: Arc::default() })
    }

    /// Lets the next `times` of an operation fail before they do anything. `Op::Stage` with
    /// `ErrorKind::Full` is a full disk.
    pub(crate) fn fail(&self, op: Op, times: u32, kind: ErrorKind) {
        self.orders.lock().unwrap().failing.insert(op, (times, kind));
    }

    /// Lets an operation wait before it does anything.
    pub(crate) fn delay(&self, op: Op, pause: Duration) {
        self.orders.lock().unwrap().delayed.insert(op, pause);
    }

    /// Lets an operation wait before it does anything, until it is released.
    pub(crate) fn hold(&self, op: Op) {
        self.orders.lock().unwrap().held.insert(op, Arc::new(Semaphore::new(0)));
    }

    /// Lets it, and whoever waits, go on.
    pub(crate) fn release(&self, op: Op) {
        if let Some(held) = self.orders.lock().unwrap().held.remove(&op) {
            held.close();
        }
    }

    /// Lets bodies come, and stages be taken, at this rate.
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.orders.lock().unwrap().bytes_per_second = Some(bytes_per_second);
    }

    /// How often an operation was asked for, failed ones included.
    pub(crate) fn calls(&self, op: Op) -> u64 {
        self.orders.lock().unwrap().calls.get(&op).copied().unwrap_or(0)
    }
}

/// Counts, waits and fails as ordered.
async fn obey(orders: &Mutex<Orders>, op: Op) -> Result<()> {
    let (pause, held, failure) = {
        let mut orders = orders.lock().unwrap();
        *orders.calls.entry(op).or_default() += 1;
        let failure = orders.failing.get_mut(&op).filter(|(times, _)| *times > 0).map(|(times, kind)| {
            *times -= 1;
            kind.clone()
        });
        (orders.delayed.get(&op).copied(), orders.held.get(&op).cloned(), failure)
    };
    if let Some(held) = held {
        held.acquire().await.unwrap_err();
    }
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
    failure.map_or(Ok(()), |kind| Err(Error::new(kind).caused_by(format!("ordered failure of {op:?}"))))
}

fn time_for(orders: &Mutex<Orders>, bytes: u64) -> Duration {
    let rate = orders.lock().unwrap().bytes_per_second;
    rate.map_or(Duration::ZERO, |rate| Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1)))
}

#[async_trait]
impl Store for FaultyStore {
    async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        obey(&self.orders, Op::Head).await?;
        self.inner.head(key).await
    }

    async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>> {
        obey(&self.orders, Op::Get).await?;
        self.inner.get(key, limit).await
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<Option<Object>> {
        obey(&self.orders, Op::Open).await?;
        let opened = self.inner.open(key, range).await?;
        Ok(opened.map(|Object { size, body }| {
            let body = Throttled { body, orders: self.orders.clone(), pause: None };
            Object { size, body: ObjectBody::Stream(body.boxed_unsync()) }
        }))
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<PutOutcome> {
        obey(&self.orders, Op::Put).await?;
        self.inner.put(key, body, mode).await
    }

    async fn stage(&self, size: u64, sha256: Option<Sha256>) -> Result<Box<dyn Stage>> {
        obey(&self.orders, Op::Stage).await?;
        let stage = self.inner.stage(size, sha256).await?;
        Ok(Box::new(FaultyStage { stage, orders: self.orders.clone(), upto: 0 }))
    }

    fn largest_stage(&self) -> Option<(u64, &'static str)> {
        self.inner.largest_stage()
    }

    async fn copy(&self, blob: &Sha256, to: &Key, facts: &CopyFacts) -> Result<Copied> {
        obey(&self.orders, Op::Copy).await?;
        self.inner.copy(blob, to, facts).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ObjectMeta>> {
        let listing = self.inner.list(prefix);
        stream::once(obey(&self.orders, Op::List))
            .flat_map(|obeyed| match obeyed {
                Ok(()) => stream::empty().boxed(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            })
            .chain(listing)
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        obey(&self.orders, Op::Delete).await?;
        self.inner.delete(key).await
    }

    async fn probe(&self) -> Result<Probe> {
        self.inner.probe().await
    }

    async fn sweep(&self, apply: bool) -> Result<u64> {
        self.inner.sweep(apply).await
    }
}

struct FaultyStage {
    stage: Box<dyn Stage>,
    orders: Arc<Mutex<Orders>>,
    upto: u64,
}

#[async_trait]
impl Stage for FaultyStage {
    fn file(&self) -> Arc<File> {
        self.stage.file()
    }

    fn room(&self) -> Arc<dyn Any + Send + Sync> {
        self.stage.room()
    }

    async fn advance(&mut self, upto: u64) -> Result<u64> {
        obey(&self.orders, Op::Advance).await?;
        tokio::time::sleep(time_for(&self.orders, upto.saturating_sub(self.upto))).await;
        self.upto = self.upto.max(upto);
        self.stage.advance(upto).await
    }

    async fn commit(self: Box<Self>, sha256: Sha256) -> Result<()> {
        obey(&self.orders, Op::Commit).await?;
        self.stage.commit(sha256).await
    }
}

struct Throttled {
    body: ObjectBody,
    orders: Arc<Mutex<Orders>>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Throttled {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(bytes)) = frame.as_ref().map(|frame| frame.as_ref().map(|frame| frame.data_ref())) {
            let pause = time_for(&self.orders, bytes.map_or(0, |bytes| bytes.len() as u64));
            if !pause.is_zero() {
                self.pause = Some(Box::pin(tokio::time::sleep(pause)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
