//! The device agent as a library: everything `iot-agent` is made of. The binary is a thin shell round it,
//! and the hub borrows [`mqtt`].
//!
//! Start reading at `ARCHITECTURE.md`.

mod action;
pub mod agent;
pub mod board;
#[cfg(all(feature = "dbus", target_os = "linux"))]
mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod desk;
pub mod executor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod harness;
mod http;
pub mod identity;
mod launch;
pub mod log;
mod mountinfo;
pub mod mqtt;
pub mod outbox;
pub mod presence;
pub mod publish;
pub mod register;
pub mod service;
pub mod services;
pub mod status;
pub mod store;
pub mod supervisor;
mod sys;
pub mod systemd;
