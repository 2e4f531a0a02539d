//! `config.toml`.

use std::path::Path;

use figment::value::{Dict, Value};

/// Reads the file. The error names the file and the line, and doesn't quote it: it may hold a secret.
pub(super) fn read(path: &Path) -> Result<Dict, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        format!("{}: line {}: {}", path.display(), before.matches('\n').count() + 1, error.message())
    })?;
    let value = Value::serialize(table).map_err(|error| format!("{}: {error}", path.display()))?;
    value.into_dict().ok_or_else(|| format!("{}: this is no table", path.display()))
}
