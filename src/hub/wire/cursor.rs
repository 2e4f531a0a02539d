//! The cursors of trees: where a page begins.
//!
//! Ours name the path after which it does. The Hub's name it too, in wrappings, and text-generation-webui makes such a
//! one itself, from the last path that it was given, until a page is empty (PROTOCOL 4.4).

use std::str::from_utf8;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::hub::RepoPath;

/// What ours begin with. No base64 has it.
const OURS: &str = "after:";

/// The cursor of the page that begins after `path`.
pub fn cursor_after(path: &RepoPath) -> String {
    format!("{OURS}{path}")
}

/// The path after which a page begins. `None` for a cursor that nobody made who knows how: nothing is there.
pub fn read_cursor(cursor: &str) -> Option<String> {
    match cursor.strip_prefix(OURS) {
        Some(path) => Some(path.to_owned()),
        None => of_the_hub(cursor),
    }
}

#[derive(Deserialize)]
struct Inner {
    file_name: String,
}

/// `base64(base64({"file_name": "..."}) + ":50")`.
fn of_the_hub(cursor: &str) -> Option<String> {
    let outer = STANDARD.decode(cursor).ok()?;
    let (inner, _page) = from_utf8(&outer).ok()?.rsplit_once(':')?;
    let inner: Inner = serde_json::from_slice(&STANDARD.decode(inner).ok()?).ok()?;
    Some(inner.file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_the_hubs_name_a_path_and_others_none() {
        let path: RepoPath = "sub dir/a:b".parse().unwrap();
        assert_eq!(read_cursor(&cursor_after(&path)).unwrap(), path.as_str());
        // As text-generation-webui makes it, and as the Hub did, with more in it.
        let inner = STANDARD.encode(r#"{"file_name":"model.safetensors"}"#);
        assert_eq!(read_cursor(&STANDARD.encode(format!("{inner}:50"))).unwrap(), "model.safetensors");
        let inner = STANDARD.encode(r#"{"file_name":"a/b","tree_oid":"00"}"#);
        assert_eq!(read_cursor(&STANDARD.encode(format!("{inner}:1000"))).unwrap(), "a/b");
        for other in ["", "model.safetensors", "zzzz", "~", &inner, &STANDARD.encode("x:50")] {
            assert_eq!(read_cursor(other), None, "{other}");
        }
    }
}
