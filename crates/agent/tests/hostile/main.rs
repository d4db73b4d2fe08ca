//! Hostile surroundings: DNS that fails, links that die silently, brokers that stall, send too much or have the
//! wrong certificate. The real agent against each of them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod bad_tls;
mod clocks;
mod dns;
mod gateway;
mod half_open;
mod oversized;
mod stalls;
#[path = "../support/mod.rs"]
mod support;
