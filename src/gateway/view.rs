//! What an asker may see of a commit: its facts, the decision on them, and its tree.
//!
//! Facts and tree are looked at upstream once and answered from the snapshot from then on. While a large
//! tree is still coming in, single files are asked for by name, so that the first answer need not wait.

use std::{collections::HashMap, sync::Arc, time::Duration};

use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Asker, Error, Gateway, Result,
    commit::{Resolved, from_upstream},
    grant::Grant,
    snapshot::{BadSnapshot, Bounds, Facts, Snapshot, gather, readme_front_matter},
};
use crate::{
    hub::{Commit, Repo, RepoPath, Revision, Sha256, TreeNode},
    policy::{self, Denial, LicenseClaims, PolicySet, Rule},
    upstream::{Look, Purpose},
};

/// How long a question about one file waits for the whole tree.
const TREE_PATIENCE: Duration = Duration::from_millis(1500);

/// The same where the info says nothing of the files, as that of a large repo: the tree will take long.
const LARGE_TREE_PATIENCE: Duration = Duration::from_millis(50);

/// More siblings than this come cut from the Hub, and say nothing about the tree.
const MAX_WHOLE_SIBLINGS: usize = 40_000;

/// A commit that policy lets the asker see.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) resolved: Resolved,
    pub(super) known: Known,
    pub(super) grant: Arc<Grant>,
}

/// What is known of a commit.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Everything, stored.
    Whole(Arc<Snapshot>),
    /// The facts; the tree is on its way or too large to keep.
    Facts(Arc<Fresh>),
}

/// Facts that are not stored yet: they are written after the tree.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) facts: Arc<Facts>,
    /// The info's file list, where it came whole.
    pub(super) siblings: Option<Vec<String>>,
}

/// Under which policy, on which day, of which repo as asked and as upstream calls it now, at which commit, and
/// whether the whole tree was at hand.
pub(super) type VerdictKey = (Sha256, Date, Repo, Repo, Commit, bool);

/// A decision on a commit, kept while all that it depends on is the same.
pub(super) type Verdict = std::result::Result<Arc<Grant>, Denial>;

impl Known {
    pub(super) fn facts(&self) -> &Arc<Facts> {
        match self {
            Self::Whole(snapshot) => &snapshot.facts,
            Self::Facts(fresh) => &fresh.facts,
        }
    }
}

impl Gateway {
    /// Policy, revision, facts: everything up to the tree.
    pub(super) async fn view(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<View> {
        let policy = self.policy.current();
        let today = OffsetDateTime::now_utc().date();
        let rule = policy.decide_repo(asked, today).map_err(|denial| self.denied(&denial))?;
        let resolved = self.resolve(asker, &rule, asked, revision).await?;
        if !asked.same_name(&resolved.repo) {
            // A renamed repo is asked about no further under a name that policy does not allow (I1).
            policy.decide_names(asked, &resolved.repo, today).map_err(|denial| self.denied(&denial))?;
        }
        let known = self.known(asker, &resolved).await?;
        let grant = self.grant(&policy, &rule, asked, &resolved, &known, today).await?;
        Ok(View { resolved, known, grant })
    }

    /// A view that was decided with the tree at hand, if the tree comes soon: only with it does policy know
    /// whether any weights would be left.
    pub(super) async fn settled_view(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<View> {
        let view = self.view(asker, asked, revision).await?;
        let patience = match &view.known {
            Known::Whole(_) => return Ok(view),
            Known::Facts(fresh) if fresh.siblings.is_some() => TREE_PATIENCE,
            Known::Facts(_) => LARGE_TREE_PATIENCE,
        };
        match tokio::time::timeout(patience, self.whole(asker, &view.known)).await {
            Ok(Ok(snapshot)) => self.redecided(asked, view, snapshot).await,
            Err(_) | Ok(Err(Error::TooMany(_))) => Ok(view),
            Ok(Err(error)) => Err(error),
        }
    }

    /// The same view with the whole snapshot.
    pub(super) async fn redecided(&self, asked: &Repo, view: View, snapshot: Arc<Snapshot>) -> Result<View> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let rule = policy.decide_repo(asked, today).map_err(|denial| self.denied(&denial))?;
        let (resolved, known) = (view.resolved, Known::Whole(snapshot));
        let grant = self.grant(&policy, &rule, asked, &resolved, &known, today).await?;
        Ok(View { resolved, known, grant })
    }

    /// The decision on a commit's facts.
    pub(super) async fn grant(
        &self,
        policy: &Arc<PolicySet>,
        rule: &Arc<Rule>,
        asked: &Repo,
        resolved: &Resolved,
        known: &Known,
        today: Date,
    ) -> Result<Arc<Grant>> {
        let whole = matches!(known, Known::Whole(_));
        let name = (policy.digest(), today, asked.clone(), resolved.repo.clone(), resolved.commit, whole);
        let verdict = match self.verdicts.get(&name).await {
            Some(verdict) => verdict,
            None => {
                let verdict = self.decide(policy, rule, asked, resolved, known, today).await?;
                self.verdicts.insert(name, verdict.clone()).await;
                verdict
            }
        };
        verdict.map_err(|denial| self.denied(&denial))
    }

    async fn decide(
        &self,
        policy: &Arc<PolicySet>,
        rule: &Arc<Rule>,
        asked: &Repo,
        resolved: &Resolved,
        known: &Known,
        today: Date,
    ) -> Result<Verdict> {
        let facts = self.policy_facts(resolved, known.facts()).await?;
        let approved = match policy.decide_facts(rule, asked, &facts, today) {
            Ok(approved) => approved,
            Err(denial) => return Ok(Err(denial)),
        };
        let mut warnings: Vec<String> = approved.warning.clone().into_iter().collect();
        if let Known::Whole(snapshot) = known {
            let files = self.all_files(snapshot).await?;
            if let Some(denial) = approved.rule.hides_all_weights(&files) {
                return Ok(Err(denial));
            }
            warnings.extend(approved.rule.withheld(&files));
        }
        let upstream_id = facts.identity.id;
        let warning = (!warnings.is_empty()).then(|| warnings.join("; ").into());
        let (policy, revision) = (policy.clone(), resolved.revision.clone());
        Ok(Ok(Arc::new(Grant { approved, policy, upstream_id, revision, warning })))
    }

    /// Upstream's facts as policy asks for them.
    pub(super) async fn policy_facts(&self, resolved: &Resolved, facts: &Facts) -> Result<policy::RepoFacts> {
        let identity =
            |of: &super::identity::Identity| policy::Identity { id: of.upstream_id.clone(), author: of.author.clone() };
        let text = |field: &str| facts.info.get(field).and_then(|value| value.as_str()).map(ToOwned::to_owned);
        let flag = |field: &str| {
            facts
                .info
                .get(field)
                .is_some_and(|value| !matches!(value, serde_json::Value::Bool(false) | serde_json::Value::Null))
        };
        let first_seen = self.identities.of(&resolved.repo).await?;
        Ok(policy::RepoFacts {
            canonical: resolved.repo.clone(),
            commit: resolved.commit,
            identity: policy::Identity { id: text("_id"), author: text("author") },
            first_seen: first_seen.as_deref().map(identity),
            gated: flag("gated"),
            private: flag("private"),
            disabled: flag("disabled"),
            license: LicenseClaims::read(facts.front_matter.as_deref().map(str::as_bytes), &facts.info),
        })
    }

    async fn all_files(&self, snapshot: &Snapshot) -> Result<Vec<RepoPath>> {
        let mut files = Vec::with_capacity(snapshot.index.files);
        for number in 0..snapshot.index.pieces() {
            let piece = self.snapshots.piece(snapshot, number).await?;
            files.extend(piece.nodes.iter().filter(|node| !node.folder).map(|node| node.path.clone()));
        }
        Ok(files)
    }

    /// The snapshot, or the facts of a commit that has none yet.
    pub(super) async fn known(&self, asker: &Asker, resolved: &Resolved) -> Result<Known> {
        let (repo, commit) = (&resolved.repo, resolved.commit);
        if let Some(snapshot) = self.snapshots.find(repo, commit).await? {
            return Ok(Known::Whole(snapshot));
        }
        let name = (repo.clone(), commit);
        if let Some(fresh) = self.fresh.get(&name).await {
            return Ok(Known::Facts(fresh));
        }
        let purpose = asker.purpose();
        if !self.infos.contains_key(&name) {
            self.limits.admit(asker).await?;
        }
        let work = || {
            let (gateway, (repo, commit)) = (self.clone(), name.clone());
            async move { gateway.learn_facts(repo, commit, purpose).await }
        };
        Ok(Known::Facts(self.facts_flights.join(name.clone(), work).await?))
    }

    /// Keeps a look's info for the question about facts that follows it.
    pub(super) async fn remember_info(&self, look: Look) {
        let mut info = look.info;
        info.siblings = info.siblings.filter(|list| is_whole(list.len()));
        self.infos.insert((look.repo, look.commit), Arc::new(info)).await;
    }

    pub(super) async fn learn_facts(self, repo: Repo, commit: Commit, purpose: Purpose) -> Result<Arc<Fresh>> {
        let name = (repo.clone(), commit);
        let failed = |error| from_upstream(error, &repo, &commit.into());
        let info = match self.infos.get(&name).await {
            Some(info) => info,
            None => {
                let look = self.upstream.look(&repo, &commit.into(), purpose).await;
                self.note_outage(look.as_ref().err());
                Arc::new(look.map_err(failed)?.info)
            }
        };
        let readme = self.upstream.readme(&repo, commit, purpose).await.map_err(failed)?;
        let siblings = info.siblings.as_ref().filter(|list| is_whole(list.len()));
        let fresh = Arc::new(Fresh {
            facts: Arc::new(Facts {
                repo: repo.clone(),
                commit,
                looked_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
                info: info.facts.clone(),
                front_matter: readme.as_deref().and_then(readme_front_matter),
            }),
            siblings: siblings.map(|list| list.iter().map(|sibling| sibling.rfilename.clone()).collect()),
        });
        self.fresh.insert(name, fresh.clone()).await;
        Ok(fresh)
    }

    /// The whole snapshot, learned if need be.
    pub(super) async fn whole(&self, asker: &Asker, known: &Known) -> Result<Arc<Snapshot>> {
        let fresh = match known {
            Known::Whole(snapshot) => return Ok(snapshot.clone()),
            Known::Facts(fresh) => fresh.clone(),
        };
        let name = (fresh.facts.repo.clone(), fresh.facts.commit);
        for refused in [&self.too_large, &self.insane] {
            if let Some(error) = refused.get(&name).await {
                return Err(error);
            }
        }
        let purpose = asker.purpose();
        let work = || {
            let gateway = self.clone();
            async move {
                // It may have been learned since the asker looked.
                match gateway.snapshots.find(&fresh.facts.repo, fresh.facts.commit).await? {
                    Some(snapshot) => Ok(snapshot),
                    None => gateway.learn_tree(fresh, purpose).await,
                }
            }
        };
        self.tree_flights.join(name, work).await
    }

    pub(super) async fn learn_tree(self, fresh: Arc<Fresh>, purpose: Purpose) -> Result<Arc<Snapshot>> {
        let (repo, commit) = (&fresh.facts.repo, fresh.facts.commit);
        let pages = self.upstream.tree(repo, commit, purpose);
        let name = (repo.clone(), commit);
        let bounds = Bounds { nodes: self.config.limits.tree_nodes, large: &self.large_trees };
        match gather(repo, commit, pages, fresh.siblings.as_deref(), bounds).await {
            Ok((nodes, _place)) => self.snapshots.keep(fresh.facts.clone(), nodes).await,
            Err(BadSnapshot::Upstream(error)) => {
                self.note_outage(Some(&error));
                Err(from_upstream(error, repo, &commit.into()))
            }
            Err(bad @ BadSnapshot::TooLarge { .. }) => {
                tracing::warn!(%repo, %commit, "{bad}");
                let error = Error::TooMany(bad.to_string());
                self.too_large.insert(name, error.clone()).await;
                Err(error)
            }
            Err(bad @ BadSnapshot::Insane { .. }) => {
                tracing::error!(%repo, %commit, error = %bad, "the commit's tree was not learned");
                let error = Error::Insane(bad.to_string());
                // Whichever of the two lied, both are asked again.
                self.infos.invalidate(&name).await;
                self.fresh.invalidate(&name).await;
                self.insane.insert(name, error.clone()).await;
                Err(error)
            }
        }
    }

    /// One file or folder of a commit.
    pub(super) async fn node(&self, asker: &Asker, view: &View, path: &RepoPath) -> Result<TreeNode> {
        let (repo, commit) = (view.resolved.repo.clone(), view.resolved.commit);
        let found = self.nodes(asker, view, std::slice::from_ref(path)).await?;
        found.into_iter().next().ok_or(Error::EntryNotFound { repo, commit })
    }

    /// Those of the paths that the commit has, in their order. While its tree is not here, they are asked for
    /// by name.
    pub(super) async fn nodes(&self, asker: &Asker, view: &View, paths: &[RepoPath]) -> Result<Vec<TreeNode>> {
        let Known::Whole(whole) = &view.known else { return self.single_nodes(asker, view, paths).await };
        let mut found = Vec::with_capacity(paths.len().min(1000));
        for path in paths {
            found.extend(self.snapshots.node(whole, path).await?);
        }
        Ok(found)
    }

    /// The same by asking for these paths alone.
    async fn single_nodes(&self, asker: &Asker, view: &View, paths: &[RepoPath]) -> Result<Vec<TreeNode>> {
        let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
        let name = |path: &RepoPath| (repo.clone(), commit, path.clone());
        let mut found: Vec<Option<TreeNode>> = Vec::with_capacity(paths.len().min(1000));
        for path in paths {
            found.push(self.single_nodes.get(&name(path)).await);
        }
        let unknown = paths.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(path, _)| path.clone());
        let unknown: Vec<RepoPath> = unknown.collect();
        if !unknown.is_empty() {
            self.limits.admit(asker).await?;
            let entries = self.upstream.paths_info(repo, commit, &unknown, asker.purpose()).await;
            let entries = entries.map_err(|error| from_upstream(error, repo, &commit.into()))?;
            let mut asked = HashMap::with_capacity(entries.len());
            for entry in entries {
                let node = entry.into_node().map_err(|masked| Error::Insane(format!("{repo}@{commit}: {masked}")))?;
                self.single_nodes.insert(name(&node.path), node.clone()).await;
                asked.insert(node.path.clone(), node);
            }
            for (found, path) in found.iter_mut().zip(paths) {
                if found.is_none() {
                    *found = asked.get(path).cloned();
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// Whether a list of so many siblings is all of them.
fn is_whole(siblings: usize) -> bool {
    (1..MAX_WHOLE_SIBLINGS).contains(&siblings)
}
