//! What a running gateway does beside answering: it waits for its store, sweeps it, and looks at what changes without a
//! word to it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::assembly::{is_setup, store_error};
use crate::{
    admin::Admin,
    housekeeping::remove_claims,
    http::Readiness,
    policy::PolicyHandle,
    server::Tls,
    store::{self, Store, open_layout},
    telemetry::with_causes,
};

/// Between two tries to reach the store.
const STORE_RETRY: Duration = Duration::from_secs(3);
/// How often a store that can't be reached is said aloud.
const SAY_EVERY: Duration = Duration::from_mins(1);
/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_hours(6);
/// How often certificates are looked at; files of a mounted secret change without a signal.
const TLS_EVERY: Duration = Duration::from_secs(30);

/// The tasks beside the requests, each with what it looks after.
#[derive(Default)]
pub(super) struct Background(Vec<(&'static str, JoinHandle<()>)>);

impl Background {
    pub(super) fn spawn(&mut self, of: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.push((of, tokio::spawn(work)));
    }

    /// Waits for the ends of all, at most until `deadline`. A file system that doesn't answer must not keep the
    /// process.
    pub(super) async fn end(self, deadline: Instant) {
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
pub(super) async fn open_store(
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
            admin.check_read()?;
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
        match stop.run_until_cancelled(store.sweep(true)).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(leftovers)) => info!(leftovers, "removed what dead writers left in the store"),
            Some(Err(error)) => warn!(error = with_causes(&error), "looking for leftovers failed"),
        }
        match stop.run_until_cancelled(remove_claims(&*store)).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(claims)) => info!(claims, "removed claims of blobs that hold no longer"),
            Some(Err(error)) => warn!(error = with_causes(&error), "looking for old claims failed"),
        }
        if stop.run_until_cancelled(time::sleep(SWEEP_EVERY)).await.is_none() {
            return;
        }
    }
}

/// SIGHUP: look at the policy and the certificates now.
pub(super) async fn on_hangup(policy: Arc<PolicyHandle>, tls: Option<Arc<Tls>>, stop: CancellationToken) {
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

pub(super) async fn watch_tls(tls: Arc<Tls>, stop: CancellationToken) {
    while stop.run_until_cancelled(time::sleep(TLS_EVERY)).await.is_some() {
        let tls = tls.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || tls.reload_if_changed()).await {
            error!(%error, "looking at the certificates failed");
        }
    }
}
