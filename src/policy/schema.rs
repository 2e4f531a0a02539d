//! The TOML of a policy file, as written. All files of a folder have this one schema.

use serde::Deserialize;
use toml::Spanned;

use super::rule::{HookDemand, Ranges};
use crate::hub::RepoKind;

/// A policy file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    pub(super) licenses: Option<Licenses>,
    pub(super) files: Option<Files>,
    #[serde(default)]
    pub(super) allow: Vec<Spanned<Allow>>,
    #[serde(default)]
    pub(super) deny: Vec<Spanned<Deny>>,
    #[serde(default)]
    pub(super) mirror: Vec<Spanned<MirrorEntry>>,
}

/// `[licenses]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Licenses {
    #[serde(default)]
    pub(super) allow: Vec<Spanned<String>>,
    pub(super) unknown: Option<Spanned<Unknown>>,
}

/// What happens to a repo that states no licence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Unknown {
    Deny,
    Allow,
}

/// `[files]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    #[serde(default)]
    pub(super) deny: Vec<Spanned<String>>,
}

/// `[[allow]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allow {
    pub(super) name: Option<Spanned<String>>,
    pub(super) repo: Spanned<String>,
    #[serde(default = "model")]
    pub(super) kind: RepoKind,
    pub(super) revisions: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) pin: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) files: AllowFiles,
    #[serde(default)]
    pub(super) ranges: Ranges,
    #[serde(default)]
    pub(super) hook: HookDemand,
    #[serde(default)]
    pub(super) gated: bool,
    pub(super) max_file_size: Option<Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) license: AllowLicense,
    pub(super) upstream_id: Option<Spanned<String>>,
    pub(super) approved_by: Option<String>,
    pub(super) ticket: Option<String>,
    pub(super) expires: Option<Spanned<toml::Value>>,
}

fn model() -> RepoKind {
    RepoKind::Model
}

/// `files.*` of an allow rule.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AllowFiles {
    pub(super) include: Vec<Spanned<String>>,
    pub(super) exclude: Vec<Spanned<String>>,
    pub(super) allow: Vec<Spanned<String>>,
}

/// `license.*` of an allow rule.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AllowLicense {
    pub(super) accept: Vec<Spanned<String>>,
}

/// `[[deny]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deny {
    pub(super) name: Option<Spanned<String>>,
    pub(super) repo: Option<Spanned<String>>,
    pub(super) commit: Option<Spanned<String>>,
    pub(super) sha256: Option<Spanned<String>>,
    pub(super) kind: Option<RepoKind>,
    pub(super) reason: String,
}

/// `[[mirror]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorEntry {
    pub(super) repo: Spanned<String>,
    pub(super) kind: Option<Spanned<RepoKind>>,
    pub(super) revisions: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub(super) include: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<String>>,
}
