//! The only way out: every byte that hubgate fetches from the origin Hub and its CDN comes in here (I1).
//!
//! What is promised: only allowed hosts are asked, through the egress proxy where there is one; the token
//! goes to the endpoint's own origin alone (I7); redirects are followed by hand, hop by hop; every wait has
//! an end and every answer a bound; the Hub's request budget is respected, with its last tenth kept for
//! clients. What never happens: no policy is asked, nothing is stored, nothing of a client's request (its
//! token least of all) is sent.

mod config;
#[expect(dead_code, reason = "the exchange that makes errors lands next")]
mod error;

pub use config::{ConfigError, OnGone, ProxyEnv, UpstreamConfig};
pub use error::{Error, ErrorKind, Result};

/// For whom the origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A client waits. May use the whole budget.
    Client,
    /// Nobody waits: revalidation, preseeding, the rest of a tree. Leaves the last tenth of the budget alone.
    Background,
}
