//! The front matter of a README.md: YAML between two `---` lines, as `huggingface_hub` finds it
//! (`REGEX_YAML_BLOCK`). It comes from strangers, so its size, depth, aliases and events are bounded.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};

use super::license::Claim;

/// Longer front matter is not read. Cards with the results of large benchmarks reach some 500 kB.
const MAX_BYTES: usize = 2 * 1024 * 1024;

#[derive(Deserialize)]
struct Card {
    license: Option<Value>,
    license_name: Option<Value>,
}

/// What the front matter of a README.md says of the licence.
pub fn license_of(readme: &[u8]) -> Claim {
    let Some(yaml) = front_matter(readme) else { return Claim::None };
    if yaml.len() > MAX_BYTES {
        return Claim::Unreadable(format!("its front matter has more than {MAX_BYTES} bytes"));
    }
    let Ok(yaml) = std::str::from_utf8(yaml) else {
        return Claim::Unreadable("its front matter is not UTF-8".into());
    };
    if yaml.trim().is_empty() {
        return Claim::None;
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 1_000_000,
            max_aliases: 100,
            max_anchors: 100,
            max_depth: 64,
            max_nodes: 500_000,
            max_total_scalar_bytes: MAX_BYTES,
            max_merge_keys: 100,
        },
        // A repeated key elsewhere in a card is none of our business, and a repeated `license` shows as a
        // disagreement with what the Hub read.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        // Benchmark results hold `.nan`.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Option<Card>>(yaml, options) {
        Ok(Some(card)) => Claim::of_card(card.license.as_ref(), card.license_name.as_ref()),
        Ok(None) => Claim::None,
        Err(e) => Claim::Unreadable(format!("its front matter is not YAML that we read: {e}")),
    }
}

/// The bytes between the first line, which must be `---`, and the next such line. Blank lines and a byte order mark
/// may stand before it.
fn front_matter(readme: &[u8]) -> Option<&[u8]> {
    let text = readme.strip_prefix(b"\xef\xbb\xbf").unwrap_or(readme);
    let first = text.iter().position(|b| !b.is_ascii_whitespace())?;
    let mut lines = text.get(first..)?.split_inclusive(|b| *b == b'\n');
    let opening = lines.next().filter(|line| is_fence(line))?;
    let start = first + opening.len();
    let mut end = start;
    for line in lines {
        if is_fence(line) {
            return text.get(start..end);
        }
        end += line.len();
    }
    None
}

fn is_fence(line: &[u8]) -> bool {
    line.trim_ascii_end() == b"---"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::LicenseId;

    fn stated(ids: &[&str]) -> Claim {
        Claim::Stated(ids.iter().map(|id| LicenseId::new(id)).collect())
    }

    #[test]
    fn front_matter_is_found_as_the_hubs_client_finds_it() {
        let cases = [
            ("---\nlicense: mit\n---\n", stated(&["mit"])),
            ("---\r\nlicense: mit\r\n---\r\n", stated(&["mit"])),
            ("\u{feff}---\nlicense: mit\n---", stated(&["mit"])),
            ("\n\n---\nlicense: mit\n---\n", stated(&["mit"])),
            ("---\nlicense:\n  - mit\n  - apache-2.0\n---\n", stated(&["mit", "apache-2.0"])),
            ("---\nlicense: \"mit\" # comment\nlanguage: no\n---\n", stated(&["mit"])),
            ("---\nmodel-index:\n- name: a\n  results: [{x: 1.5, y: .nan}]\nlicense: mit\n---\n", stated(&["mit"])),
            ("---\na: 1\na: 2\nlicense: mit\n---\n", stated(&["mit"])),
            ("---\nlicense: openrail++\n---\n", stated(&["openrail++"])),
            ("---\nlicense: null\n---\n", Claim::None),
            ("---\nlicense: ''\n---\n", Claim::None),
            ("---\n---\nlicense: mit\n", Claim::None),
            ("---\nlicense: mit\n", Claim::None),
            ("# Title\n---\nlicense: mit\n---\n", Claim::None),
            ("", Claim::None),
            ("--", Claim::None),
        ];
        for (readme, expected) in cases {
            assert_eq!(license_of(readme.as_bytes()), expected, "{readme:?}");
        }
    }

    #[test]
    fn hostile_yaml_is_unreadable_not_a_hang() {
        let mut bomb = "---\na: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (name, of) in ('b'..='z').zip('a'..='y') {
            bomb += &[format!("{name}: &{name} ["), format!("*{of},").repeat(8), "]\n".into()].concat();
        }
        bomb += "license: mit\n---\n";
        let deep = format!("---\nlicense: {}mit{}\n---\n", "[".repeat(500), "]".repeat(500));
        let long = format!("---\nx: {}\nlicense: mit\n---\n", "y".repeat(MAX_BYTES));
        for readme in [bomb, deep, long, "---\nlicense: [mit\n---\n".into(), "---\n- a\n- b\n---\n".into()] {
            let claim = license_of(readme.as_bytes());
            assert!(matches!(claim, Claim::Unreadable(_)), "{claim:?} of {readme:.60}");
        }
        assert!(matches!(license_of(b"---\nlicense: \xff\n---\n"), Claim::Unreadable(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_front_matter_is_read_without_a_panic(yaml in "[-\\[\\]{}:,&*!|>'\"#?%@ \n\ta-z0-9.~<]{0,200}") {
            let readme = format!("---\nlicense: {yaml}\n---\n");
            if let Claim::Stated(ids) = license_of(readme.as_bytes()) {
                assert!(!ids.is_empty() && ids.iter().all(|id| !id.as_str().is_empty()));
            }
        }
    }
}
