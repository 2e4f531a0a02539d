//! Which files of an allowed repo are served, withheld or refused.

use std::{fmt, sync::Arc};

use super::{
    denial::{Denial, DenialKind, one_line},
    pattern::FilePatterns,
    rule::Rule,
};
use crate::hub::{BlobId, RepoKind, RepoPath};

/// What a rule and the policy's `[files]` say about files.
#[derive(Debug, Clone)]
pub(super) struct FileRules {
    /// `[files] deny`, shared by all rules.
    pub(super) deny: Arc<FilePatterns>,
    /// The rule's `files.allow`: lifts `deny`.
    pub(super) allow: FilePatterns,
    /// The rule's `files.exclude`.
    pub(super) exclude: FilePatterns,
    /// The rule's `files.include`: where there are any, only these are served.
    pub(super) include: FilePatterns,
}

/// What policy says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileVerdict {
    /// Served.
    Served,
    /// Left out of listings and answered as "entry not found" with this reason.
    Hidden(Denial),
    /// Listed, but refused when it is asked for.
    Refused(Denial),
}

/// The key and the pattern that withhold a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Withheld<'a> {
    Excluded(&'a str),
    NotIncluded,
    Denied(&'a str),
    NotLocked,
}

impl fmt::Display for Withheld<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded(pattern) => write!(f, "files.exclude {pattern}"),
            Self::NotIncluded => f.write_str("not in files.include"),
            Self::Denied(pattern) => write!(f, "files.deny {pattern}"),
            Self::NotLocked => f.write_str("not in the lock"),
        }
    }
}

impl Rule {
    /// What policy says of a file of `size` bytes. `files.exclude` beats everything; then `files.include`, where a rule
    /// has it, must match; then the policy's `files.deny` withholds what the rule's `files.allow` doesn't lift. What a lock
    /// doesn't have of the commit is withheld too, and what has another size or digest there is refused; `blob` is the
    /// digest, where it is known.
    pub fn decide_file(&self, path: &RepoPath, size: u64, blob: Option<BlobId>) -> FileVerdict {
        if let Some(withheld) = self.withholds(path) {
            let remedy = match withheld {
                Withheld::NotLocked => "Ask for the lock to be moved after a review (hubgate lock --update)",
                _ => "Ask for files.allow in the rule after a review, or use a file of another format",
            };
            let reason = format!("{path} is withheld ({withheld})");
            return FileVerdict::Hidden(self.deny(DenialKind::FileHidden, &reason, remedy));
        }
        if let Err(denial) = self.decide_locked_file(path, size, blob) {
            return FileVerdict::Refused(denial);
        }
        match self.max_file_size {
            Some(limit) if size > limit => FileVerdict::Refused(self.deny(
                DenialKind::FileTooLarge,
                &format!("{path} has {size} bytes, more than max_file_size allows ({limit} bytes)"),
                "Ask for max_file_size to be raised in the rule",
            )),
            _ => FileVerdict::Served,
        }
    }

    /// Whether a file is left out of listings, whatever its size.
    pub fn hides(&self, path: &RepoPath) -> bool {
        self.withholds(path).is_some()
    }

    fn withholds(&self, path: &RepoPath) -> Option<Withheld<'_>> {
        let FileRules { deny, allow, exclude, include } = &self.files;
        let unlocked = || self.lock_lacks(path).then_some(Withheld::NotLocked);
        if deny.is_empty() && exclude.is_empty() && include.is_empty() {
            return unlocked();
        }
        let path = path.as_str().to_ascii_lowercase();
        if let Some(pattern) = exclude.find(&path) {
            return Some(Withheld::Excluded(pattern));
        }
        if !include.is_empty() && include.find(&path).is_none() {
            return Some(Withheld::NotIncluded);
        }
        deny.find(&path).filter(|_| allow.find(&path).is_none()).map(Withheld::Denied).or_else(unlocked)
    }

    /// The refusal of a model that has weights, all of which are withheld: its loader would otherwise report a riddle.
    pub fn hides_all_weights<'a>(&self, paths: impl IntoIterator<Item = &'a RepoPath>) -> Option<Denial> {
        if self.kind != RepoKind::Model {
            return None;
        }
        let mut first_withheld = None;
        for path in paths.into_iter().filter(|path| is_weights(path)) {
            let withheld = self.withholds(path)?;
            first_withheld.get_or_insert((path, withheld));
        }
        let (path, withheld) = first_withheld?;
        Some(self.deny(
            DenialKind::NoWeights,
            &format!("every file with this model's weights is withheld, {path} and all others ({withheld})"),
            "Use a model or revision that has safetensors, or ask for files.allow in the rule after a review",
        ))
    }

    /// What a listing of these files leaves out, as one ASCII line for `X-HF-Warning`; `None` where it is whole.
    pub fn withheld<'a>(&self, paths: impl IntoIterator<Item = &'a RepoPath>) -> Option<String> {
        const NAMED: usize = 3;
        let (mut count, mut names, mut causes) = (0_usize, Vec::new(), std::collections::BTreeSet::new());
        for path in paths {
            let Some(withheld) = self.withholds(path) else { continue };
            count += 1;
            causes.insert(withheld);
            if names.len() < NAMED {
                names.push(path.as_str());
            }
        }
        let files = if count == 1 { "file is" } else { "files are" };
        let more = if count > names.len() { ", ..." } else { "" };
        let causes: Vec<String> = causes.into_iter().take(NAMED).map(|cause| cause.to_string()).collect();
        (count > 0).then(|| {
            one_line(&format!(
                "{count} {files} withheld by rule {} ({}): {}{more}",
                self.name,
                causes.join(", "),
                names.join(", ")
            ))
        })
    }
}

/// Whether a file holds a model's weights, in any framework's format. What trainers leave beside them (optimizer and
/// scheduler states, their arguments) is not weights.
fn is_weights(path: &RepoPath) -> bool {
    const EXTENSIONS: [&str; 23] = [
        "safetensors",
        "bin",
        "pt",
        "pth",
        "ckpt",
        "h5",
        "keras",
        "hdf5",
        "msgpack",
        "onnx",
        "gguf",
        "ggml",
        "tflite",
        "pb",
        "ot",
        "nemo",
        "pdparams",
        "llamafile",
        "mlmodel",
        "pkl",
        "pickle",
        "joblib",
        "npz",
    ];
    const NOT_WEIGHTS: [&str; 6] = ["training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state"];
    let name = path.file_name().to_ascii_lowercase();
    name.rsplit_once('.').is_some_and(|(stem, extension)| {
        EXTENSIONS.contains(&extension) && !NOT_WEIGHTS.iter().any(|other| stem.starts_with(other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::rule_in;

    const DENY: &str = "[files]\ndeny = [\"*.pkl\", \"*.py\", \"*.bin\"]";

    fn paths(texts: &[&str]) -> Vec<RepoPath> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn files_are_served_hidden_or_refused() {
        let cases = [
            ("", "model.safetensors", 1, ""),
            ("", "x.pkl", 1, "files.deny *.pkl"),
            ("", "sub/X.PKL", 1, "files.deny *.pkl"),
            ("files.allow = [\"modeling_*.py\"]", "modeling_x.py", 1, ""),
            ("files.allow = [\"modeling_*.py\"]", "setup.py", 1, "files.deny *.py"),
            ("files.exclude = [\"*.onnx\"]", "onnx/m.onnx", 1, "files.exclude *.onnx"),
            ("files.exclude = [\"*.py\"]\nfiles.allow = [\"*.py\"]", "x.py", 1, "files.exclude *.py"),
            ("files.include = [\"*.json\", \"*.py\"]", "config.json", 1, ""),
            ("files.include = [\"*.json\", \"*.py\"]", "x.safetensors", 1, "not in files.include"),
            ("files.include = [\"*.json\", \"*.py\"]", "x.py", 1, "files.deny *.py"),
            ("max_file_size = \"1 MB\"", "x.safetensors", 1_000_000, ""),
            ("max_file_size = \"1 MB\"", "x.safetensors", 1_000_001, "max_file_size"),
            ("max_file_size = \"1 MB\"", "x.pkl", 1_000_001, "files.deny *.pkl"),
        ];
        for (keys, path, size, expected) in cases {
            let path: RepoPath = path.parse().unwrap();
            let rule = rule_in(DENY, keys);
            match rule.decide_file(&path, size, None) {
                FileVerdict::Served => assert_eq!(expected, "", "{path} under {keys:?}"),
                FileVerdict::Hidden(denial) => {
                    assert!(rule.hides(&path) && expected.starts_with(['f', 'n']), "{path}: {denial}");
                    assert!(denial.reason().contains(expected), "{denial}");
                }
                FileVerdict::Refused(denial) => {
                    assert!(!rule.hides(&path) && expected == "max_file_size", "{path}: {denial}");
                    assert!(denial.reason().contains(expected), "{denial}");
                }
            }
        }
    }

    #[test]
    fn a_model_whose_weights_are_all_withheld_is_refused_instead() {
        let rule = rule_in(DENY, "");
        let cases: [(&[&str], bool); 6] = [
            (&["config.json", "pytorch_model.bin"], true),
            (&["config.json", "pytorch_model.bin", "training_args.bin"], true),
            (&["config.json", "pytorch_model.bin", "model.safetensors"], false),
            (&["config.json", "tokenizer.json"], false),
            (&["config.json", "training_args.bin"], false),
            (&["a/model-00001-of-00002.bin", "a/model-00002-of-00002.bin"], true),
        ];
        for (texts, refused) in cases {
            let denial = rule.hides_all_weights(&paths(texts));
            assert_eq!(denial.as_ref().map(Denial::kind), refused.then_some(DenialKind::NoWeights), "{texts:?}");
        }
        let dataset = rule_in(DENY, "kind = \"dataset\"");
        assert_eq!(dataset.hides_all_weights(&paths(&["train.bin"])), None);
    }

    #[test]
    fn a_listing_says_what_it_leaves_out() {
        let rule = rule_in(DENY, "files.exclude = [\"*.onnx\"]");
        let files = paths(&["a.json", "é.pkl", "m.onnx", "x.bin", "y.bin"]);
        assert_eq!(
            rule.withheld(&files).unwrap(),
            "4 files are withheld by rule r (files.exclude *.onnx, files.deny *.bin, files.deny *.pkl): ?.pkl, m.onnx, x.bin, ..."
        );
        assert_eq!(rule.withheld(files.iter().take(1)), None);
    }
}
