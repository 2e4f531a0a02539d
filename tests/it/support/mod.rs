//! What the suites share.

#![allow(dead_code, reason = "each suite uses its part")]

pub(crate) mod asking;
pub(crate) mod client;
pub(crate) mod faulty_store;
pub(crate) mod gateway;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod s3;
