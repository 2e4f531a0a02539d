//! The running gateway: everything built once from the configuration, run, and taken down in order.
//!
//! Start: policy, upstream, store, manifest, gateway, then the sockets; what is set up wrongly ends the start.
//! A store that can't be reached is waited for: the process answers, is not ready, and says so once a minute.
//!
//! Stop: no longer ready, no new connections, answers under way finish, then fills, until the drain time is
//! over; the manifest's records last.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    admin::Admin,
    config::Loaded,
    gateway::{Gateway, GatewayConfig},
    hooks::{Hooks, Location},
    housekeeping::Evictor,
    http::{Addresses, Edge, EdgeParts, Readiness, Side, Traffic},
    jobs::Jobs,
    manifest::{Manifest, WriterId},
    policy::{self, PolicyHandle, Severity},
    publish::Publisher,
    server::{self, Listener, Serve, Tls, Workers},
    store::{self, DryRun, ErrorKind, Store, StoreHealth, StoreKind, open_layout},
    telemetry::{AccessLog, with_causes},
    upstream::Upstream,
};

/// Between two tries to reach the store.
const STORE_RETRY: Duration = Duration::from_secs(3);
/// How often a store that can't be reached is said aloud.
const SAY_EVERY: Duration = Duration::from_mins(1);
/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_hours(6);
/// How often certificates are looked at; files of a mounted secret change without a signal.
const TLS_EVERY: Duration = Duration::from_secs(30);
/// What the manifest gets to write its last records when the drain time is over.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// Why a process doesn't start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Set up wrongly: what, and the remedy. Exit code 2.
    #[error("{0}")]
    Misconfigured(String),
    /// The machine says no: an address in use, a directory that can't be made. Exit code 1.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl StartError {
    fn misconfigured(error: &impl std::fmt::Display) -> Self {
        Self::Misconfigured(error.to_string())
    }
}

/// What the command line's other commands need of a gateway, too: everything but the sockets.
pub struct Core {
    /// The store.
    pub store: Arc<dyn Store>,
    /// How it is doing.
    pub store_health: Arc<StoreHealth>,
    /// The policy in force.
    pub policy: Arc<PolicyHandle>,
    /// The way out.
    pub upstream: Arc<Upstream>,
    /// The use cases.
    pub gateway: Gateway,
    /// The copies for workloads that read the bucket themselves, and the hook.
    pub publisher: Publisher,
    /// Keeps `store.max_size`, where it is set.
    pub evictor: Option<Arc<Evictor>>,
    /// What operators change.
    pub admin: Admin,
    /// What they want brought in.
    pub jobs: Jobs,
    /// Their tasks.
    pub tasks: TaskTracker,
    manifest_tasks: TaskTracker,
    manifest_stop: CancellationToken,
}

impl Core {
    /// Builds it. Nothing is asked of the store or of upstream.
    ///
    /// # Errors
    /// A policy, a section or a file that can't be used.
    pub async fn build(loaded: &Loaded) -> Result<Self, StartError> {
        Self::assemble(loaded, false).await
    }

    /// The same, but whatever it writes stays in memory and is forgotten with it; a store's directory that is not
    /// there is not made.
    ///
    /// # Errors
    /// As [`Core::build`].
    pub async fn build_dry_run(loaded: &Loaded) -> Result<Self, StartError> {
        Self::assemble(loaded, true).await
    }

    async fn assemble(loaded: &Loaded, dry_run: bool) -> Result<Self, StartError> {
        let config = &loaded.config;
        let policy = PolicyHandle::open(&config.policy.dir, loaded.lists.clone());
        let policy = Arc::new(policy.map_err(|error| StartError::misconfigured(&error))?);
        let upstream = Upstream::new(&config.upstream, loaded.proxy_env.clone());
        let upstream = upstream.map_err(|error| StartError::misconfigured(&error))?;
        if let Some(warning) = config.store.warning() {
            warn!(warning, "store");
        }
        let writer = WriterId::new();
        // Boxed: it is large, and stands here twice.
        let build = || Box::pin(store::build(&config.store, &config.spool, writer.as_str()));
        let built = |store: store::Result<Arc<dyn Store>>| store.map_err(|error| store_error(&error));
        let store: Arc<dyn Store> = match dry_run {
            false => built(build().await)?,
            true if config.store.kind == StoreKind::Local && !config.store.local.path.exists() => {
                Arc::new(DryRun::over(None))
            }
            true => Arc::new(DryRun::over(Some(built(build().await)?))),
        };
        let (store, store_health) = store::watched(store);
        let (store, room) = match config.store.max_size {
            None => (store, None),
            Some(max) => {
                let (store, room) = store::bounded(store, max);
                (store, Some(room))
            }
        };
        let (manifest_tasks, manifest_stop) = (TaskTracker::new(), CancellationToken::new());
        let manifest = Manifest::start(store.clone(), writer.clone(), &manifest_tasks, manifest_stop.clone());
        let origin = upstream.endpoint_host();
        let tasks = TaskTracker::new();
        let admin = Admin::new(&config.approvals, store.clone(), policy.clone(), manifest.clone(), origin, &tasks);
        let gateway_config = GatewayConfig {
            ref_ttl: config.upstream.ref_ttl,
            on_gone: config.upstream.on_gone,
            contact: config.policy.contact.clone(),
            fill: config.fill.clone(),
            limits: config.limits.clone(),
        };
        let gateway =
            Gateway::new(gateway_config, store.clone(), policy.clone(), upstream.clone(), manifest.clone(), &tasks);
        let evictor = room.map(|room| {
            let origin = upstream.endpoint_host().to_owned();
            Evictor::new(store.clone(), manifest.clone(), gateway.clone(), policy.clone(), room, origin)
        });
        let hooks = Hooks::new(config.hooks.clone(), store.clone(), Location::of(&config.store));
        let approvals = admin.clone();
        let publisher = Publisher::new(
            &config.publish,
            &loaded.lists,
            store.clone(),
            gateway.clone(),
            policy.clone(),
            hooks,
            Box::new(move || approvals.approvals_count()),
        );
        let publisher = publisher.map_err(StartError::Misconfigured)?;
        let jobs = Jobs::new(config.jobs.clone(), store.clone(), gateway.clone(), writer);
        Ok(Self {
            store,
            store_health,
            policy,
            upstream,
            gateway,
            publisher,
            evictor,
            admin,
            jobs,
            tasks,
            manifest_tasks,
            manifest_stop,
        })
    }

    /// Looks at the store once, for a command that will write to it: whether it can be used, and whether its layout
    /// is known. Says aloud what is worth knowing.
    ///
    /// # Errors
    /// A store that can't be reached or used: what, and the remedy.
    pub async fn open_store(&self) -> Result<(), StartError> {
        let looked = async {
            let probe = self.store.probe().await?;
            open_layout(&*self.store).await?;
            self.admin.refresh().await?;
            Ok::<_, store::Error>(probe)
        };
        for warning in &looked.await.map_err(|error| store_error(&error))?.warnings {
            warn!(warning, "store");
        }
        Ok(())
    }

    /// Waits for what is under way, at most until `deadline`, and for the manifest's last records.
    pub async fn stop(self, deadline: Instant) {
        self.gateway.give_up_paused();
        self.tasks.close();
        if time::timeout_at(deadline, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "the drain time is over; dropping the fills still under way");
        }
        self.manifest_stop.cancel();
        self.manifest_tasks.close();
        if time::timeout(LAST_RECORDS, self.manifest_tasks.wait()).await.is_err() {
            error!("the manifest's last records could not be written; hubgate verify --repair completes them");
        }
    }
}

/// A gateway with its sockets bound, about to run.
pub struct App {
    core: Core,
    /// Where the store is, for people.
    store: String,
    listeners: Vec<(Listener, Edge)>,
    serve: Serve,
    tls: Option<Arc<Tls>>,
    readiness: Arc<Readiness>,
}

impl App {
    /// Builds everything and binds the sockets.
    ///
    /// # Errors
    /// What is set up wrongly, or an address that can't be bound.
    pub async fn build(loaded: &Loaded, access: AccessLog) -> Result<Self, StartError> {
        let config = &loaded.config;
        // Boxed, since it is large.
        let core = Box::pin(Core::build(loaded)).await?;
        let addresses = Addresses::new(&config.server).map_err(|error| StartError::misconfigured(&error))?;
        let tls = Tls::load(&config.server.tls).map_err(|error| StartError::misconfigured(&error))?.map(Arc::new);
        let readiness = Arc::new(Readiness::default());
        let parts = EdgeParts {
            gateway: core.gateway.clone(),
            admin: core.admin.clone(),
            jobs: core.jobs.clone(),
            policy: core.policy.clone(),
            auth: config.auth.clone(),
            addresses,
            refusal: config.policy.refusal,
            access,
            readiness: readiness.clone(),
            store: core.store_health.clone(),
            traffic: Arc::new(Traffic::default()),
        };
        let mut listeners = Vec::new();
        let public = Listener::bind(&config.server.listen).await?;
        match &config.server.admin_listen {
            None => listeners.push((public, Edge::new(parts, Side::Both))),
            Some(address) => {
                let admin = Listener::bind(address).await?;
                listeners.push((public, Edge::new(parts.clone(), Side::Public)));
                listeners.push((admin, Edge::new(parts, Side::Admin)));
            }
        }
        let serve = Serve {
            limits: config.server.limits.clone(),
            tls: tls.clone(),
            drain_timeout: config.server.drain_timeout,
            workers: Workers::for_this_machine()?,
        };
        Ok(Self { core, store: config.store.to_string(), listeners, serve, tls, readiness })
    }

    /// The bound addresses: the public one first.
    pub fn addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> {
        self.listeners.iter().map(|(listener, _)| listener.address())
    }

    /// The parts below the sockets.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Serves until `stop` is cancelled and everything is taken down.
    ///
    /// # Errors
    /// A store that is set up wrongly, which only asking it can tell.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        let mut background = Background::default();
        let (wrong, found_wrong) = oneshot::channel();
        let opened = CancellationToken::new();
        let store = (self.core.store.clone(), self.core.admin.clone(), opened.clone());
        background.spawn("the store", open_store(store, self.readiness.clone(), wrong, stop.clone()));
        background.spawn("what admins decide", self.core.admin.clone().watch(opened.clone(), stop.clone()));
        if let Some(evictor) = &self.core.evictor {
            background.spawn("store.max_size", evictor.clone().watch(opened.clone(), stop.clone()));
        }
        background.spawn("what is published", self.core.publisher.clone().watch(opened, stop.clone()));
        background.spawn("whole commits", self.core.publisher.clone().listen(stop.clone()));
        let policy = self.core.policy.current();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            store = self.store,
            upstream = self.core.upstream.endpoint_host(),
            policy = %policy.digest(),
            rules = policy.rules().len(),
            "starting"
        );
        for finding in policy::check(&policy, policy::today(), None) {
            if finding.severity <= Severity::Warning {
                warn!("policy: {finding}");
            }
        }
        background.spawn("the policy folder", self.core.policy.clone().watch(stop.clone()));
        let readiness = self.readiness.clone();
        let admin = self.core.admin.clone();
        // What was withdrawn must be known before anything comes in.
        let may_begin = move || readiness.has_store() && admin.is_read();
        background.spawn("the jobs", self.core.jobs.clone().run(may_begin, stop.clone()));
        background.spawn("SIGHUP", on_hangup(self.core.policy.clone(), self.tls.clone(), stop.clone()));
        if let Some(tls) = &self.tls {
            background.spawn("the certificates", watch_tls(tls.clone(), stop.clone()));
        }
        let sockets = TaskTracker::new();
        for (listener, edge) in self.listeners {
            info!(address = %listener.address(), tls = self.tls.is_some(), "listening");
            sockets.spawn(server::serve(listener, self.serve.clone(), edge, stop.clone()));
        }
        sockets.close();
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Ok(problem) = found_wrong => Err(StartError::Misconfigured(problem)),
        };
        stop.cancel();
        self.readiness.stop();
        let deadline = Instant::now() + self.serve.drain_timeout;
        info!(drain = ?self.serve.drain_timeout, "stopping: answers under way may finish");
        sockets.wait().await;
        self.core.stop(deadline).await;
        background.end(deadline).await;
        info!("stopped");
        outcome
    }
}

/// What goes on beside the requests, each with what it looks after.
#[derive(Default)]
struct Background(Vec<(&'static str, JoinHandle<()>)>);

impl Background {
    fn spawn(&mut self, of: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.push((of, tokio::spawn(work)));
    }

    /// Waits for the ends of all, at most until `deadline`. A file system that doesn't answer must not keep the
    /// process.
    async fn end(self, deadline: Instant) {
        for (of, task) in self.0 {
            match time::timeout_at(deadline, task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(of, %error, "a task beside the requests failed"),
                Err(_) => warn!(of, "the drain time is over; a look that does not come to its end is left alone"),
            }
        }
    }
}

/// Waits for the store, looks at it once, says so by cancelling `opened`, and then sweeps it from time to time.
async fn open_store(
    (store, admin, opened): (Arc<dyn Store>, Admin, CancellationToken),
    readiness: Arc<Readiness>,
    wrong: oneshot::Sender<String>,
    stop: CancellationToken,
) {
    let mut said: Option<Instant> = None;
    loop {
        let looked = async {
            let probe = store.probe().await?;
            open_layout(&*store).await?;
            // Before anything is served: what was withdrawn.
            admin.refresh().await?;
            Ok::<_, store::Error>(probe)
        };
        let Some(looked) = stop.run_until_cancelled(looked).await else { return };
        match looked {
            Ok(probe) => {
                for warning in &probe.warnings {
                    warn!(warning, "store");
                }
                info!(conditional_create = probe.conditional_create, "the store is ready");
                readiness.store_is_ready();
                opened.cancel();
                break;
            }
            Err(error) if is_setup(&error) => {
                let _ = wrong.send(store_error(&error).to_string());
                return;
            }
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    error!(error = with_causes(&error), "waiting for the store: not ready");
                    said = Some(Instant::now());
                }
            }
        }
        if stop.run_until_cancelled(time::sleep(STORE_RETRY)).await.is_none() {
            return;
        }
    }
    loop {
        match stop.run_until_cancelled(store.sweep()).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(leftovers)) => info!(leftovers, "removed what dead writers left in the store"),
            Some(Err(error)) => warn!(error = with_causes(&error), "looking for leftovers failed"),
        }
        if stop.run_until_cancelled(time::sleep(SWEEP_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Whether waiting can't help.
fn is_setup(error: &store::Error) -> bool {
    matches!(error.kind, ErrorKind::Misconfigured(_) | ErrorKind::PermissionDenied | ErrorKind::Corrupt(_))
}

fn store_error(error: &store::Error) -> StartError {
    if is_setup(error) {
        StartError::Misconfigured(with_causes(error))
    } else {
        StartError::Failed(io::Error::other(with_causes(error)))
    }
}

/// SIGHUP: look at the policy and the certificates now.
async fn on_hangup(policy: Arc<PolicyHandle>, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return warn!(%error, "SIGHUP is not listened to"),
    };
    while let Some(Some(())) = stop.run_until_cancelled(hangups.recv()).await {
        info!("SIGHUP: looking at the policy and the certificates");
        let (policy, tls) = (policy.clone(), tls.clone());
        let look = move || {
            // What it finds wrong, it logs and remembers itself.
            drop(policy.reload());
            if let Some(tls) = tls {
                tls.reload();
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            error!(%error, "looking at the policy failed");
        }
    }
}

async fn watch_tls(tls: Arc<Tls>, stop: CancellationToken) {
    while stop.run_until_cancelled(time::sleep(TLS_EVERY)).await.is_some() {
        let tls = tls.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || tls.reload()).await {
            error!(%error, "looking at the certificates failed");
        }
    }
}

/// Cancels `stop` at SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// Where the system doesn't let us listen to signals.
pub fn stop_on_signals(stop: CancellationToken) -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = AtomicBool::new(false);
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked.swap(true, Ordering::Relaxed) {
                warn!("a second signal: ending at once");
                std::process::exit(1);
            }
            stop.cancel();
        }
    })
}
