//! Commands against a real mosquitto: what an operator sends, sees, and may rely on.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../support/mod.rs"]
mod support;

mod audit_findings;
mod bare;
mod crashes;
mod lives;
mod owner;
mod proof;
mod refusals;
mod story;
