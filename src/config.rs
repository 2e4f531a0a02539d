//! The configuration: every module's own section, put together and read from all the places it may stand in.
//!
//! Defaults < `config.toml` < environment < flags. What can't be used is an error that names where it
//! stands, the key and the remedy; the values of secrets are never shown.

mod dotenv;
mod effective;
mod environment;
mod file;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::{Actual, Kind},
    value::{Dict, Map},
};
use serde::Deserialize;

use crate::{
    admin::ApprovalsConfig,
    gateway::{FillConfig, LimitsConfig},
    hooks::HooksConfig,
    http::{Addresses, AllowedOrigins, AuthConfig},
    jobs::JobsConfig,
    policy::{EnvLists, PolicyConfig},
    publish::PublishConfig,
    server::{ServerConfig, Tls},
    store::{SpoolConfig, StoreConfig, StoreKind},
    telemetry::LogConfig,
    upstream::{ProxyEnv, UpstreamConfig},
};

/// Everything that can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients find the gateway.
    pub server: ServerConfig,
    /// The origin Hub and the way to it.
    pub upstream: UpstreamConfig,
    /// Where everything is kept.
    pub store: StoreConfig,
    /// Where files on their way into a bucket grow.
    pub spool: SpoolConfig,
    /// The copies for workloads that read the bucket themselves.
    pub publish: PublishConfig,
    /// Commands that are run when something has happened.
    pub hooks: HooksConfig,
    /// Where the policy is and how refusals look.
    pub policy: PolicyConfig,
    /// Transfers that are under way.
    pub fill: FillConfig,
    /// Whole repos that are brought in behind clients' traffic.
    pub jobs: JobsConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// Whether admins may approve repos while hubgate runs.
    pub approvals: ApprovalsConfig,
    /// How much of the origin one client may cost.
    pub limits: LimitsConfig,
    /// What goes to the log.
    pub log: LogConfig,
}

/// A configuration that can't be used: one sentence for each thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Where to read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`. Without it, `./config.toml` where there is one.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// `--set section.key=value`, and flags that mean the same.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment, what `.env` in the working directory adds to it, and what the command line
    /// said.
    ///
    /// # Errors
    /// A `.env` that can't be read, by its line.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Result<Self, ConfigError> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut environment: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
        let more = dotenv::read(Path::new(".env")).map_err(|problem| ConfigError(vec![problem]))?;
        for (name, value) in more {
            // In either case, as the proxy variables are written.
            if !environment.keys().any(|known| known.eq_ignore_ascii_case(&name)) {
                environment.insert(name, value);
            }
        }
        Ok(Self { file, environment, flags })
    }

    /// A variable of the environment or of `.env`; an empty one is as none.
    pub fn variable(&self, name: &str) -> Option<&str> {
        environment::variable(&self.environment, name)
    }
}

/// A configuration, and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// The proxy variables, for `[upstream]`.
    pub proxy_env: ProxyEnv,
    /// `HF_REPOS` and `LICENSE_ALLOWLIST`, for `[policy]`.
    pub lists: EnvLists,
    figment: Figment,
}

/// Reads and checks the configuration.
///
/// # Errors
/// Says all that is wrong with it, as far as it can be told without asking anybody.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut figment = Figment::new();
    let (implied, plain) = environment::mirror_names(&sources.environment);
    figment = figment.merge(Layer::new("the plain mirror's variables", implied));
    if let Some(path) = file_to_read(sources.file.as_deref()) {
        let dict = file::read(&path).map_err(|problem| ConfigError(vec![problem]))?;
        figment = figment.merge(Layer::new(&path.display().to_string(), dict));
    }
    figment = figment.merge(Layer::new(environment::SOURCE, plain));
    let misspelt = environment::misspelt_names(&sources.environment);
    if !misspelt.is_empty() {
        return Err(ConfigError(misspelt));
    }
    figment = figment.merge(Layer::new(environment::SOURCE, environment::own_names(&sources.environment)));
    let flags = environment::flags(&sources.flags).map_err(|problem| ConfigError(vec![problem]))?;
    figment = figment.merge(Layer::new("--set", flags));

    // Lossy: the environment has texts only, and `true` or `64` are what the key wants.
    let config: Config = figment
        .extract_lossy()
        .map_err(|errors| ConfigError(errors.into_iter().map(|error| describe(&error)).collect()))?;
    let mut problems = config.problems();
    problems.extend(set_twice(&figment, &sources.environment));
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    let variable = |name| environment::variable(&sources.environment, name);
    let lists = EnvLists::parse(variable("HF_REPOS"), variable("LICENSE_ALLOWLIST"))
        .map_err(|error| ConfigError(vec![error.to_string()]))?;
    Ok(Loaded { config, proxy_env: environment::proxy(&sources.environment), lists, figment })
}

impl Loaded {
    /// The whole configuration as it holds, as TOML, with where each value comes from and without secrets.
    pub fn effective(&self) -> String {
        effective::print(&self.figment)
    }
}

impl Config {
    /// What can be seen to be wrong without asking anybody: values that don't fit together, files that are
    /// not there.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |outcome: Result<(), String>| problems.extend(outcome.err());
        check(Addresses::new(&self.server).map(drop).map_err(|error| error.to_string()));
        check(AllowedOrigins::new(&self.server.cors_origins).map(drop));
        check(Tls::load(&self.server.tls).map(drop).map_err(|error| error.to_string()));
        check(self.log.parse_filter().map(drop).map_err(|error| error.to_string()));
        check(listens("server.listen", &self.server.listen));
        if let Some(address) = &self.server.admin_listen {
            check(listens("server.admin_listen", address));
        }
        check(self.auth.check());
        check(self.store_is_named());
        check(self.publish.place().map(drop));
        check(self.publish.wanted().map(drop));
        check(self.copies_are_apart());
        let limits = &self.server.limits;
        if limits.connections == 0 {
            check(Err("server.limits.connections: 0 would serve nobody; write at least 1".into()));
        }
        for (key, value) in [
            ("header_timeout", limits.header_timeout),
            ("idle_timeout", limits.idle_timeout),
            ("write_timeout", limits.write_timeout),
        ] {
            if value.is_zero() {
                check(Err(format!("server.limits.{key}: 0s would serve nobody; write 1m or 5m")));
            }
        }
        problems
    }
}

/// The first parts of the store's own keys (DESIGN section 4).
const STORE_KEYS: [&str; 20] = [
    "layout.json",
    "blobs",
    "oids",
    "snapshots",
    "repos",
    "refs",
    "manifest",
    "policies",
    "tainted",
    "claimed",
    "uploads",
    "published",
    "jobs",
    "approvals",
    "withdrawals",
    "requests",
    "audit",
    "audit-heads",
    "usage",
    "evidence",
];

impl Config {
    fn store_is_named(&self) -> Result<(), String> {
        let s3 = &self.store.s3;
        if self.store.kind != StoreKind::S3 {
            return Ok(());
        }
        if s3.bucket.is_empty() {
            return Err("store.s3.bucket: name the bucket, since store.kind is \"s3\"".into());
        }
        if !is_bucket_name(&s3.bucket) {
            return Err(format!(
                "store.s3.bucket: {:?} is no name of a bucket: write 3 to 63 letters, digits, '-' and '.', and \
                 store.s3.prefix for what follows a slash",
                s3.bucket
            ));
        }
        if s3.access_key.is_some() != (s3.secret_key.is_some() || s3.secret_key_file.is_some()) {
            return Err("store.s3.access_key and its secret_key or secret_key_file: set both, or neither for the \
                        AWS SDK's usual chain"
                .into());
        }
        Ok(())
    }

    /// The copies lie in the same bucket as the store's own keys, and neither may stand for the other.
    fn copies_are_apart(&self) -> Result<(), String> {
        let Some(copies) = &self.publish.prefix else { return Ok(()) };
        let copies: Vec<&str> = copies.split('/').filter(|part| !part.is_empty()).collect();
        let own: Vec<&str> = match self.store.kind {
            StoreKind::S3 => self.store.s3.prefix.split('/').filter(|part| !part.is_empty()).collect(),
            StoreKind::Local => Vec::new(),
        };
        let overlap = match copies.strip_prefix(own.as_slice()) {
            Some([]) => true,
            Some([first, ..]) => STORE_KEYS.contains(first),
            None => own.starts_with(&copies),
        };
        if !overlap {
            return Ok(());
        }
        Err(format!(
            "publish.prefix (MINIO_PREFIX): {:?} overlaps the store's own keys below {:?}: give the copies another \
             prefix, or the store one of its own (store.s3.prefix)",
            copies.join("/"),
            own.join("/")
        ))
    }
}

/// Secrets that are given as a value and as a file, with where each of the two comes from.
fn set_twice(figment: &Figment, variables: &BTreeMap<String, String>) -> Vec<String> {
    let pairs = ["upstream.token", "upstream.proxy_password", "store.s3.secret_key"].into_iter();
    let set = pairs.map(|key| (key, format!("{key}_file"))).filter_map(|(key, file_key)| {
        let values = (figment.find_value(key).ok()?, figment.find_value(&file_key).ok()?);
        let from = |key: &str, value: &figment::value::Value| match figment.get_metadata(value.tag()) {
            Some(metadata) if metadata.name == environment::SOURCE => environment::set_by(variables, key),
            Some(metadata) => metadata.name.to_string(),
            None => "the defaults".into(),
        };
        let (value_from, file_from) = (from(key, &values.0), from(&file_key, &values.1));
        Some(format!("{key} (from {value_from}) and {file_key} (from {file_from}): set one of them"))
    });
    set.collect()
}

/// Whether some S3 server has buckets of such a name: AWS's rules, with the capitals and underscores of old ones. An
/// access point's ARN stands for a bucket, too.
fn is_bucket_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    name.starts_with("arn:") || ((3..=63).contains(&name.len()) && name.bytes().all(plain))
}

fn listens(key: &str, address: &str) -> Result<(), String> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(()),
        None => Err(format!("{key}: {address:?}: write host:port, such as 127.0.0.1:8080 or 0.0.0.0:8080")),
    }
}

fn file_to_read(asked: Option<&Path>) -> Option<PathBuf> {
    let usual = Path::new("config.toml");
    asked.map(Path::to_path_buf).or_else(|| usual.exists().then(|| usual.to_path_buf()))
}

/// One place that settings come from.
struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Layer {
    fn new(source: &str, dict: Dict) -> Self {
        Self { metadata: Metadata::named(source.to_owned()), dict }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// Says in one line where it is wrong, what, and the remedy.
fn describe(error: &figment::Error) -> String {
    let key = error.path.join(".");
    let place = match &error.metadata {
        Some(metadata) if metadata.name == environment::SOURCE => environment::name_of(&error.path),
        Some(metadata) => format!("{}: {key}", metadata.name),
        None => key.clone(),
    };
    let secret = error.path.last().is_some_and(|key| is_secret(key));
    let found = |actual: &Actual| if secret { "something else".to_owned() } else { actual.to_string() };
    match &error.kind {
        Kind::UnknownField(field, known) => {
            let section = error.path.iter().filter(|part| *part != field).cloned().collect::<Vec<_>>().join(".");
            let section = if section.is_empty() { "the top".to_owned() } else { format!("[{section}]") };
            let place =
                if error.path.last() == Some(field) { place } else { format!("{place}.{field}").replace(": .", ": ") };
            format!("{place}: unknown key; {section} has {}", known.join(", "))
        }
        Kind::InvalidType(actual, wanted) => format!("{place}: found {}, expected {wanted}", found(actual)),
        // What the size type says of itself means nothing to an operator.
        Kind::InvalidValue(Actual::Str(text), wanted) if wanted == "parsable string" && !secret => {
            format!("{place}: {text:?} is no size: write 64MiB or 100GB")
        }
        Kind::InvalidValue(actual, wanted) => format!("{place}: {} won't do, expected {wanted}", found(actual)),
        Kind::InvalidLength(length, wanted) => format!("{place}: has {length} elements, expected {wanted}"),
        Kind::UnknownVariant(found, known) => format!("{place}: {found:?}: write {}", known.join(" or ")),
        Kind::MissingField(field) => format!("{place}: {field} is missing"),
        _ if secret => format!("{place}: this value can't be used"),
        kind => format!("{place}: {kind}"),
    }
}

/// Keys whose values are never shown.
fn is_secret(key: &str) -> bool {
    matches!(key, "token" | "secret_key" | "token_sha256") || key.ends_with("password")
}

#[cfg(test)]
mod tests;
