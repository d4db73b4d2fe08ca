//! Nothing lost: brokers and agents that are killed and lines that are broken while messages flow, and the account of
//! what arrived. Small with every test run, in full by `make prove`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod agent_killed;
mod arrivals;
mod broker_killed;
mod drain;
mod fleet;
mod line_broken;
mod moods;
mod offline;
mod publisher;
#[path = "../support/mod.rs"]
mod support;

testkit::recorder_process!();

use support::Home;

/// As the promises are proved: reconnects begin after 50 ms, a second apart at most, and each connection begins anew.
const RECONNECT: &str = "{min: 50ms, max: 1s, reset_after: 0}";
/// Its `max`.
const CAP: std::time::Duration = std::time::Duration::from_secs(1);

/// An enrolled device that waits like that. Its heartbeats are rare: what is counted is what it publishes.
fn device(url: &str, version: &str) -> Home {
    Home::new(url)
        .device("d1")
        .reconnect(RECONNECT)
        .mqtt(&format!("version: {version}"))
        .mqtt("keep_alive: 1s")
        .yaml("services:\n  heartbeat: {interval: 1m}")
}
