//! `<publish prefix>/manifest.csv`: every published file, under the plain mirror's columns.

use bytes::Bytes;

use super::record::{Record, Records, State};
use crate::store::{Error, ErrorKind, Key, PublishPrefix, PutMode, Result};

/// The first five are those of the plain mirror's manifest.
const COLUMNS: [&str; 8] = ["repo", "revision", "sha256", "size", "license", "kind", "commit", "path"];

/// How often it is made again because somebody published meanwhile.
const TRIES: usize = 5;

/// The catalogue may be some hundred bytes for each of a million files.
const LIMIT_BYTES: u64 = 1024 * 1024 * 1024;

/// Writes the catalogue of what is published now, unless it says so already. What others publish meanwhile is in it
/// too, or they write it after us.
pub(super) async fn write(records: &Records, prefix: &PublishPrefix) -> Result<()> {
    let key = Key::catalogue(prefix);
    for _ in 0..TRIES {
        let published = published(records, prefix).await?;
        let text = Bytes::from(rows(records, &published).await?);
        if records.0.get(&key, LIMIT_BYTES).await?.as_ref() != Some(&text) {
            records.0.put(&key, text, PutMode::Overwrite).await?;
        }
        if self::published(records, prefix).await? == published {
            return Ok(());
        }
    }
    Ok(())
}

/// The same for a place where nothing is published any more: there the catalogue goes with the last copies.
pub(super) async fn leave(records: &Records, prefix: &PublishPrefix) -> Result<()> {
    if published(records, prefix).await?.is_empty() {
        return records.0.delete(&Key::catalogue(prefix)).await;
    }
    write(records, prefix).await
}

type Published = Vec<(super::record::Target, Record)>;

async fn published(records: &Records, prefix: &PublishPrefix) -> Result<Published> {
    let mut all = records.all().await?;
    let prefix = prefix.to_string();
    all.retain(|(target, record)| {
        target.commit.is_none() && record.state == State::Published && record.prefix == prefix
    });
    Ok(all)
}

async fn rows(records: &Records, published: &Published) -> Result<Vec<u8>> {
    let failed = |error: csv::Error| Error::new(ErrorKind::Other(error.to_string()));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(failed)?;
    for (target, record) in published {
        for (path, (sha256, size)) in records.files(target).await? {
            let row = [
                record.repo.to_string(),
                record.revision.to_string(),
                sha256.to_string(),
                size.to_string(),
                record.license.clone(),
                record.repo.kind().to_string(),
                record.commit.to_string(),
                path.to_string(),
            ];
            writer.write_record(row).map_err(failed)?;
        }
    }
    writer.into_inner().map_err(|error| Error::new(ErrorKind::Other(error.to_string())))
}
