//! Whether a commit's file may be served where the rule says `hook = "required"`: only once the hook has passed on it.

use std::{sync::Arc, time::Duration};

use super::{Asker, Gateway, Resolved, Result, view::View};
use crate::{
    hooks::{Evidence, Verdict},
    hub::{BlobId, RepoPath},
    policy::{Denial, HookDemand, Rule},
};

/// How long the hook's last word on a commit is believed: another replica may have run it meanwhile.
pub(super) const VERDICT_TTL: Duration = Duration::from_secs(5);

impl Gateway {
    /// Refuses where the rule asks for a hook that has not passed on this file: what it was shown may have been less than
    /// the commit, by a mirror's selection or by the policy of that day. Our own jobs, which fetch the commit so that the
    /// hook can see it, are let through: they give nothing to anybody.
    pub(super) async fn hook_admits(&self, asker: &Asker, view: &View, path: &RepoPath, blob: &BlobId) -> Result<()> {
        let rule = &view.grant.approved.rule;
        if rule.hook == HookDemand::Optional || asker.background {
            return Ok(());
        }
        let refused = Box::pin(self.hook_refuses(rule, &view.resolved, path, blob)).await?;
        refused.map_or(Ok(()), |denial| Err(self.denied(&denial)))
    }

    /// Why a file is refused under a rule that asks for the hook, if it is.
    pub(super) async fn hook_refuses(
        &self,
        rule: &Rule,
        resolved: &Resolved,
        path: &RepoPath,
        blob: &BlobId,
    ) -> Result<Option<Denial>> {
        let (repo, commit) = (&resolved.repo, resolved.commit);
        let name = (repo.clone(), commit);
        let newest = match self.hook_runs.get(&name).await {
            Some(newest) => newest,
            None => {
                let newest = Evidence::new(self.store.clone()).newest(repo, commit).await?;
                let newest = newest.map(Arc::new);
                self.hook_runs.insert(name, newest.clone()).await;
                newest
            }
        };
        let why = match newest.as_ref().map(|run| (run.verdict(), run.covers(path, blob))) {
            Some((Verdict::Passed, true)) => return Ok(None),
            Some((Verdict::Passed, false)) => format!("its last run was not shown {path}"),
            Some((Verdict::Failed(why), _)) => why,
            None => "it has not run on this commit yet".to_owned(),
        };
        Ok(Some(rule.hook_not_passed(repo.id(), commit, &why)))
    }
}
