//! Whether a commit's files may be served where the rule says `hook = "required"`: only once the hook has passed.

use std::time::Duration;

use super::{Asker, Gateway, Result, view::View};
use crate::{
    hooks::{Evidence, Verdict},
    policy::HookDemand,
};

/// How long the hook's last word on a commit is believed: another replica may have run it meanwhile.
pub(super) const VERDICT_TTL: Duration = Duration::from_secs(5);

impl Gateway {
    /// Refuses where the rule asks for a hook that has not passed. Our own jobs, which fetch the commit so that the
    /// hook can see it, are let through: they give nothing to anybody.
    pub(super) async fn hook_admits(&self, asker: &Asker, view: &View) -> Result<()> {
        let rule = &view.grant.approved.rule;
        if rule.hook == HookDemand::Optional || asker.background {
            return Ok(());
        }
        Box::pin(self.hook_has_passed(view)).await
    }

    async fn hook_has_passed(&self, view: &View) -> Result<()> {
        let (repo, commit) = (&view.resolved.repo, view.resolved.commit);
        let name = (repo.clone(), commit);
        let verdict = match self.hook_verdicts.get(&name).await {
            Some(verdict) => verdict,
            None => {
                let newest = Evidence::new(self.store.clone()).newest(repo, commit).await?;
                let verdict = newest.map(|run| run.verdict());
                self.hook_verdicts.insert(name, verdict.clone()).await;
                verdict
            }
        };
        let why = match verdict {
            Some(Verdict::Passed) => return Ok(()),
            Some(Verdict::Failed(why)) => why,
            None => "it has not run on this commit yet".to_owned(),
        };
        Err(self.denied(&view.grant.approved.rule.hook_not_passed(repo.id(), commit, &why)))
    }
}
