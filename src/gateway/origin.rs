//! The Hub as the source of a fill's bytes.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};

use super::fill::Origin;
use crate::upstream::{self, OriginFile};

/// A file on the Hub; keeps one signed URL for the whole fill.
pub(super) struct HubFile(OriginFile);

impl HubFile {
    pub(super) fn new(file: OriginFile) -> Self {
        Self(file)
    }
}

#[async_trait]
impl Origin for HubFile {
    async fn open(
        &self,
        range: Range<u64>,
        total: u64,
    ) -> upstream::Result<BoxStream<'static, upstream::Result<Bytes>>> {
        let open_ended = range.end == total;
        Ok(self.0.open(range, total, open_ended).await?.boxed())
    }

    fn hurry(&self) {
        self.0.hurry();
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }
}
