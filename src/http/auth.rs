//! Who asks: the tokens that hubgate knows.
//!
//! Tokens are held as their sha256 only. A bearer token that is not known is a Hub token that some container
//! carries: it is treated as none, never logged and never sent on (DESIGN I7).

use std::sync::Arc;

use http::{HeaderMap, header};
use serde::Deserialize;

use crate::hub::Sha256;

/// `[auth]`: who may ask.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Clients with a name of their own in logs, limits and the manifest.
    pub clients: Vec<KnownClient>,
    /// Who may use the admin API.
    pub admins: Vec<KnownAdmin>,
    /// Whether clients without a known token are served. `false`: they get 401.
    pub anonymous: bool,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { clients: Vec::new(), admins: Vec::new(), anonymous: true }
    }
}

impl AuthConfig {
    /// What can't be meant.
    ///
    /// # Errors
    /// Names the key, the value and the remedy.
    pub fn check(&self) -> Result<(), String> {
        let mut names: Vec<&str> = self.clients.iter().map(|client| &*client.name).collect();
        names.sort_unstable();
        if let Some((twice, _)) = names.iter().zip(names.iter().skip(1)).find(|(one, next)| one == next) {
            return Err(format!("auth.clients: {twice:?} stands there twice: give each client a name of its own"));
        }
        if names.iter().any(|name| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("auth.clients: a name is printable ASCII without blanks, since it stands in logs".into());
        }
        if !self.anonymous && self.clients.is_empty() {
            return Err("auth.anonymous: false serves nobody while auth.clients is empty: name the clients".into());
        }
        Ok(())
    }
}

/// A client's token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownClient {
    /// The name that logs and the manifest show.
    #[serde(deserialize_with = "shared")]
    pub name: Arc<str>,
    /// sha256 of the token, in hex: `printf %s "$TOKEN" | sha256sum`.
    pub token_sha256: Sha256,
}

/// An operator's token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAdmin {
    /// The name that the audit shows.
    #[serde(deserialize_with = "shared")]
    pub name: Arc<str>,
    /// sha256 of the token, in hex.
    pub token_sha256: Sha256,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
}

fn shared<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

/// The tokens, ready to be compared.
#[derive(Debug, Clone)]
pub(super) struct Auth {
    clients: Vec<KnownClient>,
    anonymous: bool,
}

/// What a request's credentials come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// A client that is known by this name.
    Known(Arc<str>),
    /// No token that hubgate knows. Served.
    Anonymous,
    /// No token that hubgate knows, and that is not enough here.
    Refused,
}

impl Auth {
    pub(super) fn new(config: &AuthConfig) -> Self {
        Self { clients: config.clients.clone(), anonymous: config.anonymous }
    }

    pub(super) fn caller(&self, headers: &HeaderMap) -> Caller {
        let known = if self.clients.is_empty() { None } else { bearer(headers).and_then(|token| self.known(token)) };
        match known {
            Some(name) => Caller::Known(name),
            None if self.anonymous => Caller::Anonymous,
            None => Caller::Refused,
        }
    }

    /// Looks at every token to its last byte, so that the time taken tells nothing.
    fn known(&self, token: &[u8]) -> Option<Arc<str>> {
        let asked = Sha256::of(token);
        let mut found = None;
        for client in &self.clients {
            let pairs = asked.as_bytes().iter().zip(client.token_sha256.as_bytes());
            let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(&client.name);
            }
        }
        found.cloned()
    }
}

/// The token of `Authorization: Bearer TOKEN`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(anonymous: bool, authorization: Option<&str>) -> Caller {
        let client =
            |name: &str, token: &str| KnownClient { name: name.into(), token_sha256: Sha256::of(token.as_bytes()) };
        let clients = vec![client("ci", "hg_one"), client("lab", "hg_two")];
        let auth = Auth::new(&AuthConfig { clients, admins: Vec::new(), anonymous });
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        auth.caller(&headers)
    }

    #[test]
    fn a_known_token_has_its_name_and_any_other_has_none() {
        assert_eq!(caller(true, Some("Bearer hg_one")), Caller::Known("ci".into()));
        assert_eq!(caller(false, Some("bearer hg_two")), Caller::Known("lab".into()));
        for other in [None, Some("Bearer hf_hubs_own"), Some("Bearer "), Some("Basic hg_one"), Some("hg_one")] {
            assert_eq!(caller(true, other), Caller::Anonymous, "{other:?}");
            assert_eq!(caller(false, other), Caller::Refused, "{other:?}");
        }
    }
}
