//! Published copies that the configuration does not name: said, never removed unasked, since `hubgate publish REPO`
//! publishes what no configuration names.

use super::{Error, Publisher, Result, record::State};

impl Publisher {
    /// A line for each set of copies that the configuration does not name any more, with the command that removes it.
    ///
    /// # Errors
    /// The store's.
    pub async fn unnamed(&self) -> Result<Vec<String>> {
        let place = self.0.place.as_ref().ok_or(Error::NoPlace)?.to_string();
        let mut lines = Vec::new();
        for (target, record) in self.0.records.all().await? {
            if record.state == State::Unpublished {
                continue;
            }
            let repo = &target.repo;
            let mut is_wanted = self.0.wanted.is_empty();
            for wanted in &self.0.wanted {
                is_wanted |= self.0.gateway.is_called(&wanted.repo, repo).await?;
            }
            let why = match target.commit {
                _ if record.prefix != place => format!("publish.prefix is {place} now"),
                _ if !is_wanted => "publish.repos does not name it".to_owned(),
                Some(commit) if !self.0.by_commit => format!("publish.by_commit is off, and @{commit} is kept"),
                _ => continue,
            };
            lines.push(format!(
                "{repo}: copies lie below {}/{repo}, and {why}; `hubgate publish --unpublish {repo}` removes them",
                record.prefix
            ));
        }
        lines.sort();
        lines.dedup();
        Ok(lines)
    }
}
