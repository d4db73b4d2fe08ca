//! The life of the process: how it ends, what it does when it hangs, what it keeps to itself, how it is told of a
//! new configuration.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod hang;
mod reload;
mod secrets;
mod stop;
#[path = "../support/mod.rs"]
mod support;
