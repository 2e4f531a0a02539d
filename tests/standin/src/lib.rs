//! A stand-in for the Hugging Face Hub and its CDN.
//!
//! It answers as the Hub does (status codes, headers, redirects, errors, pagination), on two listeners
//! with origins of their own, from repos that a test describes; it goes wrong as told; and it counts what
//! it was asked. It knows nothing of hubgate, so that an error on one side is not hidden by the other.
//!
//! ```no_run
//! # async fn example() {
//! use hub_standin::{Class, Fault, FaultKind, Standin};
//! let hub = Standin::builder().fixtures().start().await;
//! hub.fault(Fault::new(FaultKind::CutAfter { bytes: 1000 }).path("acme/tiny/model.safetensors").once());
//! // ... let something download from hub.hub_url() ...
//! assert_eq!(hub.counters().of(Class::Cdn), 2);
//! # }
//! ```

mod answer;
mod ask;
mod body;
mod builder;
mod card;
mod cdn;
mod content;
mod control;
mod counters;
mod describe;
mod faults;
mod file;
mod fixtures;
mod hub;
mod origin;
mod pace;
mod repo;
mod route;
mod server;
mod standin;
mod state;
mod tls;
mod tree;
mod world;

pub use builder::Builder;
pub use content::{Content, Generated};
pub use counters::{Class, Counters, Origin, Recorded};
pub use describe::{NewCommit, RepoBuilder};
pub use faults::{Fault, FaultKind, FaultState};
pub use fixtures::fixtures;
pub use repo::{Gated, Kind, Repo, RepoName};
pub use standin::Standin;
pub use state::Gzip;
pub use tls::NAMES;
pub use tree::Crowd;
pub use world::DEFAULT_TOKEN;
