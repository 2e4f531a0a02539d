//! From a lock file's text to a [`Lock`]. A mistake names file, line, key, value and remedy.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
};

use serde::Deserialize;
use toml::Spanned;

use super::{Lock, Locked, LockedFile, write::VERSION};
use crate::{
    hub::{BlobId, Commit, GitOid, ParseError, Repo, RepoKind, RepoPath, Revision, Sha256},
    policy::{facts::Identity, load_error::LoadError, pattern::ref_name, source::Source},
};

const ANEW: &str = "write the lock anew with `hubgate lock`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    version: Spanned<i64>,
    #[serde(default)]
    repo: Vec<Spanned<Entry>>,
}

/// `[[repo]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    repo: Spanned<String>,
    kind: RepoKind,
    canonical: Option<Spanned<String>>,
    revision: Spanned<String>,
    commit: Spanned<String>,
    upstream_id: Option<String>,
    author: Option<String>,
    license: String,
    rule: String,
    files: Vec<Spanned<File>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: Spanned<String>,
    size: u64,
    git: Option<Spanned<String>>,
    sha256: Option<Spanned<String>>,
}

impl Lock {
    /// Reads the text of a lock file.
    pub(in crate::policy) fn parse(source: &Source) -> Result<Self, LoadError> {
        let file: Entries =
            toml::from_str(&source.text).map_err(|error| source.toml_error(&error).with_remedy(ANEW))?;
        if *file.version.get_ref() != VERSION {
            let problem = format!("this hubgate reads version {VERSION}");
            return Err(source.error(file.version.span(), "version", &problem, ANEW));
        }
        let mut entries: Vec<Arc<Locked>> = Vec::with_capacity(file.repo.len());
        let mut seen: HashMap<(RepoKind, String, String), usize> = HashMap::new();
        let mut commits: HashMap<(Repo, Commit), usize> = HashMap::new();
        let (mut line, mut at) = (1, 0);
        for entry in file.repo {
            let span = entry.span();
            line += source.text.get(at..span.start).map_or(0, |text| text.matches('\n').count());
            at = span.start;
            let entry = locked(source, entry.into_inner(), format!("{}:{line}", source.name))?;
            let name = (entry.repo.kind(), entry.repo.id().to_ascii_lowercase());
            let name = (name.0, name.1, ref_name(entry.revision.as_str()).into_owned());
            let other = |index: usize| entries.get(index).map_or("another entry", |other| other.source.as_str());
            if let Some(index) = seen.insert(name, entries.len()) {
                let problem = format!("{} locks {entry} too", other(index));
                return Err(source.error(span, "", &problem, "keep one of the two"));
            }
            if let Some(index) = commits.insert((entry.repo.clone(), entry.commit), entries.len())
                && entries.get(index).is_some_and(|other| other.files != entry.files)
            {
                let problem = format!("{} has other files for the same commit", other(index));
                return Err(source.error(span, "", &problem, "write both anew with `hubgate lock --update REPO`"));
            }
            entries.push(Arc::new(entry));
        }
        Ok(Self::new(entries))
    }
}

fn locked(source: &Source, entry: Entry, place: String) -> Result<Locked, LoadError> {
    let named = |key: &str, id: &Spanned<String>| {
        let remedy = "write the id as org/name, with its kind beside it";
        Repo::new(entry.kind, id.get_ref()).map_err(|error| source.error(id.span(), key, error.problem, remedy))
    };
    let repo = named("repo", &entry.repo)?;
    let canonical = entry.canonical.as_ref().map(|id| named("canonical", id)).transpose()?;
    let revision: Revision = value(source, "revision", &entry.revision, "write a branch, a tag or a full sha")?;
    let commit: Commit = value(source, "commit", &entry.commit, "write the full sha, 40 hex digits")?;
    if revision.as_commit().is_some_and(|named| named != commit) {
        let remedy = "lock a sha at itself, or a branch by its name";
        return Err(source.error(entry.commit.span(), "commit", "revision is another commit's sha", remedy));
    }
    let mut files = BTreeMap::new();
    for file in &entry.files {
        let (path, locked) = locked_file(source, file.span(), file.get_ref())?;
        if files.insert(path, locked).is_some() {
            return Err(source.error(file.get_ref().path.span(), "path", "stands twice in this entry", ANEW));
        }
    }
    Ok(Locked {
        repo,
        canonical,
        revision,
        commit,
        identity: Identity { id: entry.upstream_id, author: entry.author },
        license: entry.license,
        rule: entry.rule,
        files,
        source: place,
    })
}

fn locked_file(source: &Source, span: Range<usize>, file: &File) -> Result<(RepoPath, LockedFile), LoadError> {
    let path: RepoPath =
        value(source, "path", &file.path, "write the path from the repo's root, such as onnx/model.onnx")?;
    let git: Option<GitOid> =
        file.git.as_ref().map(|git| value(source, "git", git, "write 40 hex digits")).transpose()?;
    let sha256: Option<Sha256> =
        file.sha256.as_ref().map(|sha256| value(source, "sha256", sha256, "write 64 hex digits")).transpose()?;
    let blob = match (git, sha256) {
        (Some(oid), _) => BlobId::Git(oid),
        (None, Some(sha256)) => BlobId::Sha256(sha256),
        (None, None) => {
            let problem = "has no digest, so nothing can be held against it";
            return Err(source.error(span, "files", problem, "write its sha256, or git as the Hub's tree has it"));
        }
    };
    Ok((path, LockedFile { size: file.size, blob, sha256 }))
}

fn value<T: std::str::FromStr<Err = ParseError>>(
    source: &Source,
    key: &str,
    text: &Spanned<String>,
    remedy: &str,
) -> Result<T, LoadError> {
    text.get_ref().parse().map_err(|error: ParseError| source.error(text.span(), key, error.problem, remedy))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{ONE, TWO, file, lock, locked},
        *,
    };

    fn parse(text: &str) -> Result<Lock, LoadError> {
        Lock::parse(&Source { name: "models.lock".into(), path: "/x/models.lock".into(), text: text.into() })
    }

    #[test]
    fn what_is_written_is_read_back() {
        let odd = Locked {
            canonical: Some("spaces/acme/new".parse().unwrap()),
            ..locked("spaces/acme/old", "refs/pr/1", TWO)
        };
        let mut known = locked("gpt2", ONE, ONE);
        known.files.insert(
            "a \"quoted\" name.json".parse().unwrap(),
            LockedFile { sha256: file(1, 'c', false).sha256, ..file(1, 'c', true) },
        );
        let text = lock(vec![odd.clone(), known.clone(), locked("acme/x", "main", ONE)]).to_toml();
        let read = parse(&text).unwrap();
        assert_eq!(read.to_toml(), text);
        let without_place = |entry: &Arc<Locked>| Locked { source: String::new(), ..(**entry).clone() };
        let entries: Vec<Locked> = read.entries().iter().map(without_place).collect();
        assert!(entries.contains(&odd) && entries.contains(&known), "{entries:?}");
        let line = text.lines().position(|line| line == "[[repo]]").unwrap() + 1;
        assert_eq!(read.entries()[0].source, format!("models.lock:{line}"));
        assert!(parse("version = 1\n").unwrap().entries().is_empty());
    }

    #[test]
    fn a_mistake_names_file_line_key_value_and_remedy() {
        let text = lock(vec![locked("acme/x", "main", ONE)]).to_toml();
        let b = "b".repeat(64);
        let second = text.split_once("\n\n").unwrap().1.replace("\"main\"", "\"dev\"");
        let cases = [
            (text.replace("version = 1", "version = 2"), "models.lock:3: version = 2: this hubgate reads version 1"),
            (text.replace("version = 1\n", ""), "models.lock:1: "),
            (text.replace(ONE, "main"), "models.lock:9: commit = \"main\": "),
            (text.replace("\"acme/x\"", "\"a/b/c\""), "models.lock:6: repo = \"a/b/c\": "),
            (text.replace("\"model\"", "\"modell\""), "models.lock:7: kind = \"modell\": unknown variant"),
            (text.replace("\"main\"", "\"a b\""), "models.lock:8: revision = \"a b\": "),
            (text.replace("\"main\"", &format!("{TWO:?}")), "models.lock:9: commit = \"1111"),
            (text.replace("rule =", "rulee ="), "models.lock:13: rulee: unknown field `rulee`"),
            (text.replace("size = 2", "size = -2"), "models.lock:15: "),
            (text.replace("size = 2", "sizes = 2"), "models.lock:15: "),
            (text.replace(&b, "bb"), "models.lock:16: sha256 = \"bb\": "),
            (text.replace("config.json", "../config.json"), "models.lock:15: path = \"../config.json\": "),
            (
                text.replace("config.json", "model.safetensors"),
                "models.lock:16: path = \"model.safetensors\": stands twice",
            ),
            (text.replace(&format!(", sha256 = \"{b}\""), ""), "models.lock:16: files = { path"),
            (
                format!("{text}{}", text.split_once("\n\n").unwrap().1),
                "models.lock:18: [[repo]]: models.lock:5 locks acme/x@main too",
            ),
            (
                format!("{text}{}", second.replace("size = 2", "size = 3")),
                "models.lock:18: [[repo]]: models.lock:5 has other files",
            ),
            ("version = 1\n=".into(), "models.lock:2: "),
        ];
        for (text, expected) in cases {
            let error = parse(&text).expect_err(expected);
            assert!(error.to_string().starts_with(&format!("/x/{expected}")), "{error}\nexpected {expected}");
            assert!(!error.remedy().is_empty());
        }
        assert!(parse(&format!("{text}{second}")).is_ok(), "two revisions may mean one commit");
    }
}
