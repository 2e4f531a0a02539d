//! Listings in pages, followed by `Link: <...>; rel="next"` (PROTOCOL 4.4) on the endpoint alone.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderMap, header::LINK};
use serde::de::DeserializeOwned;
use url::Url;

use super::{Error, Purpose, Result, Upstream, exchange::Ask, lookups::Limit};

/// One page of a listing: thousands of entries at most.
const PAGE_LIMIT: usize = 64 << 20;

/// Ten million entries; a listing that is longer is no listing.
const MOST_PAGES: usize = 10_000;

/// The pages of one listing.
struct Pages {
    upstream: Arc<Upstream>,
    ask: Ask,
    /// For whom the pages after the first are asked.
    rest: Purpose,
    is_done: bool,
    /// Hashes of the pages asked for: one that comes again would go round for ever.
    seen: HashSet<u64>,
    hasher: RandomState,
}

/// The pages that begin with `ask`, as they come; those after the first on behalf of `rest`. Ends after an error.
pub(super) fn pages<T>(upstream: Arc<Upstream>, ask: Ask, rest: Purpose) -> BoxStream<'static, Result<Vec<T>>>
where
    T: DeserializeOwned + Send + 'static,
{
    let pages = Pages { upstream, ask, rest, is_done: false, seen: HashSet::new(), hasher: RandomState::new() };
    stream::try_unfold(pages, |mut pages| async move { Ok(pages.next().await?.map(|page| (page, pages))) }).boxed()
}

impl Pages {
    async fn next<T: DeserializeOwned + Send + 'static>(&mut self) -> Result<Option<Vec<T>>> {
        if self.is_done {
            return Ok(None);
        }
        if !self.seen.insert(self.hasher.hash_one(self.ask.url.as_str())) {
            return Err(Error::malformed("a page of a listing that leads back to itself"));
        }
        if self.seen.len() > MOST_PAGES {
            return Err(Error::malformed(format!("a listing of more than {MOST_PAGES} pages")));
        }
        let fetched = self.upstream.fetch(&self.ask, Limit::Whole(PAGE_LIMIT)).await?;
        match next_link(&fetched.headers) {
            None => self.is_done = true,
            Some(link) => {
                let next = fetched.url.join(&link).ok().filter(|next| self.upstream.is_below_endpoint(next));
                let elsewhere = || Error::malformed("the next page of a listing is not on the endpoint");
                self.ask.url = next.ok_or_else(elsewhere)?;
                self.ask.purpose = self.rest;
            }
        }
        fetched.json().await.map(Some)
    }
}

impl Upstream {
    fn is_below_endpoint(&self, url: &Url) -> bool {
        let prefix = self.exchange.endpoint.path().trim_end_matches('/');
        self.exchange.is_own(url)
            && url.path().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
            && url.username().is_empty()
    }
}

/// The target of `rel="next"`, among all links of all `Link` headers.
fn next_link(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let mut rest = value;
        while let Some((target, after)) = rest.split_once('<').and_then(|(_, after)| after.split_once('>')) {
            let parameters = after.split('<').next().unwrap_or_default();
            let is_next = parameters.split([';', ',']).any(|parameter| {
                let (key, value) = parameter.split_once('=').unwrap_or_default();
                key.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
            });
            if is_next {
                return Some(target.to_owned());
            }
            rest = after;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let of = |values: &[&str]| next_link(&values.iter().map(|value| (LINK, value.parse().unwrap())).collect());
        let next = "https://hub/api/models/a/b/tree/main?cursor=a,b;c%3D";
        for values in [
            vec![format!("<{next}>; rel=\"next\"")],
            vec![format!("<https://hub/first>; rel=\"first\", <{next}>; title=x; REL=next")],
            vec!["<https://hub/first>; rel=\"xet-auth\"".to_owned(), format!("<{next}>;rel=next")],
        ] {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            assert_eq!(of(&values).as_deref(), Some(next), "{values:?}");
        }
        for none in ["", "<https://hub/x>; rel=\"prev\"", "<https://hub/x", "rel=\"next\""] {
            assert_eq!(of(&[none]), None, "{none}");
        }
    }
}
