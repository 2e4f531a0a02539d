//! The HTTP edge: from a request to a question for the gateway, and from its answer to a response.
//!
//! | path | answered by | on |
//! |---|---|---|
//! | `/-/livez`, `/-/readyz` | [`own`] | both listeners |
//! | `/-/admin/v1/...` | [`admin`] | the admin listener, or the public one where there is no other |
//! | everything else below `/-/` | [`own`] | the same |
//! | everything else, also below the prefix of `public_url` | [`hub`] | the public listener |
//!
//! Around every request, from the outside in: the connection's limits ([`crate::server`]), request id and
//! access line ([`layers`]), panics caught, the caller's name ([`auth`]), then the route. Status codes are
//! decided in [`error`] and nowhere else; file headers in [`respond`].
//!
//! HEAD is answered like GET, headers and status, without opening anything. Nothing here compresses, joins
//! paths or decodes before splitting: all three break clients (PROTOCOL section 16).

mod address;
mod admin;
mod api;
mod auth;
mod cors;
mod error;
mod face;
mod hub;
mod layers;
mod metrics;
mod own;
mod payload;
mod respond;
mod shown;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    HeaderValue, Method, Request, Response,
    header::{CONNECTION, CONTENT_LENGTH},
    request::Parts,
};
use http_body::Body;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

pub use address::{AddressError, Addresses};
pub use auth::{AuthConfig, KnownAdmin, KnownClient, Scope};
pub use cors::AllowedOrigins;
pub use layers::{Counted, Traffic};
pub use own::Readiness;
pub use payload::Payload;

use crate::{
    admin::Admin,
    gateway::{Asker, Gateway},
    jobs::Jobs,
    policy::{PolicyHandle, RefusalForm},
    server::{Handle, Peer, RequestBody},
    store::StoreHealth,
    telemetry::AccessLog,
};
use auth::{Auth, Caller};
use face::Form;
use layers::{Books, Outcome, RequestIds, Visit};
use shown::ShownFiles;

/// What the edge is made of.
#[derive(Clone)]
pub struct EdgeParts {
    /// What answers the Hub's questions.
    pub gateway: Gateway,
    /// What operators change.
    pub admin: Admin,
    /// What they want brought in.
    pub jobs: Jobs,
    /// The policy in force.
    pub policy: Arc<PolicyHandle>,
    /// `[auth]`.
    pub auth: AuthConfig,
    /// `server.public_url` and `server.trusted_proxies`.
    pub addresses: Addresses,
    /// `server.cors_origins`.
    pub origins: AllowedOrigins,
    /// `policy.refusal`.
    pub refusal: RefusalForm,
    /// Where access lines go.
    pub access: AccessLog,
    /// What `/-/readyz` says beside the gateway's own health.
    pub readiness: Arc<Readiness>,
    /// How the store is doing.
    pub store: Arc<StoreHealth>,
    /// What all listeners together have answered.
    pub traffic: Arc<Traffic>,
}

/// Which routes a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The Hub's and ours.
    Both,
    /// The Hub's, and of ours `/-/livez` and `/-/readyz`.
    Public,
    /// Ours.
    Admin,
}

/// Answers requests of one listener.
#[derive(Clone)]
pub struct Edge {
    shared: Arc<Shared>,
    own: axum::Router,
    side: Side,
}

struct Shared {
    gateway: Gateway,
    admin: Admin,
    auth: Auth,
    addresses: Addresses,
    origins: AllowedOrigins,
    refusal: RefusalForm,
    books: Books,
    readiness: Arc<Readiness>,
    ids: RequestIds,
    shown: ShownFiles,
    /// A place for each body that is being read into memory.
    bodies: Semaphore,
}

/// A request of the Hub's kind, with what was found out about it on the way.
struct Ask<'r> {
    peer: Peer,
    parts: &'r Parts,
    asker: Asker,
    form: Form,
}

impl Edge {
    /// The edge of one listener.
    pub fn new(parts: EdgeParts, side: Side) -> Self {
        let own = own::router(&parts, side);
        let shared = Shared {
            gateway: parts.gateway,
            admin: parts.admin,
            auth: Auth::new(&parts.auth),
            addresses: parts.addresses,
            origins: parts.origins,
            refusal: parts.refusal,
            books: Books { access: parts.access, traffic: parts.traffic },
            readiness: parts.readiness,
            ids: RequestIds::new(),
            shown: ShownFiles::new(),
            bodies: Semaphore::new(api::BODIES),
        };
        Self { shared: Arc::new(shared), own, side }
    }

    /// Answers one request, whatever brought it here.
    pub async fn answer<B>(&self, peer: Peer, request: Request<B>) -> Response<Counted>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let mut visit = self.visit(peer, &parts);
        let routed = AssertUnwindSafe(self.route(peer, &parts, body, &mut visit)).catch_unwind().await;
        let response = routed.unwrap_or_else(|panic| error::panicked(&panic, &mut visit));
        self.finish(response, visit)
    }

    fn visit(&self, peer: Peer, parts: &Parts) -> Box<Visit> {
        Box::new(Visit {
            started: Instant::now(),
            id: self.shared.ids.of(&parts.headers),
            address: self.shared.addresses.client(peer, &parts.headers),
            client: None,
            method: parts.method.clone(),
            agent: layers::agent(&parts.headers).cloned(),
            route: "own",
            is_hubs: false,
            leave: self.shared.origins.leave(&parts.headers),
            repo: None,
            commit: None,
            path: None,
            outcome: Outcome::None,
            reason: None,
        })
    }

    fn finish(&self, response: Response<Payload>, mut visit: Box<Visit>) -> Response<Counted> {
        let (mut head, payload) = response.into_parts();
        head.headers.insert(layers::X_REQUEST_ID, visit.id.clone());
        if visit.is_hubs {
            self.shared.origins.open(&mut head.headers, visit.leave.take());
        }
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = Counted::new(payload, visit, self.shared.books.clone(), head.status, length);
        Response::from_parts(head, body)
    }

    async fn route<B>(&self, peer: Peer, parts: &Parts, body: B, visit: &mut Visit) -> Response<Payload>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let path = self.shared.addresses.inside(parts.uri.path());
        if own::is_admins(path) && !self.shared.readiness.has_store() {
            return error::no_store_yet(&self.shared.form(parts, path), visit);
        }
        if own::is_own(path) {
            return Box::pin(self.own_route(path, parts, body, visit)).await;
        }
        if self.side == Side::Admin {
            return error::no_such_page(false);
        }
        visit.is_hubs = true;
        if parts.method == Method::OPTIONS {
            visit.route = "preflight";
            return cors::preflight(parts);
        }
        let form = self.shared.form(parts, path);
        if !self.shared.readiness.has_store() {
            return error::no_store_yet(&form, visit);
        }
        if !self.shared.admin.is_read() {
            return error::withdrawals_not_read(&form, visit);
        }
        let name = match self.shared.auth.caller(&parts.headers) {
            Caller::Known(name) => Some(name),
            Caller::Anonymous => None,
            Caller::Refused => {
                visit.outcome = Outcome::Denied;
                return error::unauthorized(&form);
            }
        };
        visit.client.clone_from(&name);
        let asker = Asker { address: visit.address, name, background: false };
        let ask = Ask { peer, parts, asker, form };
        self.shared.hub(&ask, path, body, visit).await
    }

    async fn own_route<B>(&self, path: &str, parts: &Parts, body: B, visit: &mut Visit) -> Response<Payload>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let mut request = Request::from_parts(parts.clone(), axum::body::Body::new(body));
        let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        if let Ok(uri) = format!("/{}{query}", path.trim_start_matches('/')).parse() {
            *request.uri_mut() = uri;
        }
        if own::is_admins(path) {
            visit.route = "admin";
            if let Some(known) = self.shared.auth.admin(&parts.headers) {
                visit.client = Some(known.name.clone());
                request.extensions_mut().insert(admin::Operator {
                    name: known.name.clone(),
                    scopes: known.scopes.clone(),
                    address: visit.address,
                    request_id: visit.id.to_str().unwrap_or("-").to_owned(),
                });
            }
        }
        let response = match self.own.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        response.map(Payload::Own)
    }
}

impl Handle for Edge {
    type Body = Counted;

    fn handle(&self, peer: Peer, request: Request<RequestBody>) -> impl Future<Output = Response<Counted>> + Send {
        self.answer(peer, request)
    }

    fn turn_away(&self, peer: Peer, request: Request<RequestBody>) -> Response<Counted> {
        let (parts, _) = request.into_parts();
        let mut visit = self.visit(peer, &parts);
        let path = self.shared.addresses.inside(parts.uri.path());
        // Who is full lives: a probe that heard otherwise would have it killed.
        let response = if own::is_livez(path) {
            own::lives().map(Payload::Own)
        } else {
            error::too_many_connections(&self.shared.form(&parts, path), &mut visit)
        };
        let mut response = self.finish(response, visit);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
