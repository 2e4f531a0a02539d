//! `hubgate policy`: is it well formed, and what would a repo get?

use clap::Subcommand;

use super::Done;
use crate::{config::Loaded, policy::PolicyHandle};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Reads the policy folder and says what is wrong with it.
    Check,
}

pub(super) fn run(loaded: &Loaded, command: &PolicyCommand) -> Done {
    match command {
        PolicyCommand::Check => check(loaded),
    }
}

fn check(loaded: &Loaded) -> Done {
    let dir = &loaded.config.policy.dir;
    let policy = PolicyHandle::open(dir, loaded.lists.clone())?.current();
    println!("{}: {} allow rules, sha256 {}", dir.display(), policy.rules().len(), policy.digest());
    Ok(())
}
