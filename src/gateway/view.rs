//! What an asker may see of a commit: policy's decision on its facts, and on its tree once that is here.

use std::sync::Arc;

use time::{Date, OffsetDateTime};

use super::{
    Asker, File, Gateway, Result,
    commit::Resolved,
    grant::Grant,
    known::Known,
    limits::Fare,
    snapshot::{Facts, Snapshot},
};
use crate::{
    hub::{Commit, Repo, RepoPath, Revision, Sha256},
    policy::{self, Denial, LicenseClaims, PolicySet, Rule},
    upstream::OnGone,
};

/// A commit that policy lets the asker see.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) resolved: Resolved,
    pub(super) known: Known,
    pub(super) grant: Arc<Grant>,
}

/// A repo under the name that was asked, put to one state of the policy on one day.
pub(super) struct Question<'a> {
    pub(super) policy: Arc<PolicySet>,
    /// The rule that speaks for that name.
    pub(super) rule: Arc<Rule>,
    pub(super) asked: &'a Repo,
    pub(super) today: Date,
}

/// Under which policy, on which day, of which repo as asked, as stored and as upstream calls it now, at which commit, by
/// the facts of which look, and whether the whole tree was at hand.
pub(super) type VerdictKey = (Sha256, Date, [Repo; 3], Commit, String, bool);

/// A commit as it was asked, and the day.
pub(super) type ViewKey = (Repo, Commit, Date);

/// A decision on a commit, kept while all that it depends on is the same.
pub(super) type Verdict = std::result::Result<Arc<Grant>, Denial>;

impl Gateway {
    /// Puts a repo to the policy in force.
    pub(super) fn question<'a>(&self, asked: &'a Repo) -> Result<Question<'a>> {
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        let rule = policy.decide_repo(asked, today).map_err(|denial| self.denied(&denial))?;
        Ok(Question { policy, rule, asked, today })
    }

    /// Whether a rule speaks for a repo: the part of the decision that costs nothing.
    pub fn names(&self, asked: &Repo) -> Result<()> {
        self.question(asked).map(drop)
    }

    /// Policy, revision, facts: everything up to the tree.
    pub(super) async fn view(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<View> {
        // A client asks for many files of one commit in a row.
        let commit = revision.as_commit().filter(|_| self.config.on_gone == OnGone::Serve);
        let Some(commit) = commit else { return Box::pin(self.view_anew(asker, asked, revision)).await };
        let name = (asked.clone(), commit, OffsetDateTime::now_utc().date());
        if let Some(view) = self.views.get(&name).await
            && view.grant.policy.digest() == self.policy.current().digest()
        {
            return Ok(View::clone(&view));
        }
        let anew = async {
            let view = self.view_anew(asker, asked, revision).await?;
            if matches!(view.known, Known::Whole(_)) && !view.resolved.stale {
                self.views.insert(name, Arc::new(view.clone())).await;
            }
            Ok(view)
        };
        Box::pin(anew).await
    }

    /// Whether a file that was found on that day, a moment ago, would be found the same now.
    pub fn shows_still(&self, file: &File, day: Date) -> bool {
        self.config.on_gone == OnGone::Serve
            && !file.stale
            && file.grant.policy.digest() == self.policy.current().digest()
            && OffsetDateTime::now_utc().date() == day
    }

    async fn view_anew(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<View> {
        let question = self.question(asked)?;
        let resolved = self.resolve(asker, &question.rule, asked, revision).await?;
        let known = self.known(asker, &resolved).await?;
        let grant = self.grant(&question, &resolved, &known).await?;
        Ok(View { resolved, known, grant })
    }

    /// Whether policy, as it is now, allows a repo under the name that was asked and the one that upstream uses.
    pub(super) fn allow_names(&self, asked: &Repo, canonical: &Repo) -> Result<()> {
        if asked.same_name(canonical) {
            return Ok(());
        }
        let (policy, today) = (self.policy.current(), OffsetDateTime::now_utc().date());
        policy.decide_names(asked, canonical, today).map(drop).map_err(|denial| self.denied(&denial))
    }

    /// A view that was decided with the tree at hand, if the tree comes soon: only with it does policy know
    /// whether any weights would be left.
    pub(super) async fn settled_view(&self, asker: &Asker, asked: &Repo, revision: &Revision) -> Result<View> {
        let view = self.view(asker, asked, revision).await?;
        if matches!(view.known, Known::Whole(_)) {
            return Ok(view);
        }
        Box::pin(self.wait_to_settle(asker, asked, view)).await
    }

    pub(super) async fn wait_to_settle(&self, asker: &Asker, asked: &Repo, view: View) -> Result<View> {
        match self.settled(asker, &view.known).await? {
            None => Ok(view),
            Some(Known::Whole(snapshot)) => self.redecided(asked, view, snapshot).await,
            Some(known) => Ok(View { known, ..view }),
        }
    }

    /// The same view with the whole snapshot.
    pub(super) async fn redecided(&self, asked: &Repo, view: View, snapshot: Arc<Snapshot>) -> Result<View> {
        let (resolved, known) = (view.resolved, Known::Whole(snapshot));
        let grant = self.grant(&self.question(asked)?, &resolved, &known).await?;
        Ok(View { resolved, known, grant })
    }

    /// The decision on a commit's facts.
    pub(super) async fn grant(
        &self,
        question: &Question<'_>,
        resolved: &Resolved,
        known: &Known,
    ) -> Result<Arc<Grant>> {
        let whole = matches!(known, Known::Whole(_));
        let names = [question.asked.clone(), resolved.repo.clone(), self.called(question.asked).await?];
        let looked_at = known.facts().looked_at.clone();
        let name = (question.policy.digest(), question.today, names, resolved.commit, looked_at, whole);
        let verdict = match self.verdicts.get(&name).await {
            Some(verdict) => verdict,
            None => {
                // A decision on a large tree reads all of it: once for all who ask, and behind those who can't wait.
                let work = || {
                    let (gateway, name) = (self.clone(), name.clone());
                    let (policy, rule, asked) =
                        (question.policy.clone(), question.rule.clone(), question.asked.clone());
                    let (today, resolved, known) = (question.today, resolved.clone(), known.clone());
                    async move {
                        let question = Question { policy, rule, asked: &asked, today };
                        let verdict = gateway.decide(&question, &resolved, &known).await?;
                        gateway.verdicts.insert(name, verdict.clone()).await;
                        Ok(verdict)
                    }
                };
                Box::pin(self.verdict_flights.join(name.clone(), Fare::free(), work)).await?
            }
        };
        verdict.map_err(|denial| self.denied(&denial))
    }

    async fn decide(&self, question: &Question<'_>, resolved: &Resolved, known: &Known) -> Result<Verdict> {
        let Question { policy, rule, asked, today } = question;
        let facts = self.policy_facts(asked, resolved, known.facts()).await?;
        let approved = match policy.decide_facts(rule, asked, &facts, *today) {
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
        let upstream_id = facts.identity.id.clone();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; ").into());
        let asked = Repo::clone(asked);
        Ok(Ok(Arc::new(Grant { asked, facts, approved, policy: policy.clone(), upstream_id, warning })))
    }

    /// Upstream's facts as policy asks for them, of a repo that was asked for under this name.
    pub(super) async fn policy_facts(
        &self,
        asked: &Repo,
        resolved: &Resolved,
        facts: &Facts,
    ) -> Result<policy::RepoFacts> {
        let identity =
            |of: &super::identity::Identity| policy::Identity { id: of.upstream_id.clone(), author: of.author.clone() };
        let text = |field: &str| facts.info.get(field).and_then(|value| value.as_str()).map(ToOwned::to_owned);
        let flag = |field: &str| {
            facts
                .info
                .get(field)
                .is_some_and(|value| !matches!(value, serde_json::Value::Bool(false) | serde_json::Value::Null))
        };
        let mut first_seen = Vec::new();
        for name in [asked, &resolved.repo] {
            first_seen.extend(self.identities.of(name).await?.as_deref().map(identity));
        }
        Ok(policy::RepoFacts {
            canonical: self.called(asked).await?,
            commit: resolved.commit,
            identity: policy::Identity { id: text("_id"), author: text("author") },
            first_seen,
            gated: flag("gated"),
            private: flag("private"),
            disabled: flag("disabled"),
            license: LicenseClaims::of_kept(facts.front_matter.as_deref(), &facts.info),
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
}
