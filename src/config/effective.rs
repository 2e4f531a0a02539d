//! What `check-config` prints: `config.toml.example` gives the keys and their defaults, in its order.

use std::fmt::Write as _;

use figment::{Figment, value::Value};

use super::{environment, is_secret};

/// Every key, its default, and what it is for.
pub(super) const EXAMPLE: &str = include_str!("../../config.toml.example");

/// A line of the example that sets something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// `[section]`.
    Section(&'a str),
    /// `key = value`, the default; or `#key = value`, an example of a key that has none.
    Key { name: &'a str, value: &'a str, has_default: bool },
}

/// The example without its sentences.
pub(super) fn lines(example: &str) -> impl Iterator<Item = Line<'_>> {
    example.lines().filter_map(|line| {
        let (text, has_default) = line.strip_prefix('#').map_or((line, true), |text| (text, false));
        if let Some(section) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return Some(Line::Section(section));
        }
        let (name, value) = text.split_once(" = ")?;
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        is_name.then_some(Line::Key { name, value, has_default })
    })
}

pub(super) fn print(figment: &Figment) -> String {
    let mut out = String::new();
    let mut section = "";
    for line in lines(EXAMPLE) {
        match line {
            Line::Section(name) => {
                section = name;
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{name}]");
            }
            Line::Key { name, value, has_default } => {
                let path = format!("{section}.{name}");
                // Writing to a String doesn't fail.
                let _ = match figment.find_value(&path) {
                    Ok(set) => {
                        let source = figment.get_metadata(set.tag()).map_or("", |metadata| &metadata.name);
                        let source = if source == environment::SOURCE { "the environment" } else { source };
                        writeln!(out, "{name} = {}  # from {source}", shown(name, &set))
                    }
                    Err(_) if has_default => writeln!(out, "{name} = {value}"),
                    Err(_) => writeln!(out, "#{name} is not set"),
                };
            }
        }
    }
    out
}

fn shown(name: &str, value: &Value) -> String {
    if is_secret(name) {
        return "\"(hidden)\"".into();
    }
    match value {
        Value::String(_, text) => format!("{:?}", without_password(name, text)),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, value) => value.to_string(),
        Value::Num(_, number) => number.to_i128().map_or_else(
            || number.to_f64().map_or_else(String::new, |number| number.to_string()),
            |number| number.to_string(),
        ),
        Value::Empty(..) => "\"\"".into(),
        Value::Array(_, values) => {
            format!("[{}]", values.iter().map(|value| shown(name, value)).collect::<Vec<_>>().join(", "))
        }
        Value::Dict(_, dict) => {
            let pairs: Vec<_> = dict.iter().map(|(key, value)| format!("{key} = {}", shown(key, value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}

/// A URL such as the proxy's may carry a user and a password, with an `@` in it; and be written without its scheme.
fn without_password(name: &str, text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None if matches!(name, "proxy" | "endpoint" | "public_url") => (String::new(), text),
        None => return text.to_owned(),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}(hidden)@{host}"),
        None => text.to_owned(),
    }
}
