//! The front matter of a README.md: YAML between two `---` lines, as `huggingface_hub` finds it
//! (`REGEX_YAML_BLOCK`). It comes from strangers, so its size, depth, aliases and events are bounded.
//!
//! It is found once, and kept as text ([`kept_front_matter`]). Licences are read from what is kept alone, so that the
//! reviewer who looks at a README and the gateway that serves by what it stored of one see the same.

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};

use super::license::Claim;

/// Longer front matter is not read. Cards with the results of large benchmarks reach some 500 kB.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// As much of a README.md as need be fetched: whether its front matter ends within the bound shows in it.
pub const README_BYTES: usize = MAX_BYTES + 1;

/// How what is kept of front matter that can't be read begins; why follows.
const UNREADABLE: &str = "unreadable: ";

#[derive(Deserialize)]
struct Card {
    license: Option<Value>,
    license_name: Option<Value>,
}

/// What to keep of a README.md: its front matter between `---` lines, or why that can't be kept. `None` where it has
/// none.
pub fn kept_front_matter(readme: &[u8]) -> Option<String> {
    let yaml = front_matter(readme)?;
    Some(match yaml.and_then(|yaml| std::str::from_utf8(yaml).map_err(|_| "its front matter is not UTF-8".into())) {
        Ok(yaml) => format!("---\n{yaml}---\n"),
        Err(why) => format!("{UNREADABLE}{why}"),
    })
}

/// What the front matter of a README.md says of the licence.
pub fn license_of(readme: &[u8]) -> Claim {
    kept_front_matter(readme).as_deref().map_or(Claim::None, license_of_kept)
}

/// What front matter says of the licence, as [`kept_front_matter`] gave it.
pub(super) fn license_of_kept(kept: &str) -> Claim {
    if let Some(why) = kept.strip_prefix(UNREADABLE) {
        return Claim::Unreadable(why.to_owned());
    }
    let yaml = match front_matter(kept.as_bytes()) {
        None => return Claim::None,
        Some(Err(why)) => return Claim::Unreadable(why),
        // It was cut out of a text at line breaks.
        Some(Ok(yaml)) => std::str::from_utf8(yaml).unwrap_or_default(),
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
/// may stand before it. An error says that more would have to be read to find its end.
fn front_matter(readme: &[u8]) -> Option<Result<&[u8], String>> {
    let is_cut = readme.len() > MAX_BYTES;
    let too_long = || is_cut.then(|| Err(format!("its front matter does not end within {MAX_BYTES} bytes")));
    let readme = readme.get(..README_BYTES).unwrap_or(readme);
    let text = readme.strip_prefix(b"\xef\xbb\xbf").unwrap_or(readme);
    let Some(first) = text.iter().position(|b| !b.is_ascii_whitespace()) else { return too_long() };
    let mut lines = text.get(first..)?.split_inclusive(|b| *b == b'\n');
    let opening = lines.next().filter(|line| is_fence(line))?;
    let start = first + opening.len();
    let mut end = start;
    for line in lines {
        // Of a line that is cut off nobody knows how it goes on.
        if is_fence(line) && (line.ends_with(b"\n") || !is_cut) {
            return text.get(start..end).map(Ok);
        }
        end += line.len();
    }
    too_long()
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

    #[test]
    fn what_is_kept_says_the_same_as_the_readme_and_fits_what_is_fetched() {
        let with = |yaml: usize| format!("---\nx: {}\nlicense: mit\n---\n# Title\n", "y".repeat(yaml)).into_bytes();
        let fits = README_BYTES - b"---\nx: \nlicense: mit\n---\n".len();
        let cases = [
            (b"\n---\nlicense: mit\n---\n".to_vec(), "a leading blank line"),
            (b"\xef\xbb\xbf\r\n --- \r\nlicense: mit\r\n---".to_vec(), "none of the usual"),
            (b"---\r\nlicense: mit\r\n---\r\nmore".to_vec(), "DOS line ends"),
            (with(300 * 1024), "longer than 256 KiB"),
            (with(fits), "just as long as may be"),
        ];
        for (readme, which) in cases {
            let fetched = readme.get(..README_BYTES).unwrap_or(&readme);
            let kept = kept_front_matter(fetched).unwrap();
            assert!(kept.starts_with("---\n") && kept.ends_with("---\n"), "{which}");
            assert_eq!((license_of(&readme), license_of_kept(&kept)), (stated(&["mit"]), stated(&["mit"])), "{which}");
        }
        let cut = [b"---\n".to_vec(), vec![b'#'; MAX_BYTES - 7], b"\n---more\nlicense: mit\n---\n".to_vec()].concat();
        let unreadable = [
            (b"---\nlicense: \xff\n---\n".to_vec(), "is not UTF-8"),
            (with(fits + 1), "does not end within"),
            (cut, "does not end within"),
            (vec![b'\n'; MAX_BYTES + 1], "does not end within"),
        ];
        for (readme, why) in unreadable {
            let kept = kept_front_matter(readme.get(..README_BYTES).unwrap_or(&readme)).unwrap();
            for claim in [license_of(&readme), license_of_kept(&kept)] {
                assert!(matches!(&claim, Claim::Unreadable(text) if text.contains(why)), "{claim:?}, expected {why}");
            }
        }
        for none in ["unreadable: no front matter", "# Title\n---\nlicense: mit\n---\n", "---\nlicense: mit\n", ""] {
            assert_eq!(kept_front_matter(none.as_bytes()), None, "{none:?}");
            assert_eq!(license_of(none.as_bytes()), Claim::None, "{none:?}");
        }
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
