//! hubgate: a read-through caching gateway for the Hugging Face Hub that can prove what it served.

pub mod admin;
pub mod app;
pub mod body;
pub mod cli;
pub mod config;
mod duration;
pub mod gateway;
pub mod hooks;
pub mod housekeeping;
pub mod http;
pub mod hub;
pub mod jobs;
pub mod manifest;
pub mod policy;
pub mod publish;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
