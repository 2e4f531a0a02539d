//! The `[policy]` section of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the policy is and how refusals look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The policy folder: every `*.toml` in it is read, sub-folders are not. Looked at every 5 seconds.
    pub dir: PathBuf,
    /// The lock file that `hubgate lock` writes: what it names is served as it was locked, and not otherwise. Looked at
    /// with the folder.
    pub lock: Option<PathBuf>,
    /// Whom a refused person asks: an address or a URL, shown in every refusal.
    pub contact: Option<String>,
    /// The form of a refusal: "auto" chooses by the client's User-Agent, "gated" and "plain" fix one.
    pub refusal: RefusalForm,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { dir: "policy".into(), lock: None, contact: None, refusal: RefusalForm::Auto }
    }
}

/// The forms of a refusal. No one form shows the reason in every client (PROTOCOL 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalForm {
    /// By the client's User-Agent.
    #[default]
    Auto,
    /// 403 with `X-Error-Code: GatedRepo`: Python libraries show the reason, under words of their own about gated repos.
    Gated,
    /// 403 without a code: the `hf` command line shows the reason.
    Plain,
}
