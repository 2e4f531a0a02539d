//! The control listener of the binary: what the Rust API does, as JSON over HTTP.
//!
//! | request | does |
//! |---|---|
//! | `GET /-/standin/counters` | all counts and the last requests |
//! | `DELETE /-/standin/counters` | sets them to zero |
//! | `GET /-/standin/faults` | the faults in force |
//! | `POST /-/standin/faults` | adds a fault, or a list of them; answers their ids |
//! | `DELETE /-/standin/faults[/ID]` | ends one fault, or all |
//! | `GET /-/standin/repos` | repos with their refs |
//! | `POST /-/standin/refs` | `{"repo", "ref", "commit"}`: moves a ref |
//! | `POST /-/standin/repos` | `{"repo", ...}` with any of `rename`, `author`, `object_id`, `gated` (true), `private`, `disabled`, `access`, `remove` (true): changes a repo |
//! | `POST /-/standin/token` | `{"token"}`: another token is the good one |
//! | `POST /-/standin/rate` | `{"origin", "bytes_per_second"}`: caps an origin; 0 ends it |

use std::io;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::counters::Origin;
use crate::faults::Fault;
use crate::repo::{Gated, RepoName};
use crate::server::{Connection, Handler};
use crate::state::State;

#[derive(Clone)]
pub(crate) struct ControlHandler {
    pub(crate) state: Arc<State>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<Fault>),
    Many(Vec<Fault>),
}

#[derive(Deserialize)]
struct MoveRef {
    repo: String,
    #[serde(rename = "ref")]
    reference: String,
    commit: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    repo: String,
    author: Option<String>,
    object_id: Option<String>,
    gated: Option<bool>,
    private: Option<bool>,
    disabled: Option<bool>,
    access: Option<bool>,
    rename: Option<String>,
    #[serde(default)]
    remove: bool,
}

impl Change {
    fn apply(self, state: &State) -> Result<(), (u16, String)> {
        let name = RepoName::from(self.repo.as_str());
        let mut world = state.world_mut();
        let repo = world.repo_mut(&name).ok_or_else(|| (404, format!("there is no repo {name}")))?;
        repo.author = self.author.unwrap_or_else(|| repo.author.clone());
        repo.object_id = self.object_id.unwrap_or_else(|| repo.object_id.clone());
        repo.gated = self.gated.map_or(repo.gated, |gated| if gated { Gated::Manual } else { Gated::No });
        repo.private = self.private.unwrap_or(repo.private);
        repo.disabled = self.disabled.unwrap_or(repo.disabled);
        repo.access = self.access.unwrap_or(repo.access);
        if let Some(id) = self.rename {
            world.rename(&name, &id);
        }
        if self.remove {
            world.remove(&name);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Rate {
    origin: Origin,
    bytes_per_second: u64,
}

impl Handler for ControlHandler {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Connection>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body::collect(body, 1 << 20).await.unwrap_or_default();
        let (status, value) = match self.act(parts.method.as_str(), parts.uri.path(), &body) {
            Ok(value) => (200, value),
            Err((status, message)) => (status, json!({ "error": message })),
        };
        let mut response = Response::new(body::full(format!("{value:#}\n")));
        *response.status_mut() = http::StatusCode::from_u16(status).map_err(io::Error::other)?;
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

impl ControlHandler {
    fn act(&self, method: &str, path: &str, body: &[u8]) -> Result<Value, (u16, String)> {
        let state = &self.state;
        let action = path.trim_end_matches('/').strip_prefix("/-/standin/").unwrap_or_default();
        let value = match (method, action) {
            ("GET", "counters") => json!(state.counting.snapshot()),
            ("DELETE", "counters") => {
                state.counting.reset();
                json!({})
            }
            ("GET", "faults") => json!(state.faults.list()),
            ("POST", "faults") => {
                // First as a list: an untagged error would not say which fault is wrong.
                let faults = match parse::<OneOrMany>(body) {
                    Ok(OneOrMany::Many(faults)) => faults,
                    Ok(OneOrMany::One(fault)) => vec![*fault],
                    Err(_) => vec![parse::<Fault>(body)?],
                };
                json!({ "ids": faults.into_iter().map(|fault| state.faults.add(fault)).collect::<Vec<_>>() })
            }
            ("DELETE", "faults") => json!({ "cleared": state.faults.clear(None) }),
            ("GET", "repos") => {
                let line = |repo: &Arc<crate::Repo>| json!({ "repo": repo.name.to_string(), "refs": repo.refs });
                state.world().all().map(line).collect()
            }
            ("POST", "refs") => {
                let wanted: MoveRef = parse(body)?;
                let name = RepoName::from(wanted.repo.as_str());
                let mut world = state.world_mut();
                let repo = world.repo_mut(&name).ok_or_else(|| (404, format!("there is no repo {name}")))?;
                repo.point(&wanted.reference, &wanted.commit).map_err(|error| (400, error))?;
                json!({})
            }
            ("POST", "repos") => {
                parse::<Change>(body)?.apply(state)?;
                json!({})
            }
            ("POST", "token") => {
                state.world_mut().token = parse::<Token>(body)?.token;
                json!({})
            }
            ("POST", "rate") => {
                let rate: Rate = parse(body)?;
                state.pacer(rate.origin).set(rate.bytes_per_second);
                json!({})
            }
            ("DELETE", other) if other.starts_with("faults/") => {
                let id = other["faults/".len()..].parse().map_err(|_| (400, "a fault's id is a number".to_owned()))?;
                json!({ "cleared": state.faults.clear(Some(id)) })
            }
            _ => {
                return Err((404, format!("no control action {method} {path}; see hub-standin --help")));
            }
        };
        Ok(value)
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, (u16, String)> {
    serde_json::from_slice(body).map_err(|error| (400, error.to_string()))
}
