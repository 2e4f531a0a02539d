//! The mark of the layout that a store holds, so that a program that does not know it leaves it alone.

use bytes::Bytes;
use serde::Deserialize;

use super::{Error, ErrorKind, Key, PutMode, Result, Store};

/// The layout that this program reads and writes.
const LAYOUT: u64 = 1;

/// More than any layout mark will ever need.
const LIMIT_BYTES: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Mark {
    layout: u64,
}

/// Writes `layout.json` where there is none, and refuses a layout that this program does not know.
pub async fn open_layout(store: &dyn Store) -> Result<()> {
    if !check_layout(store).await? {
        let mark = Bytes::from(format!("{{\"layout\":{LAYOUT}}}\n"));
        store.put(&Key::layout(), mark, PutMode::Create).await?;
    }
    Ok(())
}

/// Refuses a layout that this program does not know. Returns whether the store says which it has; a new one does not.
pub async fn check_layout(store: &dyn Store) -> Result<bool> {
    let key = Key::layout();
    let Some(text) = store.get(&key, LIMIT_BYTES).await? else { return Ok(false) };
    let problem = match serde_json::from_slice::<Mark>(&text) {
        Ok(Mark { layout: LAYOUT }) => return Ok(true),
        Ok(Mark { layout }) => format!(
            "this store has layout {layout}, and this hubgate knows layout {LAYOUT}: run the version that wrote it, or \
             name another store.local.path or store.s3.prefix"
        ),
        Err(error) => {
            format!("layout.json is not hubgate's ({error}): is this the right store.local.path or store.s3.prefix?")
        }
    };
    Err(Error::new(ErrorKind::Misconfigured(problem)).on(&key))
}
