//! What the log of a process says after trouble, and what it says at no level.

use hub_standin::{Fault, FaultKind, Origin, Standin};

use crate::{
    fills::big,
    support::{
        gateway::eventually,
        process::{Process, set_up},
    },
};

const SIZE: u64 = 24 << 20;
const NAME: &str = "acme/big/model.safetensors";
/// The tokens of a client that the configuration names, and of one that it doesn't.
const KNOWN: &str = "hg_of_the_trainer";
const STRANGER: &str = "hf_of_a_container";

/// Two clients are served, one of them has bytes of a transfer that turns out wrong, and a repo disappears upstream.
/// The log of all that in full, and hubgate's own token.
async fn after_a_bad_night() -> (String, String) {
    let hub = Standin::builder().fixtures().repo(big(SIZE)).start().await;
    let sha256 = hubgate::hub::Sha256::of(KNOWN.as_bytes());
    let config = format!(
        "log.filter = \"trace\"\nupstream.ref_ttl = \"0s\"\nupstream.token = {:?}\n\
         auth.clients = [{{ name = \"trainer\", token_sha256 = \"{sha256}\" }}]",
        hub.token()
    );
    let root = set_up(&hub, &config);
    let process = Process::start(root.path()).await;
    let get = async |url: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        process.client.get_with(url, &[("authorization", &bearer)]).await.unwrap()
    };
    let small = "/acme/tiny/resolve/main/model.safetensors";
    for token in [KNOWN, STRANGER] {
        assert_eq!(get(small, token).await.status, 200);
    }
    // Wrong at its very end, so that nearly all has gone out when that shows.
    hub.fault(Fault::new(FaultKind::FlipByte { at: SIZE - 1 }).path(NAME).origin(Origin::Cdn));
    let wrong = get("/acme/big/resolve/main/model.safetensors", KNOWN).await;
    assert!(wrong.broke && !wrong.body.is_empty(), "{}", wrong.status);
    hub.clear_faults();
    hub.fault(Fault::new(FaultKind::RepoGone { code: 404 }).path("*acme/tiny*"));
    assert_eq!(get(small, STRANGER).await.status, 200);
    for words in ["fill failed", "gone upstream"] {
        eventually(words, async || process.log().contains(words)).await;
    }
    (process.log(), hub.token())
}

fn line<'a>(log: &'a str, words: &str) -> &'a str {
    log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words:?} is not said"))
}

#[tokio::test]
async fn clients_that_were_given_bytes_of_a_failed_transfer_are_named() {
    let (log, _) = after_a_bad_night().await;
    let failed = line(&log, "fill failed");
    assert!(failed.contains("given_to=\"trainer\""), "{failed}");
}

#[tokio::test]
async fn a_repo_that_is_served_though_it_is_gone_upstream_is_marked() {
    let (log, _) = after_a_bad_night().await;
    let gone = line(&log, "gone upstream");
    assert!(gone.contains("acme/tiny") && gone.contains("gone_upstream=true"), "{gone}");
}

#[tokio::test]
async fn no_token_is_logged_at_any_level() {
    let (log, own) = after_a_bad_night().await;
    assert!(log.contains(" TRACE ") && log.contains(" DEBUG "), "the filter is not in force");
    for token in [KNOWN, STRANGER, &own] {
        assert_eq!(log.lines().find(|line| line.contains(token)), None, "a token is logged");
    }
}
