//! The files of a folder as one policy: names and patterns that must be one of a kind, and lists that add up.

use std::{collections::HashMap, path::Path, sync::Arc};

use toml::Spanned;

use super::{
    env_lists::EnvLists,
    files::FileRules,
    license::LicensePolicy,
    load_error::LoadError,
    mirror::{Mirror, Selection},
    overlay::{APPROVAL, WITHDRAWAL},
    pattern::{FilePatterns, Mistake, RefPatterns, RepoPatterns, check_repo_pattern, is_literal},
    rule::{HookDemand, Ranges, Rule},
    schema::{Allow, Deny, MirrorEntry, PolicyFile, Unknown},
    set::{DenyRule, PerKind, PolicySet},
    source::Source,
};
use crate::hub::{Commit, Repo, RepoKind, Revision, Sha256};

/// The files of a folder, merged so far.
pub(super) struct Merge {
    rules: Vec<Rule>,
    denies: Vec<DenyRule>,
    mirrors: Vec<Mirror>,
    pub(super) licenses: LicensePolicy,
    unknown: Option<(Unknown, String)>,
    files_deny: Vec<String>,
    /// Where each rule name, and each pattern of allow rules, was seen first.
    names: HashMap<String, String>,
    patterns: HashMap<(RepoKind, String), String>,
    denied_commits: HashMap<Commit, DenyRule>,
    denied_contents: HashMap<Sha256, DenyRule>,
    /// Whether operators' decisions are being merged, behind the folder.
    beyond_the_folder: bool,
    digest: Sha256,
}

impl Merge {
    /// Nothing yet; `digest` is that of the policy to be.
    pub(super) fn new(digest: Sha256) -> Self {
        Self {
            rules: Vec::new(),
            denies: Vec::new(),
            mirrors: Vec::new(),
            licenses: LicensePolicy::default(),
            unknown: None,
            files_deny: Vec::new(),
            names: HashMap::new(),
            patterns: HashMap::new(),
            denied_commits: HashMap::new(),
            denied_contents: HashMap::new(),
            beyond_the_folder: false,
            digest,
        }
    }

    pub(super) fn add(&mut self, source: &Source) -> Result<(), LoadError> {
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
            self.deny(source, deny)?;
        }
        for entry in file.mirror {
            let mirror = self.mirror(source, entry)?;
            self.mirrors.push(mirror);
        }
        Ok(())
    }

    /// Adds operators' decisions. Where a rule of the folder names a repo in full, it speaks, and an approval of that
    /// repo is left out.
    pub(super) fn add_overlay(&mut self, source: &Source) -> Result<(), LoadError> {
        self.beyond_the_folder = true;
        let file: PolicyFile = toml::from_str(&source.text).map_err(|error| source.toml_error(&error))?;
        for allow in file.allow {
            let pattern = (allow.get_ref().kind, allow.get_ref().repo.get_ref().to_ascii_lowercase());
            if !self.patterns.contains_key(&pattern) {
                let rule = self.allow(source, allow)?;
                self.rules.push(rule);
            }
        }
        for deny in file.deny {
            self.deny(source, deny)?;
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
            hook: allow.hook,
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
            locked: None,
            files,
            accepted_licenses,
        })
    }

    fn deny(&mut self, source: &Source, deny: Spanned<Deny>) -> Result<(), LoadError> {
        let (span, here) = (deny.span(), source.at(deny.span()));
        let deny = deny.into_inner();
        let (key, what) = match (&deny.repo, &deny.commit, &deny.sha256) {
            (Some(repo), None, None) => ("repo", repo),
            (None, Some(commit), None) => ("commit", commit),
            (None, None, Some(sha256)) => ("sha256", sha256),
            _ => {
                let remedy = "write one of repo, commit and sha256 in each [[deny]]";
                return Err(source.error(span, "", "a deny rule names one thing", remedy));
            }
        };
        if let (Some(_), false) = (deny.kind, key == "repo") {
            let remedy = "leave out kind, which is a repo's";
            return Err(source.error(what.span(), key, "is denied in repos of every kind", remedy));
        }
        let name = match &deny.name {
            Some(name) => self.name(source, Some(name), what)?,
            None => format!("deny {}", what.get_ref()),
        };
        let rule = DenyRule { name, repo: what.get_ref().clone(), kind: deny.kind, reason: deny.reason, source: here };
        match key {
            "repo" => {
                source.check("repo", what, check_repo_pattern)?;
                self.denies.push(rule);
            }
            "commit" => {
                let commit = what
                    .get_ref()
                    .parse()
                    .map_err(|_| source.error(what.span(), key, "not a commit", "write the full sha, 40 hex digits"))?;
                self.denied_commits.entry(commit).or_insert(rule);
            }
            _ => {
                let sha256 = what.get_ref().parse().map_err(|_| {
                    source.error(what.span(), key, "not a sha256", "write the 64 hex digits of the file's digest")
                })?;
                self.denied_contents.entry(sha256).or_insert(rule);
            }
        }
        Ok(())
    }

    fn mirror(&self, source: &Source, entry: Spanned<MirrorEntry>) -> Result<Mirror, LoadError> {
        let here = source.at(entry.span());
        let MirrorEntry { repo: name, kind, revisions, include, exclude } = entry.into_inner();
        let example = "write an id in full, such as org/name or datasets/org/name";
        let wrong = |problem: &str| source.error(name.span(), "repo", problem, example);
        if !is_literal(name.get_ref()) {
            return Err(wrong("an entry names one repo, and this is a pattern"));
        }
        let text = name.get_ref().strip_prefix("models/").unwrap_or(name.get_ref());
        let mut repo: Repo = text.parse().map_err(|error: crate::hub::ParseError| wrong(error.problem))?;
        if let Some(kind) = kind {
            let said_twice = repo.id() != text && repo.kind() != *kind.get_ref();
            if said_twice {
                let remedy = "leave out kind, or the prefix of repo";
                return Err(source.error(kind.span(), "kind", "repo says another kind", remedy));
            }
            repo = Repo::new(*kind.get_ref(), repo.id()).map_err(|error| wrong(error.problem))?;
        }
        let revisions = match &revisions {
            None => vec![Revision::main()],
            Some(list) if list.get_ref().is_empty() => {
                let remedy = "leave the key out for main";
                return Err(source.error(list.span(), "revisions", "names no revision", remedy));
            }
            Some(list) => list
                .get_ref()
                .iter()
                .map(|text| {
                    text.get_ref().parse().map_err(|error: crate::hub::ParseError| {
                        let remedy = "write branches, tags or full shas by their names";
                        source.error(text.span(), "revisions", error.problem, remedy)
                    })
                })
                .collect::<Result<Vec<Revision>, _>>()?,
        };
        let named = |mirror: &&Mirror| mirror.repo.same_name(&repo);
        if let Some(twin) = self
            .mirrors
            .iter()
            .filter(named)
            .find(|twin| twin.revisions.iter().any(|revision| revisions.contains(revision)))
        {
            let problem = format!("{} names a revision of {repo} that this does too", twin.source);
            return Err(source.error(name.span(), "repo", &problem, "keep one of the two"));
        }
        let globs = |key: &str, list: &[Spanned<String>]| {
            list.iter().map(|pattern| source.file_pattern(key, pattern)).collect::<Result<Vec<_>, _>>()
        };
        let selection = Selection::new(globs("include", &include)?, globs("exclude", &exclude)?)
            .map_err(|error| LoadError::of_file(&source.path, error.problem, error.remedy))?;
        Ok(Mirror { repo, revisions, selection, source: here })
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
        if !self.beyond_the_folder && (name.starts_with(APPROVAL) || name.starts_with(WITHDRAWAL)) {
            let problem =
                format!("{APPROVAL} and {WITHDRAWAL} begin the names that hubgate gives to what admins decide");
            return Err(source.error(spanned.span(), "name", &problem, "choose another name"));
        }
        if let Some(there) = self.names.insert(name.clone(), source.at(spanned.span())) {
            let problem = format!("{there} has a rule of this name");
            return Err(source.error(spanned.span(), "name", &problem, "give each rule a name of its own"));
        }
        Ok(name.clone())
    }

    pub(super) fn add_listed_repos(&mut self, lists: &EnvLists) -> Result<(), LoadError> {
        for (repo, revisions) in lists.repos().unwrap_or_default() {
            let pin = match revisions.as_slice() {
                [revision] => revision.as_commit(),
                _ => None,
            };
            let names = || revisions.iter().map(|revision| revision.as_str().to_owned());
            let listed_revisions = match pin {
                None if !revisions.is_empty() => {
                    Some(RefPatterns::new(names()).map_err(|mistake| LoadError::of_list("HF_REPOS", &mistake))?)
                }
                _ => None,
            };
            self.rules.push(Rule {
                name: format!("HF_REPOS {repo}"),
                repo: repo.id().to_owned(),
                kind: repo.kind(),
                pin,
                ranges: Ranges::default(),
                hook: HookDemand::default(),
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
                locked: None,
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

    pub(super) fn finish(mut self, dir: &Path) -> Result<PolicySet, LoadError> {
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
            mirrors: self.mirrors,
            denied_commits: self.denied_commits,
            denied_contents: self.denied_contents,
            licenses: self.licenses,
            files_deny: self.files_deny,
            narrowing: EnvLists::default().narrowing(),
            narrowed: HashMap::new(),
            lock: None,
            text: String::new(),
            digest: self.digest,
            absence: None,
        })
    }
}
