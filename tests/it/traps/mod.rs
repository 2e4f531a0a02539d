//! The wire protocol as clients of the Hub know it: each line of PROTOCOL section 1, and each trap of its section 16
//! in which a naive proxy breaks a client.
//!
//! A test's doc comment begins with the numbers of the traps that it proves. The others:
//!
//! | trap | why there is no test here |
//! |---|---|
//! | 12 | a client that remembers Xet hashes from before meets a hard error on any answer; ours says the cure: `listings` |
//! | 20 | a client's own warm cache hides every refusal from it; nothing that a server sends changes that |
//! | 31, 32 | hubgate reads with one account and judges by policy, not by the caller; what that account may not see is never kept: `errors` |
//! | 44, 45 | git and git-lfs are not served: a clear 404, in `errors` |
//! | 50 | JavaScript and Rust 0.x send `#` raw, and what follows it is never sent; encoded it works: `spellings` |

mod access;
mod errors;
mod files;
mod fills;
mod listings;
mod names;
mod origin_unnamed;
mod pages;
mod ranges;
mod redirects;
mod refusals;
mod revisions;
mod spellings;
mod withdrawal;

use hub_standin::Standin;

use crate::support::gateway::{Setup, TestGateway};

/// The usual repos, and a gateway before them.
async fn world() -> (Standin, TestGateway) {
    let hub = Standin::builder().fixtures().start().await;
    let gate = TestGateway::before(&hub).await;
    (hub, gate)
}

/// The usual repos under another policy.
async fn world_under(policy: &str) -> (Standin, TestGateway) {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().policy(policy).start(&hub).await;
    (hub, gate)
}

/// The usual repos, and a gateway with these lines in its configuration.
async fn world_with(config: &str) -> (Standin, TestGateway) {
    let hub = Standin::builder().fixtures().start().await;
    let gate = Setup::new().config(config).start(&hub).await;
    (hub, gate)
}
