//! What the Rust client programs share: their argument, and the one JSON line that they answer with.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What the driver asks for, as JSON in the second argument; the first is the action's name.
#[derive(Deserialize)]
pub struct Ask {
    pub repo: String,
    #[serde(default = "main_branch")]
    pub revision: String,
    #[serde(default)]
    pub files: Vec<String>,
}

fn main_branch() -> String {
    "main".to_owned()
}

/// What an action brought home: files on disk by their path in the repo, and facts for the driver to compare.
#[derive(Default)]
pub struct Got {
    pub files: BTreeMap<String, PathBuf>,
    pub value: serde_json::Value,
}

pub type Outcome = Result<Got, Box<dyn Error>>;

/// The action's name and its argument, from the command line.
pub fn asked() -> Result<(String, Ask), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let action = words.next().ok_or("usage: PROGRAM ACTION JSON")?;
    let ask = words.next().ok_or("usage: PROGRAM ACTION JSON")?;
    Ok((action, serde_json::from_str(&ask)?))
}

/// Prints the answer. An error's whole chain goes to stderr too, as an uncaught one of a plain program would.
pub fn answer(outcome: Outcome) -> std::process::ExitCode {
    match outcome.and_then(|got| Ok((digests(got.files)?, got.value))) {
        Ok((files, value)) => {
            println!(
                "{}",
                serde_json::json!({"ok": true, "files": files, "value": value})
            );
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(inner) = cause {
                text.push_str("\n  caused by: ");
                text.push_str(&inner.to_string());
                cause = inner.source();
            }
            eprintln!("Error: {text}");
            println!(
                "{}",
                serde_json::json!({"ok": false, "error": "Error", "text": text})
            );
            std::process::ExitCode::FAILURE
        }
    }
}

fn digests(files: BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    files
        .into_iter()
        .map(|(name, path)| {
            let digest = Sha256::digest(
                std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?,
            );
            Ok((name, format!("{digest:x}")))
        })
        .collect()
}

/// Every file below a snapshot folder, by its path in the repo.
pub fn files_below(root: &Path) -> Result<BTreeMap<String, PathBuf>, Box<dyn Error>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(root)?.display().to_string(), path);
            }
        }
    }
    Ok(found)
}
