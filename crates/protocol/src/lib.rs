//! Topics, payloads and proofs shared by agent and hub: serde only, no I/O, no clock, no randomness.
//!
//! What is sent is built from the types here; what is received is decoded by them. Decoding never panics,
//! ignores unknown fields and names the reason of every refusal.

pub mod audit;
pub mod canonical;
pub mod command;
pub mod data;
mod fields;
pub mod heartbeat;
pub mod hex;
pub mod id;
pub mod location;
pub mod metrics;
pub mod proof;
pub mod registration;
pub mod ssh;
pub mod status;
pub mod time;
pub mod topic;
pub mod update;

pub use id::{ClientId, DeviceId, IdError};
pub use time::Timestamp;
