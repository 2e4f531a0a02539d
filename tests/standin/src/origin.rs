//! One request at either origin, from arrival to the response: record, faults, answer.

use std::io;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::answer::Answer;
use crate::ask::{self, Ask};
use crate::body::{self, Body};
use crate::counters::{Class, Origin, Recorded};
use crate::faults::{FaultKind, Target};
use crate::route::Route;
use crate::server::{Connection, Handler};
use crate::state::State;
use crate::{cdn, hub};

/// A request body above this is not read.
const LARGEST_BODY_BYTES: usize = 16 << 20;

#[derive(Clone)]
pub(crate) struct OriginHandler {
    pub(crate) state: Arc<State>,
    pub(crate) origin: Origin,
}

impl Handler for OriginHandler {
    fn connected(&self) {
        self.state.counting.connected();
    }

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let (path, raw_query) = ask::path_and_query(&parts);
        let (route, class, file) = match self.origin {
            Origin::Hub => {
                let route = Route::parse(&path);
                let (class, file) = (route.class(), route.file());
                (route, class, file)
            }
            Origin::Cdn => {
                let (class, file) = cdn::classify(&self.state, &path);
                (Route::Unknown, class, file)
            }
        };
        let method = parts.method.to_string();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let seq = self.state.counting.arrived(Recorded {
            seq: 0,
            origin: self.origin,
            class,
            method: method.clone(),
            target: format!("{path}{raw_query}"),
            file: file.clone(),
            headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            status: 0,
            bytes: 0,
        });
        let body = if method == "POST" {
            body::collect(body, LARGEST_BODY_BYTES).await.unwrap_or_default()
        } else {
            Vec::new()
        };
        let authorization = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
        let caller = self.state.world().caller(authorization);
        let target = Target { origin: self.origin, class, method: method.clone(), path: ask::decode(&path), file };
        let ask = Ask {
            state: self.state.clone(),
            origin: self.origin,
            method,
            query: ask::pairs(&raw_query),
            path,
            raw_query,
            headers: parts.headers,
            caller,
            target,
            body,
        };
        let window = self.state.count_against_limit(class);
        let answer = match replaced(&ask).await? {
            Some(answer) => answer,
            None if window.refuse && self.origin == Origin::Hub => hub::rate_limited(window.reset),
            None if class == Class::Cdn || self.origin == Origin::Cdn => cdn::answer(&ask),
            None => hub::answer(&ask, route).await,
        };
        self.state.counting.answered(seq, answer.status);
        answer.send(&ask, &window, connection, seq)
    }
}

/// What faults answer in place of the origin. An error closes the connection without an answer.
async fn replaced(ask: &Ask) -> io::Result<Option<Answer>> {
    let mut replaced = None;
    for struck in ask.strike(FaultKind::is_of_answer) {
        match struck.kind {
            FaultKind::StallBeforeHeaders { ms } => struck.stall(ms).await,
            FaultKind::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => replaced = replaced.or_else(|| hub::scripted(ask, &struck)),
        }
    }
    Ok(replaced)
}
