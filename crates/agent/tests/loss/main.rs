//! Nothing lost: brokers and agents that are killed and lines that are broken while messages flow, and the account of
//! what arrived. Small with every test run, in full by `make prove`.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod fleet;
#[path = "../support/mod.rs"]
mod support;

testkit::recorder_process!();

/// As the promises are proved: reconnects begin after 50 ms, a second apart at most, and each connection begins anew.
const RECONNECT: &str = "{min: 50ms, max: 1s, reset_after: 0}";
/// Its `max`.
const CAP: std::time::Duration = std::time::Duration::from_secs(1);
