//! The Hub's JSON in both directions: what we read from the origin, what we send to clients.
//!
//! Nothing of Xet passes (PROTOCOL section 10): it is not read into any type, and [`strip_xet`] takes it out
//! of what is passed on as it came. Masked hashes (PROTOCOL 12.2) do not pass either: a [`TreeNode`] can't
//! hold one.

mod cursor;
mod info;
mod paths;
mod refs;
mod tree;

pub use cursor::{cursor_after, read_cursor};
pub use info::{Gated, InfoSibling, LfsInfo, RepoInfo, StatedLicense, info_answer};
pub use paths::PathsInfoRequest;
pub use refs::{CommitAuthor, CommitInfo, RefInfo, Refs};
pub use tree::{EntryKind, LfsPointer, MaskedOid, TreeEntry, TreeNode, lfs_pointer};

use serde_json::Value;

/// Takes out every `xetHash` and `xetEnabled`, at any depth: clients that see one fetch from servers that a
/// gateway can't stand in for.
pub fn strip_xet(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| key != "xetHash" && key != "xetEnabled");
            map.values_mut().for_each(strip_xet);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_xet),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_xet_is_left_at_any_depth() {
        let mut value = json!({"a": [{"xetHash": "x", "b": {"xetHash": null, "c": 1}}], "xetEnabled": true});
        strip_xet(&mut value);
        assert_eq!(value, json!({"a": [{"b": {"c": 1}}]}));
    }
}
