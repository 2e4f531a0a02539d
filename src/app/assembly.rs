//! Everything of a gateway but its sockets, built once from the configuration, and taken down in order: what the command
//! line's other commands need, too.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use super::StartError;
use crate::{
    admin::Admin,
    config::Loaded,
    gateway::{Gateway, GatewayConfig},
    hooks::{Hooks, Location},
    housekeeping::Evictor,
    jobs::Jobs,
    manifest::{Manifest, WriterId},
    policy::PolicyHandle,
    publish::Publisher,
    store::{self, DryRun, ErrorKind, Store, StoreHealth, StoreKind, open_layout},
    telemetry::with_causes,
    upstream::Upstream,
};

/// What the manifest gets to write its last records when the drain time is over.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// A gateway without its sockets.
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
        Self::assemble(loaded, Use::Writes).await
    }

    /// The same over a store that is there already: none is made.
    ///
    /// # Errors
    /// As [`Core::build`]; that there is no store, or one whose layout is not known.
    pub async fn build_on_a_store(loaded: &Loaded) -> Result<Self, StartError> {
        // Looked at before it is opened to be written, since that makes it.
        store_to_read(loaded).await?;
        Self::assemble(loaded, Use::Writes).await
    }

    /// The same over a store that is there already and is only read, as a copy without the right to write. What is
    /// written all the same stays in memory.
    ///
    /// # Errors
    /// As [`Core::build_on_a_store`].
    pub async fn build_to_read(loaded: &Loaded) -> Result<Self, StartError> {
        Self::assemble(loaded, Use::Reads).await
    }

    /// The same, but whatever it writes stays in memory and is forgotten with it; a store's directory that is not
    /// there is not made.
    ///
    /// # Errors
    /// As [`Core::build`].
    pub async fn build_dry_run(loaded: &Loaded) -> Result<Self, StartError> {
        Self::assemble(loaded, Use::DryRun).await
    }

    async fn assemble(loaded: &Loaded, use_of_store: Use) -> Result<Self, StartError> {
        let config = &loaded.config;
        let (dir, lock) = (&config.policy.dir, config.policy.lock.clone());
        let policy = PolicyHandle::open_locked(dir, lock, loaded.lists.clone());
        let policy = Arc::new(policy.map_err(|error| StartError::misconfigured(&error))?);
        let upstream = Upstream::new(&config.upstream, loaded.proxy_env.clone());
        let upstream = upstream.map_err(|error| StartError::misconfigured(&error))?;
        if let Some(warning) = config.store.warning() {
            warn!(warning, "store");
        }
        let writer = WriterId::new();
        // Boxed, since they are large.
        let store: Arc<dyn Store> = match use_of_store {
            Use::Writes => {
                let built = Box::pin(store::build(&config.store, &config.spool, writer.as_str())).await;
                built.map_err(|error| store_error(&error))?
            }
            Use::Reads => Arc::new(DryRun::over(Some(Box::pin(store_to_read(loaded)).await?))),
            Use::DryRun if config.store.kind == StoreKind::Local && !config.store.local.path.exists() => {
                Arc::new(DryRun::over(None))
            }
            Use::DryRun => {
                let beneath = Box::pin(store::build_to_read(&config.store, &config.spool)).await;
                Arc::new(DryRun::over(Some(beneath.map_err(|error| store_error(&error))?)))
            }
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
        // A dry run stores nothing, and needs nobody who makes room.
        let evictor = room.filter(|_| matches!(use_of_store, Use::Writes)).map(|room| {
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
            self.admin.check_read()?;
            Ok::<_, store::Error>(probe)
        };
        for warning in &looked.await.map_err(|error| store_error(&error))?.warnings {
            warn!(warning, "store");
        }
        Ok(())
    }

    /// The same for a command that brings files in: `store.max_size` is kept, and counts what is stored already.
    ///
    /// # Errors
    /// As [`Core::open_store`], or an eviction that fails.
    pub async fn open_store_to_fill(&self) -> Result<(), StartError> {
        self.open_store().await?;
        if let Some(evictor) = &self.evictor {
            let kept = evictor.keep_bound().await;
            kept.map_err(|error| StartError::Failed(io::Error::other(with_causes(&error))))?;
        }
        Ok(())
    }

    /// Refuses a store whose layout is not known, and writes nothing.
    ///
    /// # Errors
    /// That, or a store that can't be read.
    pub async fn check_layout(&self) -> Result<(), StartError> {
        store::check_layout(&*self.store).await.map(drop).map_err(|error| store_error(&error))
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

/// What a command does with the store.
#[derive(Clone, Copy)]
enum Use {
    Writes,
    Reads,
    DryRun,
}

/// The store, opened to be read: one that is there, with a layout that is known.
async fn store_to_read(loaded: &Loaded) -> Result<Arc<dyn Store>, StartError> {
    let config = &loaded.config.store;
    let absent = || {
        let (place, key) = match config.kind {
            StoreKind::Local => (format!("the directory {config}"), "store.local.path"),
            StoreKind::S3 => (config.to_string(), "store.s3.endpoint, bucket and prefix"),
        };
        StartError::Misconfigured(format!(
            "{place} holds no hubgate store, it has no layout.json: is this the right {key}? `hubgate serve` makes a \
             new store, and every gateway that starts writes a layout.json that was lost"
        ))
    };
    if config.kind == StoreKind::Local && !config.local.path.exists() {
        return Err(absent());
    }
    let store = store::build_to_read(config, &loaded.config.spool).await.map_err(|error| store_error(&error))?;
    match store::check_layout(&*store).await {
        Ok(true) => Ok(store),
        Ok(false) => Err(absent()),
        Err(error) => Err(store_error(&error)),
    }
}

/// Whether waiting can't help.
pub(super) fn is_setup(error: &store::Error) -> bool {
    matches!(error.kind, ErrorKind::Misconfigured(_) | ErrorKind::PermissionDenied | ErrorKind::Corrupt(_))
}

pub(super) fn store_error(error: &store::Error) -> StartError {
    if is_setup(error) {
        StartError::Misconfigured(with_causes(error))
    } else {
        StartError::Failed(io::Error::other(with_causes(error)))
    }
}
