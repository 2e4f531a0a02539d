//! A lock as text. A line for each file, sorted, and nothing in it that is not of the commits themselves: two locks of the
//! same commits are the same bytes, and a diff of them shows what changed.

use std::fmt::Write as _;

use super::{Lock, Locked};
use crate::{hub::BlobId, policy::overlay::quoted};

/// The version of the format.
pub(super) const VERSION: i64 = 1;

const HEADER: &str = "\
# The commits that were reviewed, and the digest of every file in them. `hubgate lock` writes this file,
# `hubgate lock --diff` shows what the Hub has since, `hubgate lock --update REPO` moves one repo. Review it like code.
";

impl Lock {
    /// The text of the lock file.
    pub fn to_toml(&self) -> String {
        let mut text = format!("{HEADER}version = {VERSION}\n");
        for entry in &self.entries {
            entry.write(&mut text);
        }
        text
    }
}

impl Locked {
    fn write(&self, text: &mut String) {
        let mut line = |key: &str, value: &str| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{key} = {}", quoted(value));
        };
        line("\n[[repo]]\nrepo", self.repo.id());
        line("kind", self.repo.kind().singular());
        if let Some(canonical) = &self.canonical {
            line("canonical", canonical.id());
        }
        line("revision", self.revision.as_str());
        line("commit", &self.commit.to_string());
        for (key, value) in [("upstream_id", &self.identity.id), ("author", &self.identity.author)] {
            if let Some(value) = value {
                line(key, value);
            }
        }
        line("license", &self.license);
        line("rule", &self.rule);
        text.push_str("files = [\n");
        for (path, file) in &self.files {
            let _ = write!(text, "  {{ path = {}, size = {}", quoted(path.as_str()), file.size);
            if let BlobId::Git(oid) = file.blob {
                let _ = write!(text, ", git = \"{oid}\"");
            }
            if let Some(sha256) = file.sha256 {
                let _ = write!(text, ", sha256 = \"{sha256}\"");
            }
            text.push_str(" },\n");
        }
        text.push_str("]\n");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ONE, TWO, lock, locked};

    #[test]
    fn a_lock_is_the_same_text_whatever_the_order_and_has_a_line_for_each_file() {
        let entries =
            || vec![locked("acme/x", "main", ONE), locked("datasets/acme/a", "v1", TWO), locked("acme/x", "dev", TWO)];
        let text = lock(entries()).to_toml();
        assert_eq!(text, lock(entries().into_iter().rev().collect()).to_toml());
        let (_, first) = text.split_once("\n\n").unwrap();
        let a = "a".repeat(40);
        let b = "b".repeat(64);
        assert!(
            first.starts_with(&format!(
                "[[repo]]\nrepo = \"acme/x\"\nkind = \"model\"\nrevision = \"dev\"\ncommit = \"{TWO}\"\n\
                 upstream_id = \"id1\"\nauthor = \"acme\"\nlicense = \"mit\"\nrule = \"r\"\nfiles = [\n  \
                 {{ path = \"config.json\", size = 2, git = \"{a}\" }},\n  \
                 {{ path = \"model.safetensors\", size = 10, sha256 = \"{b}\" }},\n]\n"
            )),
            "{first}"
        );
        let revisions: Vec<&str> = text.lines().filter(|line| line.starts_with("revision")).collect();
        assert_eq!(revisions, ["revision = \"dev\"", "revision = \"main\"", "revision = \"v1\""]);
    }
}
