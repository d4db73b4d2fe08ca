//! Tunnels against a real mosquitto and a real sshd: what an operator asks for, gets, and may rely on.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../support/mod.rs"]
mod support;

mod cloud;
mod crashes;
mod ends;
mod forgeries;
mod lost;
mod malformed;
mod owner;
mod proof;
mod refusals;
mod states;
mod story;
mod traffic;
