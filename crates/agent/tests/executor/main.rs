//! Jobs of every kind in the hands of the real keeper, which is the real binary: how each ends, what is kept of its
//! output, and that nothing of it is left, in whatever holds it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod fixture;
mod gone;
mod held;
mod surroundings;
mod table;
mod talk;
