//! What looked-up facts weigh in memory, about, so that caches of them are bounded in bytes (I9): a repo of
//! 300,000 files has an info of many megabytes.

use std::sync::Arc;

use serde_json::Value;

use super::{
    known::Fresh,
    snapshot::{Facts, Piece},
};
use crate::hub::{CommitInfo, RefInfo, Refs, RepoInfo};

/// What a map entry, a vector's slot and an allocation cost beside their content.
const SLOT: usize = 48;

/// Something that a cache weighs.
pub(super) trait Weigh {
    /// About how many bytes it holds.
    fn weight(&self) -> usize;
}

impl Weigh for Value {
    fn weight(&self) -> usize {
        SLOT + match self {
            Self::String(text) => text.len(),
            Self::Array(values) => values.iter().map(Self::weight).sum(),
            Self::Object(fields) => fields.iter().map(|(name, value)| SLOT + name.len() + value.weight()).sum(),
            _ => 0,
        }
    }
}

impl Weigh for RepoInfo {
    fn weight(&self) -> usize {
        let siblings = self.siblings.as_deref().unwrap_or_default();
        self.facts.weight() + siblings.iter().map(|sibling| 2 * SLOT + sibling.rfilename.len()).sum::<usize>()
    }
}

impl Weigh for Fresh {
    fn weight(&self) -> usize {
        let siblings = self.siblings.as_deref().unwrap_or_default();
        self.facts.weight() + siblings.iter().map(|path| SLOT + path.len()).sum::<usize>()
    }
}

impl Weigh for Facts {
    fn weight(&self) -> usize {
        self.info.weight() + self.front_matter.as_ref().map_or(0, String::len)
    }
}

impl Weigh for Vec<Arc<Facts>> {
    fn weight(&self) -> usize {
        self.iter().map(|facts| SLOT + facts.weight()).sum()
    }
}

impl Weigh for Piece {
    fn weight(&self) -> usize {
        Self::weight(self)
    }
}

impl Weigh for Refs {
    fn weight(&self) -> usize {
        let of = |refs: &[RefInfo]| -> usize {
            refs.iter().map(|found| 3 * SLOT + found.name.len() + found.full_name.len()).sum()
        };
        of(&self.branches) + of(&self.tags) + of(&self.converts) + of(self.pull_requests.as_deref().unwrap_or_default())
    }
}

impl Weigh for Vec<CommitInfo> {
    fn weight(&self) -> usize {
        self.iter().map(|commit| 8 * SLOT + commit.title.len() + commit.message.len()).sum()
    }
}
