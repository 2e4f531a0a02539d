//! One policy file's text, and reading single values of it, with errors that point at them.

use std::{ops::Range, path::PathBuf};

use time::{Date, format_description::well_known::Iso8601};
use toml::Spanned;

use super::{
    license_id::LicenseId,
    load_error::LoadError,
    pattern::{Mistake, RefPatterns, file_glob, is_literal},
};
use crate::hub::Commit;

/// A file of the policy folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    fn line(&self, span: &Range<usize>) -> usize {
        self.text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1
    }

    pub(super) fn at(&self, span: Range<usize>) -> String {
        format!("{}:{}", self.name, self.line(&span))
    }

    fn excerpt(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let short: String = line.chars().take(80).collect();
        if short.len() < text.len() { format!("{short}...") } else { short }
    }

    pub(super) fn error(&self, span: Range<usize>, key: &str, problem: &str, remedy: &str) -> LoadError {
        LoadError::of_file(&self.path, problem, remedy).at_line(self.line(&span)).with_value(key, &self.excerpt(&span))
    }

    /// What the TOML reader found: bad syntax, an unknown key, a missing one, a value of another type.
    pub(super) fn toml_error(&self, error: &toml::de::Error) -> LoadError {
        let message = error.message().replace('\n', " ");
        let (problem, remedy) = match message.split_once(", expected") {
            Some((problem, expected)) => (problem.to_owned(), format!("expected{expected}")),
            None => (message, "see the README.md of the shipped policy folder for all keys".to_owned()),
        };
        let Some(span) = error.span() else { return LoadError::of_file(&self.path, problem, remedy) };
        let start = span.start.min(self.text.len());
        let line_start = self.text.get(..start).and_then(|text| text.rfind('\n')).map_or(0, |newline| newline + 1);
        let before = self.text.get(line_start..start).unwrap_or_default();
        let key = before.split_once('=').map_or("", |(key, _)| key.trim());
        self.error(span, key, &problem, &remedy)
    }

    pub(super) fn check(
        &self,
        key: &str,
        value: &Spanned<String>,
        check: impl FnOnce(&str) -> Result<(), Mistake>,
    ) -> Result<(), LoadError> {
        check(value.get_ref()).map_err(|mistake| self.error(value.span(), key, &mistake.problem, &mistake.remedy))
    }

    pub(super) fn file_pattern(&self, key: &str, pattern: &Spanned<String>) -> Result<String, LoadError> {
        self.check(key, pattern, |text| file_glob(text).map(|_| ()))?;
        Ok(pattern.get_ref().clone())
    }

    pub(super) fn pin(&self, pin: &Spanned<String>, repo: &str) -> Result<Commit, LoadError> {
        if !is_literal(repo) {
            let remedy = "write a rule with the repo's id in full";
            return Err(self.error(pin.span(), "pin", "one commit can't be the pin of many repos", remedy));
        }
        pin.get_ref().parse().map_err(|_| {
            let remedy = "write the full sha of the reviewed commit, 40 hex digits";
            self.error(pin.span(), "pin", "not a commit", remedy)
        })
    }

    pub(super) fn revisions(
        &self,
        list: &Spanned<Vec<Spanned<String>>>,
        is_pinned: bool,
    ) -> Result<RefPatterns, LoadError> {
        if list.get_ref().is_empty() {
            let remedy = "leave the key out for all branches and tags, or use a [[deny]]";
            return Err(self.error(list.span(), "revisions", "names no revision", remedy));
        }
        for pattern in list.get_ref() {
            let of_one = self.ref_patterns(pattern.span(), std::slice::from_ref(pattern))?;
            if is_pinned && of_one.name_special_refs() {
                let problem = "a pin is for branches and tags, and this names another ref";
                return Err(self.error(pattern.span(), "revisions", problem, "leave out one of the two"));
            }
        }
        self.ref_patterns(list.span(), list.get_ref())
    }

    fn ref_patterns(&self, span: Range<usize>, list: &[Spanned<String>]) -> Result<RefPatterns, LoadError> {
        if let Some(empty) = list.iter().find(|pattern| pattern.get_ref().trim().is_empty()) {
            return Err(self.error(empty.span(), "revisions", "an empty pattern", "write a name or a glob such as v*"));
        }
        RefPatterns::new(list.iter().map(|pattern| pattern.get_ref().clone()))
            .map_err(|mistake| self.error(span, "revisions", &mistake.problem, &mistake.remedy))
    }

    pub(super) fn size(&self, size: &Spanned<toml::Value>) -> Result<u64, LoadError> {
        let bytes = match size.get_ref() {
            toml::Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            toml::Value::String(text) => text.trim().parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            _ => None,
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
            let remedy = "write a number of bytes or a text with a unit, such as \"50 GB\" or \"512 MiB\"";
            self.error(size.span(), "max_file_size", "not a size above zero", remedy)
        })
    }

    pub(super) fn date(&self, date: &Spanned<toml::Value>) -> Result<Date, LoadError> {
        let text = match date.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Datetime(date) => date.to_string(),
            _ => String::new(),
        };
        Date::parse(&text, &Iso8601::DATE).map_err(|_| {
            let remedy = "write the last day on which the rule holds as \"YYYY-MM-DD\"";
            self.error(date.span(), "expires", "not a date", remedy)
        })
    }

    pub(super) fn upstream_id(&self, id: &Spanned<String>) -> Result<String, LoadError> {
        let text = id.get_ref().trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let remedy = "write the _id that the Hub's API shows for the repo";
            return Err(self.error(id.span(), "upstream_id", "not an id of the Hub", remedy));
        }
        Ok(text.to_owned())
    }

    pub(super) fn accepted_license(&self, id: &Spanned<String>) -> Result<LicenseId, LoadError> {
        let license = LicenseId::new(id.get_ref());
        if license.as_str().is_empty() || license.as_str() == "other:" || license.as_str().contains(char::is_control) {
            let remedy = "write an id such as apache-2.0, or other:NAME for a custom licence";
            return Err(self.error(id.span(), "license.accept", "not a licence", remedy));
        }
        Ok(license)
    }

    pub(super) fn allowed_license(&self, id: &Spanned<String>) -> Result<LicenseId, LoadError> {
        let license = LicenseId::new(id.get_ref());
        match license.may_be_allowed() {
            Ok(()) => Ok(license),
            Err(mistake) => Err(self.error(id.span(), "licenses.allow", &mistake.problem, &mistake.remedy)),
        }
    }
}
