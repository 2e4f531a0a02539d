//! From a folder of TOML files to a [`PolicySet`], or to one error that names file, line, key, value and remedy.

use std::{
    collections::HashMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use time::{Date, format_description::well_known::Iso8601};
use toml::Spanned;

use super::{
    env_lists::EnvLists,
    files::FileRules,
    license::{LicenseId, LicensePolicy},
    pattern::{FilePatterns, Mistake, RefPatterns, RepoPatterns, check_repo_pattern, file_glob, is_literal},
    rule::{Ranges, Rule},
    schema::{Allow, Deny, PolicyFile, Unknown},
    set::{DenyRule, PerKind, PolicySet},
};
use crate::hub::{Commit, RepoKind, Sha256};

/// Larger files are no policy.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_FILES: usize = 1_000;

/// Why a policy was refused. One mistake refuses the whole folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// The file, or the environment variable.
    pub file: PathBuf,
    /// The line, counted from 1, where the mistake is in a file's text.
    pub line: Option<usize>,
    /// The key.
    pub key: String,
    /// Its value, as written.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, true) => {}
            (false, true) => write!(f, "{}: ", self.key)?,
            (true, false) => write!(f, "{}: ", self.value)?,
            (false, false) => write!(f, "{} = {}: ", self.key, self.value)?,
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl LoadError {
    fn of_file(file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (key, value) = (String::new(), String::new());
        Self { file: file.into(), line: None, key, value, problem: problem.into(), remedy: remedy.into() }
    }

    fn of_io(file: &Path, error: &io::Error) -> Self {
        let remedy = "let hubgate read the policy folder and each *.toml file in it";
        Self::of_file(file, format!("can't be read: {error}"), remedy)
    }

    pub(super) fn of_environment(variable: &str, value: &str, problem: &str, remedy: &str) -> Self {
        Self {
            file: variable.into(),
            line: None,
            key: String::new(),
            value: format!("{value:?}"),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// The texts of a policy, read but not yet understood. Equal digests mean equal policies.
#[derive(Debug)]
pub(super) struct Sources {
    files: Vec<Source>,
    lists: EnvLists,
    dir: Option<PathBuf>,
    absence: Option<String>,
    text: String,
    pub(super) digest: Sha256,
}

#[derive(Debug, PartialEq, Eq)]
struct Source {
    name: String,
    path: PathBuf,
    text: String,
}

impl Sources {
    /// Reads the files of a folder. They are read twice, until both readings are the same, so that a folder in the
    /// middle of a change is not taken for a policy.
    pub(super) fn read(dir: &Path, lists: &EnvLists) -> Result<Self, LoadError> {
        let mut files = read_dir(dir)?;
        for _ in 0..10 {
            let again = read_dir(dir)?;
            if again == files {
                return Ok(Self::new(files, dir, lists));
            }
            files = again;
        }
        Err(LoadError::of_file(dir, "its files change while they are read", "replace them at once, by a rename"))
    }

    fn new(files: Option<Vec<Source>>, dir: &Path, lists: &EnvLists) -> Self {
        let absence = match &files {
            None => Some(format!("the policy folder {} does not exist", dir.display())),
            Some(files) if files.is_empty() => Some(format!("the policy folder {} has no *.toml file", dir.display())),
            Some(_) => None,
        };
        let files = files.unwrap_or_default();
        let mut text = String::new();
        for Source { name, text: body, .. } in &files {
            text += &format!("# ==> {name} ({} bytes)\n{body}\n", body.len());
        }
        if !lists.is_empty() {
            text += &format!("# ==> environment\n{}", lists.text());
        }
        let digest = Sha256::of(text.as_bytes());
        Self { files, lists: lists.clone(), dir: Some(dir.into()), absence, text, digest }
    }

    /// Whether the folder is there.
    pub(super) fn folder_exists(&self) -> bool {
        !self.files.is_empty() || self.dir.as_ref().is_some_and(|dir| dir.is_dir())
    }
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
        Self::from_sources(Sources::read(dir, lists)?)
    }

    /// The policy that `HF_REPOS` and `LICENSE_ALLOWLIST` are, without a folder.
    pub fn from_env_lists(lists: &EnvLists) -> Result<Self, LoadError> {
        let mut sources = Sources::new(None, Path::new("policy"), lists);
        sources.dir = None;
        Self::from_sources(sources)
    }

    pub(super) fn from_sources(sources: Sources) -> Result<Self, LoadError> {
        let Sources { files, lists, dir, absence, text, digest } = sources;
        let lists_are_the_policy = absence.as_ref().is_some_and(|_| files.is_empty() && lists.repos().is_some());
        let mut merge = Merge { digest, ..Merge::default() };
        for source in &files {
            merge.add(source)?;
        }
        if lists_are_the_policy {
            merge.licenses.allow.extend(lists.licenses().into_iter().flatten().cloned());
            merge.add_listed_repos(&lists)?;
        } else {
            merge.licenses.narrowed = lists.licenses().cloned();
        }
        let mut set = merge.finish(dir.as_deref().unwrap_or(Path::new("policy")))?;
        if !lists_are_the_policy {
            set.narrow(&lists)?;
            set.absence = absence;
        }
        Ok(Self { text, ..set })
    }

    /// Keeps, of each repo that the lists name with revisions, a rule for those only.
    fn narrow(&mut self, lists: &EnvLists) -> Result<(), LoadError> {
        self.narrowing = lists.narrowing();
        for (repo, revisions) in lists.repos().unwrap_or_default() {
            let id = repo.id().to_ascii_lowercase();
            let rule = self.allow_names.of(repo.kind()).find(&id).and_then(|index| self.rules.get(index));
            if let (Some(rule), false) = (rule, revisions.is_empty()) {
                let names = revisions.iter().map(|revision| revision.as_str().to_owned());
                let patterns = RefPatterns::new(names).map_err(|mistake| listed(&mistake))?;
                self.narrowed.insert((repo.kind(), id), rule.narrowed_to(patterns));
            }
        }
        Ok(())
    }
}

fn listed(mistake: &Mistake) -> LoadError {
    LoadError::of_environment("HF_REPOS", "", &mistake.problem, &mistake.remedy)
}

/// The files of a folder, merged so far.
struct Merge {
    rules: Vec<Rule>,
    denies: Vec<DenyRule>,
    licenses: LicensePolicy,
    unknown: Option<(Unknown, String)>,
    files_deny: Vec<String>,
    /// Where each rule name, and each pattern of allow rules, was seen first.
    names: HashMap<String, String>,
    patterns: HashMap<(RepoKind, String), String>,
    digest: Sha256,
}

impl Default for Merge {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            denies: Vec::new(),
            licenses: LicensePolicy::default(),
            unknown: None,
            files_deny: Vec::new(),
            names: HashMap::new(),
            patterns: HashMap::new(),
            digest: Sha256::of(b""),
        }
    }
}

impl Merge {
    fn add(&mut self, source: &Source) -> Result<(), LoadError> {
        let file: PolicyFile = toml::from_str(&source.text).map_err(|error| source.toml_error(&error))?;
        if let Some(licenses) = file.licenses {
            for id in &licenses.allow {
                self.licenses.allow.insert(source.allowed_license(id)?);
            }
            if let Some(unknown) = licenses.unknown {
                self.set_unknown(source, &unknown)?;
            }
        }
        for pattern in file.files.into_iter().flat_map(|files| files.deny) {
            self.files_deny.push(source.file_pattern("files.deny", &pattern)?);
        }
        for allow in file.allow {
            let rule = self.allow(source, allow)?;
            self.rules.push(rule);
        }
        for deny in file.deny {
            let deny = self.deny(source, deny)?;
            self.denies.push(deny);
        }
        Ok(())
    }

    fn set_unknown(&mut self, source: &Source, unknown: &Spanned<Unknown>) -> Result<(), LoadError> {
        let here = source.at(unknown.span());
        if let Some((before, there)) = &self.unknown
            && before != unknown.get_ref()
        {
            let problem = format!("{there} says otherwise");
            return Err(source.error(unknown.span(), "licenses.unknown", &problem, "say it once in the folder"));
        }
        self.licenses.unknown_is_allowed = *unknown.get_ref() == Unknown::Allow;
        self.unknown = Some((*unknown.get_ref(), here));
        Ok(())
    }

    fn allow(&mut self, source: &Source, allow: Spanned<Allow>) -> Result<Rule, LoadError> {
        let here = source.at(allow.span());
        let allow = allow.into_inner();
        let name = self.name(source, allow.name.as_ref(), &allow.repo)?;
        source.check("repo", &allow.repo, check_repo_pattern)?;
        let repo = allow.repo.get_ref().clone();
        if let Some(there) = self.patterns.insert((allow.kind, repo.to_ascii_lowercase()), here.clone()) {
            let problem = format!("{there} has a rule for the same {}", allow.kind);
            return Err(source.error(allow.repo.span(), "repo", &problem, "keep one of the two"));
        }
        let pin = allow.pin.as_ref().map(|pin| source.pin(pin, &repo)).transpose()?;
        let revisions = match &allow.revisions {
            None => None,
            Some(list) => Some(source.revisions(list, pin.is_some())?),
        };
        let patterns = |key: &str, list: &[Spanned<String>]| {
            let patterns = list.iter().map(|pattern| source.file_pattern(key, pattern));
            let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
            FilePatterns::new(patterns)
                .map_err(|mistake| LoadError::of_file(&source.path, mistake.problem, mistake.remedy))
        };
        let files = FileRules {
            deny: Arc::default(),
            include: patterns("files.include", &allow.files.include)?,
            exclude: patterns("files.exclude", &allow.files.exclude)?,
            allow: patterns("files.allow", &allow.files.allow)?,
        };
        let accepted_licenses =
            allow.license.accept.iter().map(|id| source.accepted_license(id)).collect::<Result<_, _>>()?;
        Ok(Rule {
            name,
            repo,
            kind: allow.kind,
            pin,
            ranges: allow.ranges,
            gated: allow.gated,
            max_file_size: allow.max_file_size.as_ref().map(|size| source.size(size)).transpose()?,
            upstream_id: allow.upstream_id.as_ref().map(|id| source.upstream_id(id)).transpose()?,
            approved_by: allow.approved_by,
            ticket: allow.ticket,
            expires: allow.expires.as_ref().map(|date| source.date(date)).transpose()?,
            source: here,
            policy_sha256: self.digest,
            revisions,
            narrowed: None,
            files,
            accepted_licenses,
        })
    }

    fn deny(&mut self, source: &Source, deny: Spanned<Deny>) -> Result<DenyRule, LoadError> {
        let here = source.at(deny.span());
        let deny = deny.into_inner();
        source.check("repo", &deny.repo, check_repo_pattern)?;
        let name = match &deny.name {
            Some(name) => self.name(source, Some(name), &deny.repo)?,
            None => format!("deny {}", deny.repo.get_ref()),
        };
        Ok(DenyRule { name, repo: deny.repo.into_inner(), kind: deny.kind, reason: deny.reason, source: here })
    }

    /// A rule's name, which no other has.
    fn name(
        &mut self,
        source: &Source,
        name: Option<&Spanned<String>>,
        repo: &Spanned<String>,
    ) -> Result<String, LoadError> {
        let Some(spanned) = name else { return Ok(repo.get_ref().clone()) };
        let name = spanned.get_ref();
        if name.is_empty() || name.len() > 100 || !name.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            let remedy = "write 1 to 100 printable ASCII characters: it is shown in HTTP headers";
            return Err(source.error(spanned.span(), "name", "not a name for a rule", remedy));
        }
        if let Some(there) = self.names.insert(name.clone(), source.at(spanned.span())) {
            let problem = format!("{there} has a rule of this name");
            return Err(source.error(spanned.span(), "name", &problem, "give each rule a name of its own"));
        }
        Ok(name.clone())
    }

    fn add_listed_repos(&mut self, lists: &EnvLists) -> Result<(), LoadError> {
        for (repo, revisions) in lists.repos().unwrap_or_default() {
            let pin = match revisions.as_slice() {
                [revision] => revision.as_commit(),
                _ => None,
            };
            let names = || revisions.iter().map(|revision| revision.as_str().to_owned());
            let listed_revisions = match pin {
                None if !revisions.is_empty() => Some(RefPatterns::new(names()).map_err(|mistake| listed(&mistake))?),
                _ => None,
            };
            self.rules.push(Rule {
                name: format!("HF_REPOS {repo}"),
                repo: repo.id().to_owned(),
                kind: repo.kind(),
                pin,
                ranges: Ranges::default(),
                gated: false,
                max_file_size: None,
                upstream_id: None,
                approved_by: None,
                ticket: None,
                expires: None,
                source: "HF_REPOS".into(),
                policy_sha256: self.digest,
                revisions: listed_revisions,
                narrowed: None,
                files: FileRules {
                    deny: Arc::default(),
                    allow: FilePatterns::default(),
                    exclude: FilePatterns::default(),
                    include: FilePatterns::default(),
                },
                accepted_licenses: Vec::new(),
            });
        }
        Ok(())
    }

    fn finish(mut self, dir: &Path) -> Result<PolicySet, LoadError> {
        let too_large = |mistake: Mistake| LoadError::of_file(dir, mistake.problem, mistake.remedy);
        let deny_files = Arc::new(FilePatterns::new(self.files_deny.iter().cloned()).map_err(too_large)?);
        for rule in &mut self.rules {
            rule.files.deny = Arc::clone(&deny_files);
        }
        let rules = &self.rules;
        let allow_names = PerKind::try_new(|kind| {
            RepoPatterns::new(
                rules.iter().enumerate().filter(|(_, rule)| rule.kind == kind).map(|(i, rule)| (rule.repo.as_str(), i)),
            )
        });
        let denies = &self.denies;
        let deny_names = PerKind::try_new(|kind| {
            let of_kind = denies.iter().enumerate().filter(|(_, deny)| deny.kind.is_none_or(|only| only == kind));
            RepoPatterns::new(of_kind.map(|(i, deny)| (deny.repo.as_str(), i)))
        });
        Ok(PolicySet {
            allow_names: allow_names.map_err(too_large)?,
            deny_names: deny_names.map_err(too_large)?,
            rules: self.rules.into_iter().map(Arc::new).collect(),
            denies: self.denies,
            licenses: self.licenses,
            files_deny: self.files_deny,
            narrowing: EnvLists::default().narrowing(),
            narrowed: HashMap::new(),
            text: String::new(),
            digest: self.digest,
            absence: None,
        })
    }
}

/// Reading single values, with errors that point at them.
impl Source {
    fn line(&self, span: &Range<usize>) -> usize {
        self.text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1
    }

    fn at(&self, span: Range<usize>) -> String {
        format!("{}:{}", self.name, self.line(&span))
    }

    fn excerpt(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let short: String = line.chars().take(80).collect();
        if short.len() < text.len() { format!("{short}...") } else { short }
    }

    fn error(&self, span: Range<usize>, key: &str, problem: &str, remedy: &str) -> LoadError {
        LoadError {
            file: self.path.clone(),
            line: Some(self.line(&span)),
            key: key.into(),
            value: self.excerpt(&span),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// What the TOML reader found: bad syntax, an unknown key, a missing one, a value of another type.
    fn toml_error(&self, error: &toml::de::Error) -> LoadError {
        let message = error.message().replace('\n', " ");
        let (problem, remedy) = match message.split_once(", expected") {
            Some((problem, expected)) => (problem.to_owned(), format!("expected{expected}")),
            None => (message, "see the README.md of the shipped policy folder for all keys".to_owned()),
        };
        let Some(span) = error.span() else { return LoadError::of_file(&self.path, problem, remedy) };
        let start = span.start.min(self.text.len());
        let line_start = self.text.get(..start).and_then(|text| text.rfind('\n')).map_or(0, |newline| newline + 1);
        let before = self.text.get(line_start..start).unwrap_or_default();
        let key = before.split_once('=').map_or("", |(key, _)| key.trim());
        self.error(span, key, &problem, &remedy)
    }

    fn check(
        &self,
        key: &str,
        value: &Spanned<String>,
        check: impl FnOnce(&str) -> Result<(), Mistake>,
    ) -> Result<(), LoadError> {
        check(value.get_ref()).map_err(|mistake| self.error(value.span(), key, &mistake.problem, &mistake.remedy))
    }

    fn file_pattern(&self, key: &str, pattern: &Spanned<String>) -> Result<String, LoadError> {
        self.check(key, pattern, |text| file_glob(text).map(|_| ()))?;
        Ok(pattern.get_ref().clone())
    }

    fn pin(&self, pin: &Spanned<String>, repo: &str) -> Result<Commit, LoadError> {
        if !is_literal(repo) {
            let remedy = "write a rule with the repo's id in full";
            return Err(self.error(pin.span(), "pin", "one commit can't be the pin of many repos", remedy));
        }
        pin.get_ref().parse().map_err(|_| {
            let remedy = "write the full sha of the reviewed commit, 40 hex digits";
            self.error(pin.span(), "pin", "not a commit", remedy)
        })
    }

    fn revisions(&self, list: &Spanned<Vec<Spanned<String>>>, is_pinned: bool) -> Result<RefPatterns, LoadError> {
        if list.get_ref().is_empty() {
            let remedy = "leave the key out for all branches and tags, or use a [[deny]]";
            return Err(self.error(list.span(), "revisions", "names no revision", remedy));
        }
        for pattern in list.get_ref() {
            let of_one = self.ref_patterns(pattern.span(), std::slice::from_ref(pattern))?;
            if is_pinned && of_one.name_special_refs() {
                let problem = "a pin is for branches and tags, and this names another ref";
                return Err(self.error(pattern.span(), "revisions", problem, "leave out one of the two"));
            }
        }
        self.ref_patterns(list.span(), list.get_ref())
    }

    fn ref_patterns(&self, span: Range<usize>, list: &[Spanned<String>]) -> Result<RefPatterns, LoadError> {
        if let Some(empty) = list.iter().find(|pattern| pattern.get_ref().trim().is_empty()) {
            return Err(self.error(empty.span(), "revisions", "an empty pattern", "write a name or a glob such as v*"));
        }
        RefPatterns::new(list.iter().map(|pattern| pattern.get_ref().clone()))
            .map_err(|mistake| self.error(span, "revisions", &mistake.problem, &mistake.remedy))
    }

    fn size(&self, size: &Spanned<toml::Value>) -> Result<u64, LoadError> {
        let bytes = match size.get_ref() {
            toml::Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            toml::Value::String(text) => text.trim().parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            _ => None,
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
            let remedy = "write a number of bytes or a text with a unit, such as \"50 GB\" or \"512 MiB\"";
            self.error(size.span(), "max_file_size", "not a size above zero", remedy)
        })
    }

    fn date(&self, date: &Spanned<toml::Value>) -> Result<Date, LoadError> {
        let text = match date.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Datetime(date) => date.to_string(),
            _ => String::new(),
        };
        Date::parse(&text, &Iso8601::DATE).map_err(|_| {
            let remedy = "write the last day on which the rule holds as \"YYYY-MM-DD\"";
            self.error(date.span(), "expires", "not a date", remedy)
        })
    }

    fn upstream_id(&self, id: &Spanned<String>) -> Result<String, LoadError> {
        let text = id.get_ref().trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            let remedy = "write the _id that the Hub's API shows for the repo";
            return Err(self.error(id.span(), "upstream_id", "not an id of the Hub", remedy));
        }
        Ok(text.to_owned())
    }

    fn accepted_license(&self, id: &Spanned<String>) -> Result<LicenseId, LoadError> {
        let license = LicenseId::new(id.get_ref());
        if license.as_str().is_empty() || license.as_str() == "other:" || license.as_str().contains(char::is_control) {
            let remedy = "write an id such as apache-2.0, or other:NAME for a custom licence";
            return Err(self.error(id.span(), "license.accept", "not a licence", remedy));
        }
        Ok(license)
    }

    fn allowed_license(&self, id: &Spanned<String>) -> Result<LicenseId, LoadError> {
        let license = LicenseId::new(id.get_ref());
        let (problem, remedy) = match license.as_str() {
            "" | "other:" => ("not a licence", "write an id such as apache-2.0"),
            "other" => {
                ("names no licence: every custom one is called so", "write other:NAME, or license.accept in one rule")
            }
            "unknown" => ("names no licence", "write unknown = \"allow\" if that is meant"),
            _ => return Ok(license),
        };
        Err(self.error(id.span(), "licenses.allow", problem, remedy))
    }
}
