//! Licence ids as the Hub spells them, and what SPDX calls the same licences.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pattern::Mistake;

/// A licence in the Hub's spelling: lower case, `apache-2.0`; `other:<license_name>` for a custom one, `other` for one
/// without a name, `unknown` for none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LicenseId(String);

impl LicenseId {
    /// Reads the Hub's spelling or SPDX's, in any case: `Apache-2.0` is `apache-2.0`, `GPL-3.0-only` is the Hub's
    /// `gpl-3.0`. Text that is neither stays as it is, in lower case, and so equals only itself.
    pub fn new(text: &str) -> Self {
        let id = text.trim().to_ascii_lowercase();
        let base = id.strip_suffix("-only").or_else(|| id.strip_suffix("-or-later")).unwrap_or(&id);
        match base {
            "agpl-3.0" | "gpl-2.0" | "gpl-3.0" | "lgpl-2.1" | "lgpl-3.0" => Self(base.into()),
            _ => Self(SPDX_TO_HUB.iter().find(|(spdx, _)| *spdx == id).map_or(id.as_str(), |(_, hub)| hub).into()),
        }
    }

    /// What a repo without a licence has.
    pub fn unknown() -> Self {
        Self("unknown".into())
    }

    pub(super) fn custom(name: &str) -> Self {
        Self(format!("other:{}", name.trim().to_ascii_lowercase()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is an id of the Hub's own list, or a named custom licence.
    pub fn is_hub_id(&self) -> bool {
        self.0.strip_prefix("other:").is_some_and(|name| !name.is_empty()) || HUB_IDS.contains(&self.as_str())
    }

    /// Whether it can be allowed for every rule: it must name a licence.
    pub(super) fn may_be_allowed(&self) -> Result<(), Mistake> {
        let (problem, remedy) = match self.as_str() {
            "" | "other:" => ("not a licence", "write an id such as apache-2.0"),
            "other" => {
                ("names no licence: every custom one is called so", "write other:NAME, or license.accept in one rule")
            }
            "unknown" => ("names no licence", "write unknown = \"allow\" in the policy folder if that is meant"),
            _ => return Ok(()),
        };
        Err(Mistake::new(problem, remedy))
    }

    /// The id without a custom licence's name, which tags don't carry.
    pub(super) fn base(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(base, _)| base)
    }
}

impl fmt::Display for LicenseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SPDX ids (lower case) whose Hub spelling differs by more than case.
const SPDX_TO_HUB: &[(&str, &str)] = &[
    ("c-uda-1.0", "c-uda"),
    ("lgpllr", "lgpl-lr"),
    ("odbl-1.0", "odbl"),
    ("odc-by-1.0", "odc-by"),
    ("pddl-1.0", "pddl"),
];

/// The ids that the Hub documents for `license:` in a model card.
const HUB_IDS: &[&str] = &[
    "afl-3.0",
    "agpl-3.0",
    "apache-2.0",
    "apple-amlr",
    "apple-ascl",
    "artistic-2.0",
    "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "bsl-1.0",
    "c-uda",
    "cc",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "cdla-sharing-1.0",
    "creativeml-openrail-m",
    "deepfloyd-if-license",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "fair-noncommercial-research-license",
    "gemma",
    "gfdl",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "grok2-community",
    "h-research",
    "intel-research",
    "isc",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "lgpl-lr",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "lppl-1.3c",
    "mit",
    "mpl-2.0",
    "ms-pl",
    "ncsa",
    "odbl",
    "odc-by",
    "ofl-1.1",
    "openmdw-1.0",
    "openrail",
    "openrail++",
    "osl-3.0",
    "other",
    "pddl",
    "postgresql",
    "unknown",
    "unlicense",
    "wtfpl",
    "zlib",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spdx_and_hub_spellings_are_one_licence() {
        for (text, id) in [
            ("Apache-2.0", "apache-2.0"),
            ("GPL-3.0-or-later", "gpl-3.0"),
            ("LGPL-2.1-only", "lgpl-2.1"),
            ("ODbL-1.0", "odbl"),
            ("PDDL-1.0", "pddl"),
            (" MIT ", "mit"),
            ("OpenRAIL++", "openrail++"),
            ("other:Acme", "other:acme"),
        ] {
            let license = LicenseId::new(text);
            assert_eq!(license.as_str(), id);
            assert!(license.is_hub_id(), "{text}");
        }
        for text in ["apache2", "other:", "mit-or-later"] {
            assert!(!LicenseId::new(text).is_hub_id(), "{text}");
        }
        assert!(HUB_IDS.is_sorted());
    }
}
