//! Connections to the bucket that stay with the event loop which uses them.
//!
//! A connection is driven by a task of the runtime that opened it. With one pool for all, most bodies would come by
//! tasks of another thread, which hands over each piece and wakes the reader: near half of the CPU of a large answer.
//! So each event loop has a pool of its own.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_smithy_runtime_api::client::{
    http::{
        HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
    },
    orchestrator::HttpRequest,
    runtime_components::RuntimeComponents,
};
use tokio::runtime::{Handle, Id};

/// A client for each event loop, made when it first asks.
#[derive(Clone)]
pub(super) struct PerLoop(Arc<Clients>);

struct Clients {
    make: Box<dyn Fn() -> SharedHttpClient + Send + Sync>,
    made: Mutex<HashMap<Id, SharedHttpClient>>,
}

impl PerLoop {
    /// Clients as `make` makes them.
    pub(super) fn new(make: impl Fn() -> SharedHttpClient + Send + Sync + 'static) -> Self {
        Self(Arc::new(Clients { make: Box::new(make), made: Mutex::default() }))
    }

    fn of_this_loop(&self) -> SharedHttpClient {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(Handle::current().id()).or_insert_with(|| (self.0.make)()).clone()
    }
}

impl fmt::Debug for PerLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PerLoop")
    }
}

impl HttpClient for PerLoop {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let (clients, settings, components) = (self.clone(), settings.clone(), components.clone());
        SharedHttpConnector::new(Connector { clients, settings, components })
    }
}

#[derive(Debug)]
struct Connector {
    clients: PerLoop,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for Connector {
    /// Called on the loop that will read the answer.
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.clients.of_this_loop().http_connector(&self.settings, &self.components).call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_smithy_runtime_api::client::http::http_client_fn;

    use super::*;

    #[test]
    fn each_event_loop_has_one_client_of_its_own() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let clients = PerLoop::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            http_client_fn(|_, _| unreachable!("nothing is asked"))
        });
        let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let other = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for runtime in [&one, &other, &one] {
            runtime.block_on(async { drop(clients.of_this_loop()) });
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }
}
