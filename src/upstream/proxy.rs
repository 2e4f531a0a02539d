//! The egress proxy: which one for which target, with which credentials, and what it said last.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Uri, header::PROXY_AUTHENTICATE};
use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::MutexGuard, time::Instant};
use url::Url;

use super::{ConfigError, Error, ErrorKind, ProxyEnv, Result, UpstreamConfig, secret::Secret};

/// How long a 407 is remembered: accounts get locked after a few.
const REFUSED_FOR: Duration = Duration::from_mins(1);

/// The key of the proxy in the configuration.
const CONFIGURED: &str = "upstream.proxy";

/// The proxy for each target, decided from configuration alone.
#[derive(Debug)]
pub(super) enum Proxies {
    /// `upstream.proxy`, for everything.
    Always(Arc<Proxy>),
    /// The environment's: one for each scheme, and the hosts that need none.
    Environment { https: Option<Arc<Proxy>>, http: Option<Arc<Proxy>>, exceptions: Box<Matcher> },
    /// `upstream.proxy = "none"`.
    Never,
}

impl Proxies {
    pub(super) fn new(config: &UpstreamConfig, env: ProxyEnv) -> std::result::Result<Self, ConfigError> {
        let password = Secret::new(
            ("upstream.proxy_password", config.proxy_password.as_ref()),
            ("upstream.proxy_password_file", config.proxy_password_file.as_ref()),
        )?;
        let account = match (&config.proxy_user, password) {
            (Some(user), password) if !matches!(password, Secret::Absent) => {
                if user.contains(':') || user.chars().any(char::is_control) {
                    return Err(ConfigError::new("upstream.proxy_user", "a user name has no colon and no line break"));
                }
                Some(Arc::new(Account { user: user.clone(), password }))
            }
            (Some(_), _) => {
                let problem = "a user needs upstream.proxy_password or upstream.proxy_password_file";
                return Err(ConfigError::new("upstream.proxy_user", problem));
            }
            (None, Secret::Absent) => None,
            (None, _) => {
                return Err(ConfigError::new("upstream.proxy_password", "a password needs upstream.proxy_user"));
            }
        };
        let parse = |key, text: &str| Proxy::parse(key, text, account.clone()).map(Arc::new);
        match config.proxy.as_deref().map(str::trim) {
            Some("none") => Ok(Self::Never),
            Some(text) => Ok(Self::Always(parse(CONFIGURED, text)?)),
            None => {
                let of = |key, text: Option<String>| {
                    let text = text.as_deref().map(str::trim).filter(|text| !text.is_empty());
                    text.map(|text| parse(key, text)).transpose()
                };
                let (https, http) = (of("HTTPS_PROXY", env.https_proxy)?, of("HTTP_PROXY", env.http_proxy)?);
                let same = matches!((&https, &http), (Some(a), Some(b)) if a.is_same(b));
                let http = if same { https.clone() } else { http };
                // Asked only whether a host is excepted; the proxy that it names is ours.
                let exceptions =
                    Matcher::builder().all("http://proxy").no(env.no_proxy.as_deref().unwrap_or_default()).build();
                Ok(Self::Environment { https, http, exceptions: Box::new(exceptions) })
            }
        }
    }

    /// The proxy for this target, if it goes through one.
    pub(super) fn of(&self, target: &Uri) -> Option<&Arc<Proxy>> {
        match self {
            Self::Always(proxy) => Some(proxy),
            Self::Never => None,
            Self::Environment { https, http, exceptions } => {
                let proxy = if target.scheme() == Some(&http::uri::Scheme::HTTPS) { https } else { http };
                proxy.as_ref().filter(|_| exceptions.intercept(target).is_some())
            }
        }
    }
}

/// One egress proxy.
pub(super) struct Proxy {
    /// Where it listens, without credentials.
    pub(super) uri: Uri,
    /// Its host, for TLS to it.
    pub(super) host: String,
    /// Whether the hop to it is TLS.
    pub(super) is_tls: bool,
    account: Option<Arc<Account>>,
    /// Serialises the first uses of credentials that are not known to be good.
    turn: tokio::sync::Mutex<()>,
    /// Those that were good last.
    trusted: Mutex<Option<HeaderValue>>,
    refused: Mutex<Option<Refused>>,
}

struct Account {
    user: String,
    password: Secret,
}

struct Refused {
    at: Instant,
    schemes: Vec<String>,
    /// What was refused; another credential may be tried at once.
    sent: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Proxy {
    fn parse(key: &'static str, text: &str, account: Option<Arc<Account>>) -> std::result::Result<Self, ConfigError> {
        // The text may hold a password, so no message repeats it.
        let wrong = |problem: &str| Err(ConfigError::new(key, format!("{problem}; write http://host:port")));
        // Of the environment's variables every tool knows this habit; in a file it is a slip.
        if !text.contains("://") && key == CONFIGURED {
            return wrong("no scheme before the host");
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let Ok(url) = Url::parse(&text) else { return wrong("not a URL") };
        let is_tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return wrong(&format!("{other} proxies are not supported")),
        };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return wrong("no host in it");
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return wrong("a proxy has no path");
        }
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let of_url = (!url.username().is_empty()).then(|| {
            let password: SecretString = decode(url.password().unwrap_or_default()).into();
            Arc::new(Account { user: decode(url.username()), password: Secret::Fixed(password) })
        });
        let Ok(uri) = format!("{}://{host}:{port}", url.scheme()).parse() else { return wrong("not a URL") };
        Ok(Self {
            uri,
            host: host.trim_matches(['[', ']']).to_owned(),
            is_tls,
            account: account.or(of_url),
            turn: tokio::sync::Mutex::default(),
            trusted: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Host and port, for errors.
    pub(super) fn name(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.uri == other.uri && self.authorization() == other.authorization()
    }

    /// `Proxy-Authorization` by Basic, where there is an account.
    fn authorization(&self) -> Option<HeaderValue> {
        let account = self.account.as_ref()?;
        let password = account.password.current()?;
        let pair = format!("{}:{}", account.user, password.expose_secret());
        let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Leave to ask the proxy something. Fails while a 407 for these credentials is remembered; as long as
    /// they are not known to be good, one asks at a time.
    pub(super) async fn enter(&self) -> Result<Visit<'_>> {
        let authorization = self.authorization();
        self.check_refused(authorization.as_ref())?;
        let is_at_risk = authorization.is_some() && *self.trusted() != authorization;
        let turn = if is_at_risk { Some(self.turn.lock().await) } else { None };
        self.check_refused(authorization.as_ref())?;
        Ok(Visit { proxy: self, authorization, _turn: turn })
    }

    /// The credentials that were good last. Others, as from a file that was changed, may not be.
    fn trusted(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_refused(&self, authorization: Option<&HeaderValue>) -> Result<()> {
        match &*self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refused) if refused.sent.as_ref() == authorization && refused.at.elapsed() < REFUSED_FOR => {
                Err(Error::new(ErrorKind::ProxyAuth { schemes: refused.schemes.clone() }))
            }
            _ => Ok(()),
        }
    }
}

/// One request to a proxy under way. Say how it went.
pub(super) struct Visit<'a> {
    proxy: &'a Proxy,
    pub(super) authorization: Option<HeaderValue>,
    _turn: Option<MutexGuard<'a, ()>>,
}

impl Visit<'_> {
    /// The proxy let the request pass, or refused it for another reason than credentials.
    pub(super) fn credentials_were_good(self) {
        let mut trusted = self.proxy.trusted();
        if *trusted != self.authorization {
            *trusted = self.authorization;
        }
    }

    /// 407: no further try with these for a minute.
    pub(super) fn credentials_were_refused(self, headers: &HeaderMap) -> Error {
        let schemes: Vec<String> = headers
            .get_all(PROXY_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok()?.split([' ', ',']).next().map(str::to_owned))
            .filter(|scheme| !scheme.is_empty())
            .collect();
        let mut trusted = self.proxy.trusted();
        if *trusted == self.authorization {
            *trusted = None;
        }
        drop(trusted);
        let refused = Refused { at: Instant::now(), schemes: schemes.clone(), sent: self.authorization };
        *self.proxy.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
        Error::new(ErrorKind::ProxyAuth { schemes }).because(format!("by {}", self.proxy.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(config: &str, env: &ProxyEnv) -> std::result::Result<Proxies, ConfigError> {
        Proxies::new(&toml::from_str(config).unwrap(), env.clone())
    }

    fn chosen(proxies: &Proxies, target: &str) -> Option<String> {
        proxies.of(&target.parse().unwrap()).map(|proxy| proxy.name().to_owned())
    }

    fn env(https: &str, http: &str, no: &str) -> ProxyEnv {
        ProxyEnv { https_proxy: Some(https.into()), http_proxy: Some(http.into()), no_proxy: Some(no.into()) }
    }

    #[test]
    fn the_environment_counts_where_nothing_is_configured() {
        let env = env("http://secure:3128", "plain:3129", "hub.internal, .corp, 10.0.0.0/8");
        let by_env = proxies("", &env).unwrap();
        assert_eq!(chosen(&by_env, "https://huggingface.co").as_deref(), Some("secure:3128"));
        assert_eq!(chosen(&by_env, "http://huggingface.co").as_deref(), Some("plain:3129"));
        for direct in ["https://hub.internal", "https://a.corp", "http://10.1.2.3"] {
            assert_eq!(chosen(&by_env, direct), None, "{direct}");
        }
        let configured = proxies("proxy = 'http://only:1'", &env).unwrap();
        assert_eq!(chosen(&configured, "https://hub.internal").as_deref(), Some("only:1"));
        assert_eq!(chosen(&proxies("proxy = 'none'", &env).unwrap(), "https://huggingface.co"), None);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        for bad in [
            "socks5://me:hunter2@p:1080",
            "http://me:hunter2@p:3128/path",
            "http://me:hunter2@",
            "http://[",
            "me:hunter2@p:3128",
        ] {
            let error = proxies(&format!("proxy = '{bad}'"), &ProxyEnv::default()).unwrap_err().to_string();
            assert!(error.starts_with("upstream.proxy: ") && !error.contains("hunter2"), "{error}");
        }
        for bad in ["proxy_user = 'me'", "proxy_password = 'x'"] {
            assert!(proxies(bad, &ProxyEnv::default()).is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_in_the_place_of_a_good_one_is_tried_by_one_request_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "good").unwrap();
        let config = format!("proxy = 'http://p:3128'\nproxy_user = 'me'\nproxy_password_file = {file:?}");
        let Proxies::Always(proxy) = proxies(&config, &ProxyEnv::default()).unwrap() else { panic!("configured") };
        proxy.enter().await.unwrap().credentials_were_good();
        let (first, second) = tokio::join!(proxy.enter(), proxy.enter());
        drop((first.unwrap(), second.unwrap()));
        std::fs::write(&file, "changed").unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        let first = proxy.enter().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), proxy.enter()).await.is_err(), "two at once");
        first.credentials_were_refused(&HeaderMap::new());
        assert!(proxy.enter().await.is_err(), "it was refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_407_is_remembered_for_a_minute() {
        let Proxies::Always(proxy) = proxies("proxy = 'http://me:p%40ss@p:3128'", &ProxyEnv::default()).unwrap() else {
            panic!("configured")
        };
        let visit = proxy.enter().await.unwrap();
        assert_eq!(visit.authorization.as_ref().unwrap(), "Basic bWU6cEBzcw==");
        let mut headers = HeaderMap::new();
        headers.append(PROXY_AUTHENTICATE, HeaderValue::from_static("Negotiate"));
        headers.append(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"corp\""));
        let expected = ErrorKind::ProxyAuth { schemes: vec!["Negotiate".into(), "Basic".into()] };
        assert_eq!(visit.credentials_were_refused(&headers).kind, expected);
        assert_eq!(proxy.enter().await.err().unwrap().kind, expected);
        tokio::time::advance(REFUSED_FOR).await;
        assert!(proxy.enter().await.is_ok());
    }
}
