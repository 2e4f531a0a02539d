//! `/-/metrics`: counters and states in Prometheus's text format, version 0.0.4. README lists them.
//!
//! Written by hand: it is a page of text, and the counters lie with those who count.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use http::header;

use super::own::Own;
use crate::telemetry::labels;

/// The page as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric<V: Display>(&mut self, name: &str, kind: &str, help: &str, rows: impl IntoIterator<Item = (String, V)>) {
        // Writing to a String doesn't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, "gauge", help, [(String::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric(name, "counter", help, [(String::new(), value)]);
    }
}

/// All that is counted.
pub(super) async fn page(State(own): State<Own>) -> ([(header::HeaderName, &'static str); 2], String) {
    let state = own.state();
    let upstream = own.gateway.upstream_status();
    let mut page = Page::default();
    let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
    page.metric("hubgate_build_info", "gauge", "The version that runs; always 1.", [(version, 1)]);
    page.gauge("hubgate_ready", "Whether it should be sent requests.", u8::from(state.ready));
    page.gauge("hubgate_degraded", "How many things are degraded; readyz names them.", state.degraded.len());
    let policy = labels(&[("sha256", &state.health.policy_sha256.to_string())]);
    page.metric("hubgate_policy_info", "gauge", "The digest of the policy in force; always 1.", [(policy, 1)]);
    let rejected = u8::from(state.health.policy_error.is_some());
    page.gauge("hubgate_policy_rejected", "Whether the newest policy is refused and an older one in force.", rejected);

    let help = "Answers that are over, by where they came from and status.";
    page.metric("hubgate_requests_total", "counter", help, own.traffic.requests.rows());
    let bytes = own.traffic.bytes.load(std::sync::atomic::Ordering::Relaxed);
    page.counter("hubgate_response_bytes_total", "Bytes of bodies sent to clients, once an answer is over.", bytes);

    page.gauge("hubgate_fills_live", "Transfers from the origin under way.", state.health.fills);
    let help = "Transfers from the origin that are over, by how they ended.";
    page.metric("hubgate_fills_total", "counter", help, own.gateway.fills_ended());

    let help = "Requests sent to the origin, by its budget's class and what came back.";
    page.metric("hubgate_upstream_requests_total", "counter", help, upstream.requests);
    page.counter("hubgate_upstream_received_bytes_total", "Bytes of bodies from the origin.", upstream.bytes);
    let left = |budget: &crate::upstream::BudgetStatus| {
        budget.left.map(|left| (labels(&[("class", budget.class.name())]), left))
    };
    let left: Vec<_> = upstream.budget.iter().filter_map(left).collect();
    page.metric("hubgate_upstream_budget_left", "gauge", "Requests that the Hub lets us send in this window.", left);

    let help = "Failures of the store, by operation and kind.";
    page.metric("hubgate_store_errors_total", "counter", help, own.store.errors.rows());
    let refuses = u8::from(own.store.refuses_writes().is_some());
    page.gauge("hubgate_store_refuses_writes", "Whether the last write to the store failed.", refuses);

    let form = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([form, (header::CACHE_CONTROL, "no-store")], page.0)
}
