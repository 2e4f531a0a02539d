//! The integration tests, in one binary so that they are linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

mod command_line;
mod egress;
mod http_api;
mod http_edge;
mod http_errors;
mod http_files;
mod manifest;
mod serving;
mod store_conformance;
mod support;
mod traps;
mod upstream;
