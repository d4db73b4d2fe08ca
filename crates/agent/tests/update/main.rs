//! Updates against a real mosquitto, with keys of the real minisign: what comes to a device, and what never does.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../package/cases.rs"]
mod cases;
#[path = "../package/made.rs"]
#[allow(dead_code, reason = "packages have more tests")]
mod made;
#[path = "../support/mod.rs"]
mod support;

mod bench;
mod commands;
#[cfg(target_os = "linux")]
mod cuts;
mod delta;
#[cfg(target_os = "linux")]
mod download;
#[cfg(target_os = "linux")]
mod errors;
mod hostile;
mod installer;
#[cfg(target_os = "linux")]
mod itself;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod lives;
mod local;
mod modules;
mod offers;
#[cfg(target_os = "linux")]
mod power;
mod proof;
mod proving;
#[cfg(target_os = "linux")]
mod rauc;
#[cfg(target_os = "linux")]
mod rauc_real;
mod refusals;
#[cfg(target_os = "linux")]
mod steps;
mod story;
#[cfg(target_os = "linux")]
mod turns;
