//! The running gateway: everything built once from the configuration, run, and taken down in order.
//!
//! Start: policy, upstream, store, manifest, gateway, then the sockets; what is set up wrongly ends the start.
//! A store that can't be reached is waited for: the process answers, is not ready, and says so once a minute.
//!
//! Stop: no longer ready, no new connections, answers under way finish, then fills, until the drain time is
//! over; the manifest's records last.

mod assembly;
mod background;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use assembly::Core;

use crate::{
    config::Loaded,
    http::{Addresses, AllowedOrigins, Edge, EdgeParts, Readiness, Side, Traffic},
    policy::{self, Severity},
    server::{self, Listener, Serve, Tls, Workers},
    telemetry::AccessLog,
};
use background::{Background, on_hangup, open_store, watch_tls};

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
            origins: AllowedOrigins::new(&config.server.cors_origins).map_err(StartError::Misconfigured)?,
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
