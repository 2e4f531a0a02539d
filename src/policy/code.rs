//! Files that run code when they are loaded, by their names: what a reviewer looks at first.

use std::fmt;

use serde::Serialize;

use crate::hub::RepoPath;

/// How a file runs code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunsCode {
    /// It is Python, which loaders import where they are told to trust the repo.
    Code,
    /// It is a pickle or may be one: loading it can run anything.
    Pickle,
}

impl fmt::Display for RunsCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "Python code",
            Self::Pickle => "a pickle, which can run code when it is loaded",
        })
    }
}

/// Whether a file of this name runs code, and how. The `.bin` of `PyTorch` are pickles; other files of that name may not be.
pub fn runs_code(path: &RepoPath) -> Option<RunsCode> {
    let (_, ending) = path.file_name().rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "py" => Some(RunsCode::Code),
        "pkl" | "pickle" | "pt" | "pth" | "ckpt" | "joblib" | "bin" => Some(RunsCode::Pickle),
        _ => None,
    }
}
