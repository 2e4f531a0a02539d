//! Files that were shown a moment ago, with their headers: a client asks HEAD and GET of one URL in a row, and many
//! clients ask the same.
//!
//! Kept for a second, and shown again only while the gateway says that nothing it depends on has changed. Never keeps a
//! byte of a file, and never a refusal.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, request::Parts};
use moka::future::Cache;
use time::Date;

use super::respond::Content;
use crate::gateway::File;

/// How long.
const TTL: Duration = Duration::from_secs(1);
/// How many, of a few hundred bytes each.
const MOST: u64 = 4096;
/// Longer URLs are not kept.
const LONGEST_URL: usize = 1024;

/// A file at the commit that its URL names.
pub(super) struct Shown {
    pub(super) route: &'static str,
    pub(super) file: File,
    pub(super) content: Content,
    /// The headers of all its answers.
    pub(super) headers: HeaderMap,
    /// The day that policy decided on.
    pub(super) day: Date,
}

/// Those of the last second, by path and query.
pub(super) struct ShownFiles(Cache<Box<str>, Arc<Shown>>);

impl ShownFiles {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(MOST).time_to_live(TTL).build())
    }

    pub(super) async fn get(&self, asked: &Parts) -> Option<Arc<Shown>> {
        self.0.get(url(asked)?).await
    }

    pub(super) async fn keep(&self, asked: &Parts, shown: Arc<Shown>) {
        if let Some(url) = url(asked) {
            self.0.insert(url.into(), shown).await;
        }
    }
}

/// What a file is kept by: the URL of a request that reads. To any other method the same URL means something else.
fn url(asked: &Parts) -> Option<&str> {
    let reads = matches!(asked.method, Method::GET | Method::HEAD);
    let url = asked.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    url.filter(|url| reads && url.len() <= LONGEST_URL)
}
