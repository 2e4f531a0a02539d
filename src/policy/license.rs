//! Licences: what a repo states about itself, and whether policy allows it.
//!
//! All of it is self-declared (PROTOCOL 12.1); nothing on the Hub checks it against a LICENSE file. The authority is
//! the front matter of README.md at the commit, since only that is part of what was reviewed.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    denial::{Denial, DenialKind},
    front_matter,
    license_id::LicenseId,
    rule::Rule,
};
use crate::hub::{Commit, Repo};

/// Longer texts are no licence ids.
const MAX_ID_BYTES: usize = 200;
/// More licences than this in one claim are no claim.
const MAX_IDS: usize = 32;

/// What one source says of a repo's licence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Nothing.
    #[default]
    None,
    /// These licences, at least one.
    Stated(Vec<LicenseId>),
    /// Something that can't be read; why.
    Unreadable(String),
}

impl Claim {
    /// Reads `license` and `license_name` as a model card has them: text, a list of texts, or nothing.
    pub fn of_card(license: Option<&Value>, license_name: Option<&Value>) -> Self {
        let texts: Vec<&str> = match license {
            None | Some(Value::Null) => return Self::None,
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => {
                let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                match texts {
                    Some(texts) => texts,
                    None => return Self::Unreadable("license is a list of something other than texts".into()),
                }
            }
            Some(_) => return Self::Unreadable("license is neither a text nor a list of texts".into()),
        };
        let name = license_name.and_then(Value::as_str).map(str::trim).filter(|name| !name.is_empty());
        Self::of_texts(texts, name)
    }

    /// Reads the `license:` tags of a repo's info.
    pub fn of_tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of_texts(tags.into_iter().filter_map(|tag| tag.strip_prefix("license:")), None)
    }

    fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>, name: Option<&str>) -> Self {
        let mut ids: Vec<LicenseId> = Vec::new();
        for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
            if text.len() > MAX_ID_BYTES || name.is_some_and(|name| name.len() > MAX_ID_BYTES) {
                return Self::Unreadable(format!("a licence of more than {MAX_ID_BYTES} bytes"));
            }
            let id = match (LicenseId::new(text), name) {
                (id, Some(name)) if id.as_str() == "other" => LicenseId::custom(name),
                (id, _) => id,
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
            if ids.len() > MAX_IDS {
                return Self::Unreadable(format!("more than {MAX_IDS} licences"));
            }
        }
        if ids.is_empty() { Self::None } else { Self::Stated(ids) }
    }

    fn stated(&self) -> Option<&[LicenseId]> {
        match self {
            Self::Stated(ids) => Some(ids),
            _ => None,
        }
    }
}

/// What a repo states at one commit, by source. Reading it costs a YAML parse: do it once for a commit and keep it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LicenseClaims {
    /// The front matter of README.md at the commit.
    pub readme: Claim,
    /// `cardData` of the repo's info.
    pub card: Claim,
    /// `tags` of the repo's info.
    pub tags: Claim,
}

impl LicenseClaims {
    /// Reads README.md at the commit (`None` where the tree has none) and the repo's info for that commit.
    pub fn read(readme: Option<&[u8]>, info: &Value) -> Self {
        Self::of_kept(readme.and_then(front_matter::kept_front_matter).as_deref(), info)
    }

    /// The same, of what [`super::kept_front_matter`] kept of README.md.
    pub fn of_kept(front_matter: Option<&str>, info: &Value) -> Self {
        let card = info.get("cardData");
        let field = |name| card.and_then(|card| card.get(name));
        let tags = info.get("tags").and_then(Value::as_array);
        Self {
            readme: front_matter.map_or(Claim::None, front_matter::license_of_kept),
            card: Claim::of_card(field("license"), field("license_name")),
            tags: Claim::of_tags(tags.into_iter().flatten().filter_map(Value::as_str)),
        }
    }
}

/// A licence that policy allows, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LicenseFound {
    /// All licences stated; each of them is allowed.
    pub ids: Vec<LicenseId>,
    /// Who states them.
    pub source: LicenseSource,
}

/// The ids as the manifest writes them: `apache-2.0`, or `apache-2.0, mit`.
impl fmt::Display for LicenseFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(&self.ids))
    }
}

/// Where a licence was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LicenseSource {
    /// README.md at the commit.
    Readme,
    /// `cardData` of the repo's info.
    CardData,
    /// `tags` of the repo's info.
    Tags,
    /// Nowhere: policy lets a repo without a licence pass.
    Nowhere,
}

impl fmt::Display for LicenseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readme => "README.md front matter",
            Self::CardData => "cardData of the repo info",
            Self::Tags => "tags of the repo info",
            Self::Nowhere => "nowhere",
        })
    }
}

/// The `[licenses]` of the policy.
#[derive(Debug, Clone, Default)]
pub(super) struct LicensePolicy {
    pub(super) allow: BTreeSet<LicenseId>,
    pub(super) unknown_is_allowed: bool,
    /// `LICENSE_ALLOWLIST`, which narrows what the folder allows.
    pub(super) narrowed: Option<BTreeSet<LicenseId>>,
}

impl LicensePolicy {
    fn allows(&self, rule: &Rule, id: &LicenseId) -> bool {
        let named = self.allow.contains(id)
            || rule.accepted_licenses.contains(id)
            || (id.as_str() == "unknown" && self.unknown_is_allowed);
        named && self.narrowed.as_ref().is_none_or(|narrowed| narrowed.contains(id))
    }

    /// Finds the licence by authority and decides on it.
    pub(super) fn decide(
        &self,
        rule: &Rule,
        repo: &Repo,
        commit: Commit,
        claims: &LicenseClaims,
    ) -> Result<LicenseFound, Denial> {
        let at = format!("{}@{commit}", repo.id());
        let unknown = LicenseId::unknown();
        let deny = |kind, reason: &str, remedy: &str| Err(rule.deny(kind, reason, remedy));
        for (source, claim) in [(LicenseSource::Readme, &claims.readme), (LicenseSource::CardData, &claims.card)] {
            let is_the_authority = source == LicenseSource::Readme || claims.readme.stated().is_none();
            if let (Claim::Unreadable(why), true) = (claim, is_the_authority)
                && !rule.accepted_licenses.contains(&unknown)
            {
                return deny(
                    DenialKind::LicenseUnreadable,
                    &format!("the licence of {at} can't be read from the {source}: {why}"),
                    "Use a commit whose README.md states it, or ask for license.accept = [\"unknown\"] after a review",
                );
            }
        }
        let sources = [
            (LicenseSource::Readme, &claims.readme),
            (LicenseSource::CardData, &claims.card),
            (LicenseSource::Tags, &claims.tags),
        ];
        let mut stated = sources.iter().filter_map(|(source, claim)| claim.stated().map(|ids| (*source, ids)));
        let (source, ids) = stated.next().unwrap_or((LicenseSource::Nowhere, std::slice::from_ref(&unknown)));
        if let Some((other_source, other_ids)) = stated.find(|(_, other)| !agree(ids, other)) {
            return deny(
                DenialKind::LicenseDisagrees,
                &format!(
                    "the licence of {at} is {} in the {source}, but {} in the {other_source}",
                    list(ids),
                    list(other_ids)
                ),
                "Use a commit where they agree, or ask the repo's owner which holds",
            );
        }
        let Some(refused) = ids.iter().find(|id| !self.allows(rule, id)) else {
            return Ok(LicenseFound { ids: ids.to_vec(), source });
        };
        if refused == &unknown {
            return deny(
                DenialKind::LicenseUnknown,
                &format!("{at} states no licence, neither in README.md nor in the repo info"),
                "Ask for a review and license.accept = [\"unknown\"] in its rule",
            );
        }
        let all = if ids.len() > 1 { format!(" (of {}; all must be allowed)", list(ids)) } else { String::new() };
        deny(
            DenialKind::License,
            &format!("licence {refused}{all} of {at}, found in the {source}, is not allowed"),
            &format!("Ask for a review of the licence and license.accept = [\"{refused}\"] in its rule"),
        )
    }
}

/// Whether two sources state the same licences. Tags carry no name of a custom licence, so a name is compared only
/// where both have one.
fn agree(a: &[LicenseId], b: &[LicenseId]) -> bool {
    let full = |ids: &[LicenseId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<BTreeSet<_>>();
    let bases = |ids: &[LicenseId]| ids.iter().map(|id| id.base().to_owned()).collect::<BTreeSet<_>>();
    let has_names = |ids: &[LicenseId]| ids.iter().any(|id| id.as_str().starts_with("other:"));
    if has_names(a) && has_names(b) { full(a) == full(b) } else { bases(a) == bases(b) }
}

fn list(ids: &[LicenseId]) -> String {
    ids.iter().map(LicenseId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::tests::{commit, policy};

    const POLICY: &str = r#"
        [licenses]
        allow = ["apache-2.0", "MIT", "GPL-3.0-only", "other:acme-1.0"]
        [[allow]]
        name = "r"
        repo = "acme/*"
        [[allow]]
        name = "accepts"
        repo = "acme/special"
        license.accept = ["cc-by-nc-4.0", "unknown", "other"]
    "#;

    fn decide(policy_text: &str, repo: &str, readme: Option<&str>, info: &Value) -> Result<String, Denial> {
        let set = policy(policy_text);
        let repo: Repo = repo.parse().unwrap();
        let rule = set.decide_repo(&repo, crate::policy::tests::day("2026-11-24")).unwrap();
        let claims = LicenseClaims::read(readme.map(str::as_bytes), info);
        let found = set.licenses.decide(&rule, &repo, commit(), &claims)?;
        Ok(format!("{found} from {}", found.source))
    }

    #[test]
    fn the_authority_is_readme_then_card_data_then_tags() {
        let readme = |yaml: &str| Some(format!("---\n{yaml}\n---\n# Hi\n"));
        let info = |license: Value, tags: Value| json!({"cardData": {"license": license}, "tags": tags});
        let none = json!({});
        let cases = [
            (readme("license: mit"), none.clone(), "mit from README.md front matter"),
            (readme("license: Apache-2.0"), none.clone(), "apache-2.0 from README.md front matter"),
            (readme("license: gpl-3.0"), none.clone(), "gpl-3.0 from README.md front matter"),
            (readme("license: [mit, apache-2.0]"), none.clone(), "mit, apache-2.0 from README.md front matter"),
            (
                readme("license: other\nlicense_name: Acme-1.0"),
                none.clone(),
                "other:acme-1.0 from README.md front matter",
            ),
            (
                readme("license: other\nlicense_name: acme-1.0"),
                info(json!("other"), json!(["license:other", "region:us"])),
                "other:acme-1.0 from README.md front matter",
            ),
            (readme("tags: [x]"), info(json!("mit"), json!(["license:mit"])), "mit from cardData of the repo info"),
            (readme("license:"), info(json!(null), json!(["license:mit"])), "mit from tags of the repo info"),
            (None, info(json!(["mit"]), json!([])), "mit from cardData of the repo info"),
            (Some("# no front matter".into()), json!({"tags": ["license:mit"]}), "mit from tags of the repo info"),
        ];
        for (readme, info, expected) in cases {
            assert_eq!(decide(POLICY, "acme/x", readme.as_deref(), &info).unwrap(), expected, "{readme:?} {info}");
        }
    }

    #[test]
    fn what_is_not_allowed_unknown_unreadable_or_contradicted_is_refused() {
        use DenialKind::{License, LicenseDisagrees, LicenseUnknown, LicenseUnreadable};
        let readme = |yaml: &str| Some(format!("---\n{yaml}\n---\n"));
        let tags = |tag: &str| json!({"tags": [tag]});
        let cases = [
            (readme("license: cc-by-nc-4.0"), json!({}), License, "cc-by-nc-4.0"),
            (readme("license: [mit, cc-by-nc-4.0]"), json!({}), License, "all must be allowed"),
            (readme("license: other\nlicense_name: evil"), json!({}), License, "other:evil"),
            (readme("license: other"), json!({}), License, "licence other"),
            (readme("tags: []"), json!({}), LicenseUnknown, "states no licence"),
            (readme("license: unknown"), json!({}), LicenseUnknown, "states no licence"),
            (readme("license: []"), json!({}), LicenseUnknown, "states no licence"),
            (None, json!({}), LicenseUnknown, "states no licence"),
            (readme("license: mit"), tags("license:apache-2.0"), LicenseDisagrees, "mit in the README.md"),
            (
                None,
                json!({"cardData": {"license": "mit"}, "tags": ["license:gpl"]}),
                LicenseDisagrees,
                "gpl in the tags",
            ),
            (
                readme("license: other\nlicense_name: acme-1.0"),
                json!({"cardData": {"license": "other", "license_name": "acme-2.0"}}),
                LicenseDisagrees,
                "other:acme-2.0",
            ),
            (readme("license: {a: b}"), tags("license:mit"), LicenseUnreadable, "README.md"),
            (readme("license: [mit"), tags("license:mit"), LicenseUnreadable, "README.md"),
            (None, json!({"cardData": {"license": 3}}), LicenseUnreadable, "cardData"),
        ];
        for (readme, info, kind, text) in cases {
            let denial = decide(POLICY, "acme/x", readme.as_deref(), &info).expect_err(text);
            assert_eq!(denial.kind(), kind, "{readme:?} {info}: {denial}");
            assert!(denial.reason().contains(text), "{denial}");
        }
    }

    #[test]
    fn a_rule_accepts_more_for_its_own_repo_only() {
        let readme = "---\nlicense: cc-by-nc-4.0\n---\n";
        assert!(decide(POLICY, "acme/special", Some(readme), &json!({})).is_ok());
        assert!(decide(POLICY, "acme/x", Some(readme), &json!({})).is_err());
        assert_eq!(decide(POLICY, "acme/special", None, &json!({})).unwrap(), "unknown from nowhere");
        let unreadable =
            decide(POLICY, "acme/special", Some("---\nlicense: [\n---\n"), &json!({"tags": ["license:gpl"]}));
        assert_eq!(unreadable.unwrap_err().kind(), DenialKind::License, "what the tags state is still refused");
        let other = decide(POLICY, "acme/special", Some("---\nlicense: other\nlicense_name: x\n---\n"), &json!({}));
        assert_eq!(other.unwrap_err().kind(), DenialKind::License, "`other` means a custom licence without a name");
    }

    #[test]
    fn unknown_can_be_allowed_for_all() {
        let text = "[licenses]\nunknown = \"allow\"\n[[allow]]\nrepo = \"acme/*\"";
        assert_eq!(decide(text, "acme/x", None, &json!({})).unwrap(), "unknown from nowhere");
    }
}
