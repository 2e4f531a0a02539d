//! A request as the routes see it: method, path, query, headers and who asks.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use percent_encoding::percent_decode_str;

use crate::counters::Origin;
use crate::faults::{FaultKind, Struck, Target};
use crate::state::State;
use crate::world::Caller;

/// One request, parsed.
pub(crate) struct Ask {
    pub(crate) state: Arc<State>,
    pub(crate) origin: Origin,
    pub(crate) method: String,
    /// As sent, without query; doubled leading slashes are one.
    pub(crate) path: String,
    /// As sent, with its question mark; "" when there is none.
    pub(crate) raw_query: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) caller: Caller,
    pub(crate) target: Target,
    /// Body of a POST.
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The first value of a query key.
    pub(crate) fn param(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key, also in its `key[]` spelling and comma-separated.
    pub(crate) fn params(&self, key: &str) -> Vec<&str> {
        let same = |known: &str| known == key || known.strip_suffix("[]") == Some(key);
        self.query.iter().filter(|(known, _)| same(known)).flat_map(|(_, value)| value.split(',')).collect()
    }

    /// True for `true`, `True` and `1`.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.param(key).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    pub(crate) fn strike(&self, sort: impl Fn(&FaultKind) -> bool) -> Vec<Struck> {
        self.state.faults.strike(&self.target, sort)
    }

    /// Scheme and host that the client used, as its own links should have them.
    pub(crate) fn base(&self) -> String {
        let known = self.state.urls().hub;
        let scheme = known.split("://").next().unwrap_or("http");
        self.header("host").map_or(known.clone(), |host| format!("{scheme}://{host}"))
    }
}

/// Path and query of a request, the doubled slashes in front made one.
pub(crate) fn path_and_query(parts: &Parts) -> (String, String) {
    let path = format!("/{}", parts.uri.path().trim_start_matches('/'));
    (path, parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default())
}

pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The pairs of a query or of a form.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let plus = |text: &str| decode(&text.replace('+', " "));
    let parts = text.trim_start_matches('?').split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(key, value)| (plus(key), plus(value))).collect()
}
