//! What a repo names beyond itself, and what policy says to each: one list for one review.
//!
//! The small files that name others are read from the store or come by ordinary, verified fills. Of a repo that no
//! rule names nothing is asked upstream (I1); of one that is allowed, as much as a plan needs. Nothing of the named
//! repos is fetched but, where they are allowed, the same small files, since they may name more.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Gateway,
    named::{FILES, Named, named_in, named_in_card},
    plan::{FileState, Plan, Planned},
};
use crate::{
    gateway::{Asker, Error, Result},
    hub::{Repo, Revision},
    policy::Selection,
    store::Key,
};

/// A larger file is not read for the repos it may name.
const LARGEST_BYTES: u64 = 2 * 1024 * 1024;

/// How many repos are followed. A list that is longer says so.
const MOST: usize = 40;

/// The repos that one names, and those that they name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct References {
    /// Each once, in the order in which they were found.
    pub repos: Vec<Reference>,
    /// What could not be read, and so may name more; one sentence each.
    pub unread: Vec<String>,
}

/// A repo that another one names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name, as it was written.
    pub repo: Repo,
    /// The revision that is meant.
    pub revision: Revision,
    /// Where it is named.
    pub named_by: Vec<NamedBy>,
    /// What policy says.
    pub standing: Standing,
    /// Why it is denied, or not known.
    pub why: Option<String>,
    /// The licence, where it is allowed.
    pub licence: Option<String>,
    /// What all of it that is served takes, in bytes, where it is allowed.
    pub bytes: Option<u64>,
    /// What of that is stored here.
    pub stored_bytes: Option<u64>,
}

/// Where a repo is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBy {
    /// By which repo.
    pub repo: Repo,
    /// In which of its files.
    pub file: String,
    /// In which field.
    pub field: String,
}

/// What policy says of a named repo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It may come in.
    Allowed,
    /// It may not.
    Denied,
    /// A rule names it, but it could not be looked at, or there is none.
    Unknown,
}

impl Gateway {
    /// The repos that a planned one names, and what policy says of each.
    pub async fn references(&self, asker: &Asker, plan: &Plan) -> References {
        let mut found = References::default();
        let mut to_read = VecDeque::from([plan.clone()]);
        while let Some(plan) = to_read.pop_front() {
            let Ok(planned) = &plan.verdict else { continue };
            for (file, Named { repo, revision, field }) in self.named_by(asker, &plan, planned, &mut found.unread).await
            {
                let named_by = NamedBy { repo: planned.repo.clone(), file, field };
                if repo.same_name(&planned.repo) || repo.same_name(&plan.asked) {
                    continue;
                }
                if let Some(known) = found.repos.iter_mut().find(|known| known.repo.same_name(&repo)) {
                    known.named_by.push(named_by);
                    continue;
                }
                if found.repos.len() >= MOST {
                    found.unread.push(format!("more than {MOST} repos are named; {repo} is left out"));
                    continue;
                }
                let revision = revision.unwrap_or_else(Revision::main);
                let (reference, planned) = self.reference(asker, repo, revision, named_by).await;
                found.repos.push(reference);
                to_read.extend(planned);
            }
        }
        found
    }

    async fn reference(
        &self,
        asker: &Asker,
        repo: Repo,
        revision: Revision,
        named_by: NamedBy,
    ) -> (Reference, Option<Plan>) {
        let policy = self.policy.current();
        let plan = match policy.decide_repo(&repo, OffsetDateTime::now_utc().date()) {
            Err(denial) => Err(self.denied(&denial)),
            Ok(_) => Box::pin(self.plan(asker, &repo, &revision, &Selection::default())).await,
        };
        let mut reference = Reference {
            repo,
            revision,
            named_by: vec![named_by],
            standing: Standing::Denied,
            why: None,
            licence: None,
            bytes: None,
            stored_bytes: None,
        };
        match &plan {
            Ok(Plan { verdict: Ok(planned), .. }) => {
                let sums = planned.sums();
                reference.standing = Standing::Allowed;
                reference.licence = Some(planned.licence.clone());
                reference.bytes = Some(sums.stored.bytes + sums.here.bytes + sums.missing.bytes);
                reference.stored_bytes = Some(sums.stored.bytes);
            }
            Ok(Plan { verdict: Err(refusal), .. }) | Err(Error::Denied(refusal)) => {
                reference.why = Some(refusal.text.clone());
            }
            Err(error) => {
                reference.standing = Standing::Unknown;
                reference.why = Some(error.to_string());
            }
        }
        (reference, plan.ok().filter(|plan| plan.verdict.is_ok()))
    }

    /// What the files of one commit name, with the file's name.
    async fn named_by(
        &self,
        asker: &Asker,
        plan: &Plan,
        planned: &Planned,
        unread: &mut Vec<String>,
    ) -> Vec<(String, Named)> {
        let mut found = Vec::new();
        for file in FILES {
            match self.small_file(asker, plan, planned, file).await {
                Ok(Some(content)) => {
                    found.extend(named_in(file, &content).into_iter().map(|named| (file.to_owned(), named)));
                }
                Ok(None) => {}
                Err(error) => unread.push(format!("{}: {file}: {error}", planned.repo)),
            }
        }
        match self.snapshots.find(&planned.repo, planned.commit).await {
            Ok(snapshot) => {
                let card = snapshot.and_then(|snapshot| snapshot.facts.info.get("cardData").cloned());
                let named = card.as_ref().map(named_in_card).unwrap_or_default();
                found.extend(named.into_iter().map(|named| ("README.md".to_owned(), named)));
            }
            Err(error) => unread.push(format!("{}: README.md: {error}", planned.repo)),
        }
        found
    }

    /// A small JSON file of a planned commit, if it has one that clients get.
    async fn small_file(
        &self,
        asker: &Asker,
        plan: &Plan,
        planned: &Planned,
        name: &str,
    ) -> Result<Option<serde_json::Value>> {
        let Some(file) = planned.files.iter().find(|file| file.path.as_str() == name) else { return Ok(None) };
        if matches!(file.state, FileState::Withheld(_) | FileState::Refused(_)) {
            return Ok(None);
        }
        if file.size > LARGEST_BYTES {
            return Err(Error::TooMany(format!("larger than {LARGEST_BYTES} bytes, so not read")));
        }
        let brought = self.bring(asker, plan, planned, file, &|_| {}).await?;
        let content = self.store.get(&Key::blob(&brought.sha256), LARGEST_BYTES).await?;
        // Whatever else it is, it names nobody.
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }
}
