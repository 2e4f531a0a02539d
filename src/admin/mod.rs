//! What operators may change while hubgate runs, and the trail that each change leaves.
//!
//! Everything here is an object in the store that is written once and never changed: another replica sees it by
//! listing, and an auditor reads it years later. Nothing here asks upstream, serves a byte, or knows HTTP.
//!
//! - [`Audit`]: who changed what, when and why; written before the change takes effect.

mod audit;

use std::sync::Arc;

use crate::{manifest::WriterId, store::Store};

pub use audit::{Audit, AuditEntry, AuditFilter, Change};

/// The operators' side of one gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    audit: Arc<Audit>,
}

impl Admin {
    /// Over a store; `writer` is this process's name in it.
    pub fn new(store: Arc<dyn Store>, writer: WriterId) -> Self {
        Self { audit: Arc::new(Audit::new(store, writer)) }
    }

    /// The trail of changes.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }
}
