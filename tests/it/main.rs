//! The integration tests, in one binary so that they are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

mod admin;
mod browsers;
mod command_line;
mod crashes;
mod egress;
mod fills;
mod http_api;
mod http_edge;
mod http_errors;
mod http_files;
mod hygiene;
mod lies;
mod limits;
mod lock;
mod logs;
mod manifest;
mod metrics;
mod mirror;
mod outage;
mod preseed;
mod proxies;
mod publish;
mod serving;
mod snapshots;
mod store_conformance;
mod store_probe;
mod store_trouble;
mod support;
mod sync;
mod tls;
mod traps;
mod upstream;
