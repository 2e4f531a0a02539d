//! Why a policy is refused: one error, which names file, line, key, value and remedy.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::pattern::Mistake;

/// Why a policy was refused. One mistake refuses the whole folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(Box<Details>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Details {
    file: PathBuf,
    line: Option<usize>,
    key: String,
    value: String,
    problem: String,
    remedy: String,
}

impl LoadError {
    /// The file or folder, or the environment variable.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// The line, counted from 1, where the mistake is in a file's text.
    pub fn line(&self) -> Option<usize> {
        self.0.line
    }

    /// The key; empty where the mistake is none of a key.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Its value as written, shortened.
    pub fn value(&self) -> &str {
        &self.0.value
    }

    /// What is wrong.
    pub fn problem(&self) -> &str {
        &self.0.problem
    }

    /// What would be right.
    pub fn remedy(&self) -> &str {
        &self.0.remedy
    }

    pub(super) fn of_file(file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self(Box::new(Details {
            file: file.into(),
            line: None,
            key: String::new(),
            value: String::new(),
            problem: problem.into(),
            remedy: remedy.into(),
        }))
    }

    pub(super) fn of_io(file: &Path, error: &io::Error) -> Self {
        let remedy = "let hubgate read the policy folder and each *.toml file in it";
        Self::of_file(file, format!("can't be read: {error}"), remedy)
    }

    /// `variable` is the environment variable, or another place that is no file.
    pub(super) fn of_environment(variable: &str, value: &str, problem: &str, remedy: &str) -> Self {
        Self::of_file(Path::new(variable), problem, remedy).with_value("", value)
    }

    pub(super) fn of_list(variable: &str, mistake: &Mistake) -> Self {
        Self::of_environment(variable, "", &mistake.problem, &mistake.remedy)
    }

    pub(super) fn at_line(mut self, line: usize) -> Self {
        self.0.line = Some(line);
        self
    }

    pub(super) fn with_remedy(mut self, remedy: &str) -> Self {
        self.0.remedy = remedy.into();
        self
    }

    pub(super) fn with_value(mut self, key: &str, value: &str) -> Self {
        self.0.key = key.into();
        self.0.value = value.into();
        self
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { file, line, key, value, problem, remedy } = &*self.0;
        write!(f, "{}", file.display())?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        match (key.as_str(), value.as_str()) {
            ("", "") => {}
            (text, "") | ("", text) => write!(f, "{text}: ")?,
            (key, value) => write!(f, "{key} = {value}: ")?,
        }
        write!(f, "{problem}; {remedy}")
    }
}

impl std::error::Error for LoadError {}
