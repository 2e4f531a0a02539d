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
        let mut admins: Vec<&str> = self.admins.iter().map(|admin| &*admin.name).collect();
        admins.sort_unstable();
        if let Some((twice, _)) = admins.iter().zip(admins.iter().skip(1)).find(|(one, next)| one == next) {
            return Err(format!("auth.admins: {twice:?} stands there twice: give each admin a name of its own"));
        }
        if admins.iter().any(|name| name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("auth.admins: a name is printable ASCII without blanks, since the audit shows it".into());
        }
        let mut tokens: Vec<&Sha256> = self.admins.iter().map(|admin| &admin.token_sha256).collect();
        tokens.sort_unstable();
        if tokens.iter().zip(tokens.iter().skip(1)).any(|(one, next)| one == next) {
            return Err(
                "auth.admins: two admins have one token: make each a token of its own (hubgate token new)".into()
            );
        }
        let clients = self.clients.iter().map(|client| ("auth.clients", &client.name, &client.token_sha256));
        let admins = self.admins.iter().map(|admin| ("auth.admins", &admin.name, &admin.token_sha256));
        if let Some((key, name, _)) = clients.chain(admins).find(|(.., digest)| **digest == Sha256::of(b"")) {
            return Err(format!(
                "{key}: token_sha256 of {name:?} is that of an empty token, as of a variable that was not set: make a \
                 token with `hubgate token new`"
            ));
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
    pub scopes: Vec<Scope>,
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Ask for a repo to be approved.
    Request,
    /// Say yes or no to that; ask upstream about such a repo.
    Approve,
    /// Run the gateway: reload, preseed, withdraw.
    Operate,
    /// Read everything: what is stored, the manifest, the audit log.
    Audit,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Request, Self::Approve, Self::Operate, Self::Audit];

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Approve => "approve",
            Self::Operate => "operate",
            Self::Audit => "audit",
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no scope: write request, approve, operate or audit"))
    }
}

fn shared<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

/// The tokens, ready to be compared.
#[derive(Debug, Clone)]
pub(super) struct Auth {
    clients: Vec<KnownClient>,
    admins: Vec<KnownAdmin>,
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
        Self { clients: config.clients.clone(), admins: config.admins.clone(), anonymous: config.anonymous }
    }

    pub(super) fn caller(&self, headers: &HeaderMap) -> Caller {
        let known = if self.clients.is_empty() { None } else { bearer(headers).and_then(|token| self.known(token)) };
        match known {
            Some(name) => Caller::Known(name),
            None if self.anonymous => Caller::Anonymous,
            None => Caller::Refused,
        }
    }

    fn known(&self, token: &[u8]) -> Option<Arc<str>> {
        let tokens = self.clients.iter().map(|client| (&client.token_sha256, client));
        holder(token, tokens).map(|client| client.name.clone())
    }

    /// The operator whose token this is.
    pub(super) fn admin(&self, headers: &HeaderMap) -> Option<&KnownAdmin> {
        let tokens = self.admins.iter().map(|admin| (&admin.token_sha256, admin));
        holder(bearer(headers)?, tokens)
    }
}

/// Whose token it is. Looks at every one to its last byte, so that the time taken tells nothing.
fn holder<'k, T>(token: &[u8], known: impl Iterator<Item = (&'k Sha256, &'k T)>) -> Option<&'k T> {
    let asked = Sha256::of(token);
    let mut found = None;
    for (sha256, holder) in known {
        let pairs = asked.as_bytes().iter().zip(sha256.as_bytes());
        let difference = pairs.fold(0, |difference, (a, b)| difference | (a ^ b));
        if std::hint::black_box(difference) == 0 {
            found = Some(holder);
        }
    }
    found
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

    #[test]
    fn an_admin_is_known_by_its_own_token_alone() {
        let admin = |name: &str, token: &str| KnownAdmin {
            name: name.into(),
            token_sha256: Sha256::of(token.as_bytes()),
            scopes: vec![Scope::Audit],
        };
        let config = AuthConfig { admins: vec![admin("alice", "hg_a"), admin("bob", "hg_b")], ..AuthConfig::default() };
        assert_eq!(config.check(), Ok(()));
        let auth = Auth::new(&config);
        let name = |authorization: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            auth.admin(&headers).map(|admin| admin.name.to_string())
        };
        assert_eq!(name("Bearer hg_b").as_deref(), Some("bob"));
        for other in ["Bearer hg_c", "Bearer ", "Basic hg_a", "hg_a"] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(auth.admin(&HeaderMap::new()).map(|admin| &*admin.name), None);
        for (twice, complaint) in
            [(admin("alice", "hg_c"), "stands there twice"), (admin("carol", "hg_a"), "two admins have one token")]
        {
            let admins = [config.admins.clone(), vec![twice]].concat();
            let problem = AuthConfig { admins, ..AuthConfig::default() }.check().unwrap_err();
            assert!(problem.contains(complaint), "{problem}");
        }
    }
}
