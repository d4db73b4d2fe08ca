//! Stories of the whole backend, in one program: built once, and run side by side.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod demo;
mod fleet;
mod presence;
mod serve;
