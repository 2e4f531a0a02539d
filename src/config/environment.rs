//! The environment: `HUBGATE_<SECTION>__<KEY>`, the plain mirror's names and the proxy variables. And
//! `--set`, which has the same kind of values.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};

use super::effective::{self, Line};
use crate::upstream::ProxyEnv;

/// The name of this source in messages.
pub(super) const SOURCE: &str = "environment";
const PREFIX: &str = "HUBGATE_";

type Variables = BTreeMap<String, String>;

/// A variable; an empty one is as none, since composed files pass on what was never set.
pub(super) fn variable<'v>(variables: &'v Variables, name: &str) -> Option<&'v str> {
    variables.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
}

/// All `HUBGATE_<SECTION>__<KEY>`. Names without `__` are not ours: Kubernetes sets `HUBGATE_PORT` and
/// others for a service of that name.
pub(super) fn own_names(variables: &Variables) -> Dict {
    let mut dict = Dict::new();
    for (name, value) in variables {
        let Some(path) = name.strip_prefix(PREFIX).filter(|path| path.contains("__")) else { continue };
        if !value.is_empty() {
            put(&mut dict, &path.to_ascii_lowercase().split("__").collect::<Vec<_>>(), read(value));
        }
    }
    dict
}

/// Complaints on variables that are a key's name but for an underscore, such as `HUBGATE_STORE_KIND`. Exact names
/// only, for the sake of those that Kubernetes sets.
pub(super) fn misspelt_names(variables: &Variables) -> Vec<String> {
    let mut section = Vec::new();
    let mut problems = Vec::new();
    for line in effective::lines(effective::EXAMPLE) {
        match line {
            Line::Section(name) => section = name.split('.').map(str::to_owned).collect(),
            Line::Key { name, .. } => {
                let right = name_of(&[section.as_slice(), &[name.to_owned()]].concat());
                let wrong = right.replace("__", "_");
                if variable(variables, &wrong).is_some() {
                    problems.push(format!("{wrong}: two underscores stand between the parts: write {right}"));
                }
            }
        }
    }
    problems
}

/// The name of the variable that sets a key.
pub(super) fn name_of(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_ascii_uppercase())
}

/// The variable that set a key: hubgate's own name for it, or the plain mirror's.
pub(super) fn set_by(variables: &Variables, key: &str) -> String {
    let own = name_of(&key.split('.').map(ToOwned::to_owned).collect::<Vec<_>>());
    let plain = match key {
        "upstream.token" => "HF_TOKEN",
        "store.s3.secret_key" => "MINIO_SECRET_KEY",
        _ => &own,
    };
    let name = if variable(variables, &own).is_some() { &own } else { plain };
    format!("{name} of the environment or .env")
}

/// The plain mirror's names: what they imply (weaker than the file), and what they say.
pub(super) fn mirror_names(variables: &Variables) -> (Dict, Dict) {
    let mut implied = Dict::new();
    let mut said = Dict::new();
    let mut say = |name: &str, path: &[&str], instead: &[&str]| {
        let elsewhere = instead.iter().any(|other| variable(variables, other).is_some());
        let Some(value) = variable(variables, name).filter(|_| !elsewhere) else { return };
        put(&mut said, path, Value::from(value));
    };
    say("HF_TOKEN", &["upstream", "token"], &["HUBGATE_UPSTREAM__TOKEN_FILE"]);
    say("MINIO_ACCESS_KEY", &["store", "s3", "access_key"], &[]);
    say("MINIO_SECRET_KEY", &["store", "s3", "secret_key"], &["HUBGATE_STORE__S3__SECRET_KEY_FILE"]);
    say("MINIO_BUCKET", &["store", "s3", "bucket"], &[]);
    say("MINIO_PREFIX", &["publish", "prefix"], &[]);
    if let Some(endpoint) = variable(variables, "MINIO_ENDPOINT") {
        // The plain mirror's client takes host:port.
        let endpoint = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        put(&mut said, &["store", "s3", "endpoint"], Value::from(endpoint));
        if variable(variables, "MINIO_BUCKET").is_some() {
            put(&mut implied, &["store", "kind"], Value::from("s3"));
        }
    }
    (implied, said)
}

/// The proxy variables, in either case; the lower one is the older habit and wins, as in curl.
pub(super) fn proxy(variables: &Variables) -> ProxyEnv {
    let either = |name: &str| {
        let lower = variable(variables, &name.to_ascii_lowercase());
        lower.or_else(|| variable(variables, name)).map(str::to_owned)
    };
    ProxyEnv { https_proxy: either("HTTPS_PROXY"), http_proxy: either("HTTP_PROXY"), no_proxy: either("NO_PROXY") }
}

/// `section.key=value` pairs of the command line.
pub(super) fn flags(pairs: &[(String, String)]) -> Result<Dict, String> {
    let mut dict = Dict::new();
    for (key, value) in pairs {
        if key.is_empty() || key.split('.').any(str::is_empty) {
            return Err(format!("--set {key}: write --set section.key=value"));
        }
        put(&mut dict, &key.split('.').collect::<Vec<_>>(), written(value));
    }
    Ok(dict)
}

/// A value as somebody types it: what is a text, list or table of TOML is that, everything else as in the environment,
/// since `log.format=json` is what people write.
fn written(text: &str) -> Value {
    let begins = text.starts_with(['"', '\'', '[', '{']);
    let table: Option<toml::Table> = begins.then(|| format!("it = {text}").parse().ok()).flatten();
    let value = table.and_then(|mut table| Value::serialize(table.remove("it")).ok());
    value.unwrap_or_else(|| read(text))
}

/// Lists and tables are written as in TOML; everything else is a text, which the key may read as a number.
fn read(text: &str) -> Value {
    match text.trim_start().chars().next() {
        Some('[' | '{') => match text.parse() {
            Ok(value) => value,
            Err(never) => match never {},
        },
        _ => Value::from(text),
    }
}

fn put(dict: &mut Dict, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            dict.insert((*key).to_owned(), value);
        }
        [section, rest @ ..] => {
            let entry = dict.entry((*section).to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(entry, Value::Dict(..)) {
                *entry = Value::from(Dict::new());
            }
            if let Value::Dict(_, inner) = entry {
                put(inner, rest, value);
            }
        }
    }
}
