//! From a folder to a [`PolicySet`]: which files there are, read as one, and what they are together with the
//! environment's lists.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    env_lists::EnvLists,
    load_error::LoadError,
    lock::LockFile,
    merge::Merge,
    overlay::Overlay,
    pattern::RefPatterns,
    set::{LockInForce, PolicySet},
    source::Source,
};
use crate::hub::Sha256;

/// Larger files are no policy.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_FILES: usize = 1_000;

/// The texts of a policy, read but not yet understood. Equal digests mean equal policies.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// `None` where the folder does not exist, which is not the same as an empty one.
    files: Option<Vec<Source>>,
    overlay: Vec<Source>,
    lock: Option<Arc<LockFile>>,
    lists: EnvLists,
    dir: PathBuf,
    text: String,
    pub(super) digest: Sha256,
}

impl Sources {
    /// Reads the files of a folder, and the lock beside them. They are read twice, until both readings are the same, so
    /// that a folder in the middle of a change is not taken for a policy. A lock that is the one of `before` is not read again.
    pub(super) fn read(
        dir: &Path,
        lock: Option<&Path>,
        lists: &EnvLists,
        before: Option<&Self>,
    ) -> Result<Self, LoadError> {
        let read = |before: Option<&Arc<LockFile>>| {
            Ok::<_, LoadError>((read_dir(dir)?, lock.map(|path| read_lock(path, before)).transpose()?))
        };
        let mut found = read(before.and_then(|before| before.lock.as_ref()))?;
        for _ in 0..10 {
            let again = read(found.1.as_ref())?;
            if again == found {
                return Ok(Self::new(found.0, found.1, dir, lists));
            }
            found = again;
        }
        Err(LoadError::of_file(dir, "its files change while they are read", "replace them at once, by a rename"))
    }

    fn new(files: Option<Vec<Source>>, lock: Option<Arc<LockFile>>, dir: &Path, lists: &EnvLists) -> Self {
        let mut text = String::new();
        match files.as_deref() {
            None => {}
            // Another policy than that of no folder: the lists are not in force as one.
            Some([]) => text.push_str("# ==> an empty folder\n"),
            Some(files) => write_files(&mut text, files),
        }
        if !lists.is_empty() {
            let _ = write!(text, "# ==> environment\n{}", lists.text());
        }
        if let Some(LockFile { source, sha256, .. }) = lock.as_deref() {
            let _ = writeln!(text, "# ==> lock {} ({} bytes), sha256 {sha256}", source.name, source.text.len());
        }
        let digest = Sha256::of(text.as_bytes());
        Self { files, overlay: Vec::new(), lock, lists: lists.clone(), dir: dir.into(), text, digest }
    }

    /// The same with what operators decided.
    pub(super) fn with(mut self, overlay: &Overlay) -> Self {
        self.overlay = overlay.sources();
        if !self.overlay.is_empty() {
            write_files(&mut self.text, &self.overlay);
            self.digest = Sha256::of(self.text.as_bytes());
        }
        self
    }

    #[cfg(test)]
    pub(super) fn lock_file(&self) -> Option<Arc<LockFile>> {
        self.lock.clone()
    }

    /// Whether the folder is there.
    pub(super) fn folder_exists(&self) -> bool {
        self.files.is_some()
    }

    /// Why there is no rule, where there is no file to hold one.
    fn absence(&self) -> Option<String> {
        match self.files.as_deref() {
            None => Some(format!("the policy folder {} does not exist", self.dir.display())),
            Some([]) => Some(format!("the policy folder {} has no *.toml file", self.dir.display())),
            Some(_) => None,
        }
    }
}

fn write_files(to: &mut String, files: &[Source]) {
    for Source { name, text, .. } in files {
        // Writing to a String can't fail.
        let _ = writeln!(to, "# ==> {name} ({} bytes)\n{text}", text.len());
    }
}

fn read_lock(path: &Path, before: Option<&Arc<LockFile>>) -> Result<Arc<LockFile>, LoadError> {
    LockFile::read(path, before)?.ok_or_else(|| {
        let remedy = "write it with `hubgate lock`, or leave policy.lock out of the configuration";
        LoadError::of_file(path, "policy.lock names this file, and it is not there", remedy)
    })
}

fn read_dir(dir: &Path) -> Result<Option<Vec<Source>>, LoadError> {
    let of_io = |error| LoadError::of_io(dir, &error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_io(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(of_io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        // Names with a dot in front are editors' and ConfigMaps' own; the latter's files are links into them.
        if name.starts_with('.') || !name.ends_with(".toml") {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(|error| LoadError::of_io(&path, &error))?;
        if !metadata.is_file() {
            return Err(LoadError::of_file(&path, "is not a file", "keep only files with names in *.toml here"));
        }
        if metadata.len() > MAX_FILE_BYTES || files.len() == MAX_FILES {
            let problem = format!("more than {MAX_FILE_BYTES} bytes, or more than {MAX_FILES} files in the folder");
            return Err(LoadError::of_file(&path, problem, "cut it down"));
        }
        let bytes = fs::read(&path).map_err(|error| LoadError::of_io(&path, &error))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| LoadError::of_file(&path, format!("not UTF-8: {error}"), "save it as UTF-8"))?;
        files.push(Source { name: name.to_owned(), path, text });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(files))
}

impl PolicySet {
    /// Reads and merges all `*.toml` files of a folder (not of its sub-folders, nor names that begin with a dot). A
    /// folder that is missing or has no such file is the policy that denies everything and says so.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_narrowed(dir, &EnvLists::default())
    }

    /// As [`PolicySet::load`]; the lists are the policy where the folder is missing, and narrow it where it is there.
    pub fn load_narrowed(dir: &Path, lists: &EnvLists) -> Result<Self, LoadError> {
        Self::from_sources(Sources::read(dir, None, lists, None)?)
    }

    /// The policy that `HF_REPOS` and `LICENSE_ALLOWLIST` are, without a folder.
    pub fn from_env_lists(lists: &EnvLists) -> Result<Self, LoadError> {
        Self::from_sources(Sources::new(None, None, Path::new("policy"), lists))
    }

    pub(super) fn from_sources(sources: Sources) -> Result<Self, LoadError> {
        let absence = sources.absence();
        let Sources { files, overlay, lock, lists, dir, text, digest } = sources;
        // An emptied folder is what is left when everything is to be shut: it denies, whatever the lists say.
        let lists_are_the_policy = files.is_none() && lists.repos().is_some();
        let mut merge = Merge::new(digest);
        for source in files.iter().flatten() {
            merge.add(source)?;
        }
        if lists_are_the_policy {
            merge.licenses.allow.extend(lists.licenses_to_allow()?);
            merge.add_listed_repos(&lists)?;
        } else {
            merge.licenses.narrowed = lists.licenses().cloned();
        }
        for source in &overlay {
            merge.add_overlay(source)?;
        }
        let mut set = merge.finish(&dir)?;
        if !lists_are_the_policy {
            set.narrow(&lists)?;
            set.absence = absence.filter(|_| set.rules.is_empty());
        }
        if let Some(file) = lock {
            set.lock_to(file)?;
        }
        Ok(Self { text, ..set })
    }

    /// Has the rules that speak for locked repos hold them to the lock.
    fn lock_to(&mut self, file: Arc<LockFile>) -> Result<(), LoadError> {
        let lock = file.lock()?;
        for ((kind, id), entries) in lock.names() {
            let name = (*kind, id.clone());
            let index = self.allow_names.of(*kind).find(id);
            let rule = self.narrowed.get(&name).or_else(|| index.and_then(|index| self.rules.get(index)));
            if let Some(rule) = rule.map(|rule| rule.locked_to(entries)) {
                self.narrowed.insert(name, rule);
            }
        }
        self.lock = Some(LockInForce { lock, file });
        Ok(())
    }

    /// Keeps, of each repo that the lists name with revisions, a rule for those only.
    fn narrow(&mut self, lists: &EnvLists) -> Result<(), LoadError> {
        self.narrowing = lists.narrowing();
        for (repo, revisions) in lists.repos().unwrap_or_default() {
            let id = repo.id().to_ascii_lowercase();
            let rule = self.allow_names.of(repo.kind()).find(&id).and_then(|index| self.rules.get(index));
            if let (Some(rule), false) = (rule, revisions.is_empty()) {
                let names = revisions.iter().map(|revision| revision.as_str().to_owned());
                let patterns = RefPatterns::new(names).map_err(|mistake| LoadError::of_list("HF_REPOS", &mistake))?;
                self.narrowed.insert((repo.kind(), id), rule.narrowed_to(patterns));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::LoadError;

    /// A policy of one file, with a lock.
    pub(in crate::policy) fn locked_policy(policy: &str, lock: &str) -> Result<PolicySet, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("models.lock");
        fs::write(dir.path().join("policy.toml"), policy).unwrap();
        fs::write(&path, lock).unwrap();
        PolicySet::from_sources(Sources::read(dir.path(), Some(&path), &EnvLists::default(), None)?)
    }

    fn load(files: &[(&str, &str)]) -> Result<PolicySet, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        PolicySet::load(dir.path())
    }

    #[test]
    fn all_keys_of_the_contract_are_read() {
        let set = load(&[(
            "repos.toml",
            r#"
            [licenses]
            allow = ["apache-2.0"]
            unknown = "deny"
            [files]
            deny = ["*.pkl"]
            [[allow]]
            name = "minilm"
            repo = "sentence-transformers/all-MiniLM-L6-v2"
            kind = "model"
            revisions = ["main", "v*"]
            pin = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
            files.exclude = ["*.bin"]
            files.include = ["*"]
            files.allow = []
            ranges = "verified"
            gated = true
            max_file_size = "50 GB"
            license.accept = ["other:acme-research-1.0"]
            upstream_id = "621ffdc136468d709f180294"
            approved_by = "legal@example.com"
            ticket = "SEC-123"
            expires = "2027-06-30"
            [[deny]]
            name = "no"
            repo = "*/*-uncensored"
            kind = "model"
            reason = "Content policy 4.2"
            [[mirror]]
            repo = "org/name"
            kind = "dataset"
            revisions = ["main"]
            include = ["*.parquet"]
            exclude = ["old/"]
            "#,
        )])
        .unwrap();
        let rule = &set.rules()[0];
        assert_eq!(rule.max_file_size, Some(50_000_000_000));
        assert_eq!(rule.ranges, crate::policy::Ranges::Verified);
        assert_eq!(rule.source, "repos.toml:7");
        assert_eq!(rule.expires.unwrap().to_string(), "2027-06-30");
    }

    #[test]
    fn files_are_merged_in_the_order_of_their_names() {
        let set = load(&[
            ("b.toml", "[[allow]]\nrepo = \"b/b\"\n[licenses]\nallow = [\"mit\"]"),
            ("a.toml", "[[allow]]\nrepo = \"a/a\"\n[licenses]\nallow = [\"isc\"]\nunknown = \"deny\""),
            ("c.toml.bak", "nonsense"),
            (".d.toml", "nonsense"),
            ("README.md", "nonsense"),
        ])
        .unwrap();
        let names: Vec<&str> = set.rules().iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["a/a", "b/b"]);
        assert_eq!(set.licenses.allow.len(), 2);
    }

    #[test]
    fn a_mistake_names_file_line_key_value_and_remedy() {
        let allow = |keys: &str| format!("# a comment\n[[allow]]\nrepo = \"acme/x\"\n{keys}\n");
        let cases = [
            (allow("pin = \"main\""), "x.toml:4: pin = \"main\": not a commit; write the full sha"),
            (allow("expires = \"30.6.2027\""), "x.toml:4: expires = \"30.6.2027\": not a date; write the last day"),
            (allow("expires = \"2027-02-30\""), "x.toml:4: expires = \"2027-02-30\": not a date"),
            (allow("max_file_size = \"big\""), "x.toml:4: max_file_size = \"big\": not a size"),
            (allow("max_file_size = -1"), "x.toml:4: max_file_size = -1: not a size"),
            (allow("files.exclude = [\"a\", \"[b\"]"), "x.toml:4: files.exclude = \"[b\": not a glob"),
            (allow("files.deny = [\"a\"]"), "x.toml:4: deny: unknown field `deny`; expected"),
            (allow("revisions = []"), "x.toml:4: revisions = []: names no revision"),
            (allow("revisions = [\"main\", \"[\"]"), "x.toml:4: revisions = \"[\": not a glob"),
            (allow("name = \"\""), "x.toml:4: name = \"\": not a name"),
            (allow("gated = \"yes\""), "x.toml:4: gated = \"yes\": invalid type"),
            (allow("kind = \"modell\""), "x.toml:4: kind = \"modell\": unknown variant `modell`; expected"),
            (allow("licence = \"mit\""), "x.toml:4: licence: unknown field `licence`; expected"),
            (allow("license.accept = [\"other:\"]"), "x.toml:4: license.accept = \"other:\": not a licence"),
            (allow("upstream_id = \"a b\""), "x.toml:4: upstream_id = \"a b\": not an id"),
            (allow("[[allow]]\nrepo = \"ACME/x\""), "x.toml:5: repo = \"ACME/x\": x.toml:2 has a rule for the same"),
            ("[[allow]]\nname = \"x\"".into(), "x.toml:1: "),
            ("[[allow]]\nrepo = \"a/b/c\"".into(), "x.toml:2: repo = \"a/b/c\": a repo id is `name` or `org/name`"),
            ("[[allow]]\nrepo = \"a/*\"\npin = \"main\"".into(), "x.toml:3: pin = \"main\": one commit can't be"),
            ("[[deny]]\nrepo = \"a/[\"\nreason = \"\"".into(), "x.toml:2: repo = \"a/[\": not a glob"),
            ("[licenses]\nallow = [\"mit\", \"other\"]".into(), "x.toml:2: licenses.allow = \"other\": names no"),
            ("[files]\ndeny = [\"!x\"]".into(), "x.toml:2: files.deny = \"!x\": patterns are not negated"),
            ("[[mirror]]\nrepo = \"a/*\"".into(), "x.toml:2: repo = \"a/*\": an entry names one repo"),
            ("[[mirror]]\nrepo = \"a/b/c\"".into(), "x.toml:2: repo = \"a/b/c\": a repo id is `name` or `org/name`"),
            (
                "[[mirror]]\nrepo = \"datasets/a/b\"\nkind = \"space\"".into(),
                "x.toml:3: kind = \"space\": repo says another kind",
            ),
            ("[[mirror]]\nrepo = \"a/b\"\nrevisions = []".into(), "x.toml:3: revisions = []: names no revision"),
            ("[[mirror]]\nrepo = \"a/b\"\nrevisions = [\"a b\"]".into(), "x.toml:3: revisions = \"a b\": a revision"),
            ("[[mirror]]\nrepo = \"a/b\"\ninclude = [\"[\"]".into(), "x.toml:3: include = \"[\": not a glob"),
            (
                "[[mirror]]\nrepo = \"a/b\"\n[[mirror]]\nrepo = \"A/b\"\nrevisions = [\"v1\", \"main\"]".into(),
                "x.toml:4: repo = \"A/b\": x.toml:1 names a revision of A/b that this does too",
            ),
            ("allow = 3\n=".into(), "x.toml:2: "),
        ];
        for (text, expected) in cases {
            let error = load(&[("x.toml", &text)]).expect_err(&text);
            assert!(error.to_string().contains(&format!("/{expected}")), "{error}, expected {expected:?}");
            assert!(!error.remedy().is_empty());
        }
    }

    #[test]
    fn names_are_one_of_a_kind_and_unknown_is_said_once() {
        let named = |repo: &str| format!("[[allow]]\nname = \"x\"\nrepo = \"{repo}\"");
        let error = load(&[("a.toml", &named("a/a")), ("b.toml", &named("b/b"))]).unwrap_err();
        assert!(error.to_string().contains("b.toml:2: name = \"x\": a.toml:2 has a rule of this name"), "{error}");
        let unknown = |word: &str| format!("[licenses]\nunknown = \"{word}\"");
        let error = load(&[("a.toml", &unknown("deny")), ("b.toml", &unknown("allow"))]).unwrap_err();
        assert!(error.to_string().contains("a.toml:2 says otherwise"), "{error}");
        let pinned = "[[allow]]\nrepo = \"a/a\"\nrevisions = [\"refs/pr/*\"]\npin = \"c9745ed1d9f207416be6d2e6f8de32d1f16199bf\"";
        let error = load(&[("a.toml", pinned)]).unwrap_err();
        assert!(error.to_string().contains("a pin is for branches and tags"), "{error}");
    }

    #[test]
    fn what_is_not_a_text_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.toml"), b"# \xff").unwrap();
        assert!(PolicySet::load(dir.path()).unwrap_err().to_string().contains("not UTF-8"));
        fs::remove_file(dir.path().join("a.toml")).unwrap();
        fs::create_dir(dir.path().join("b.toml")).unwrap();
        assert!(PolicySet::load(dir.path()).unwrap_err().to_string().contains("is not a file"));
    }
}
