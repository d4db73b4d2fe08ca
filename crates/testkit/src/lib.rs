//! Dev-only: real brokers, one of our own that records, a TCP fault proxy, certificates good and bad, and the
//! processes under test.
//!
//! Everything here runs the real peer on a free loopback port, is seeded where it draws by chance, and leaves
//! nothing behind when dropped. What can fail returns `anyhow::Result`, so that a test's own line is named;
//! a missing program panics with how to install it, since a test that quietly skips proves nothing.

pub mod badtls;
pub mod bus;
pub mod certs;
pub mod client;
pub mod downloads;
pub mod echo;
pub mod feed;
#[cfg(target_os = "linux")]
pub mod inject;
pub mod mosquitto;
#[cfg(target_os = "linux")]
pub mod namespace;
pub mod oldbroker;
pub mod ports;
#[cfg(target_os = "linux")]
pub mod powercut;
pub mod process;
#[cfg(target_os = "linux")]
pub mod procfs;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod receiver;
pub mod recorder;
pub mod recordings;
pub mod seed;
#[cfg(target_os = "linux")]
pub mod sshd;
pub mod stalls;
mod tls;
pub mod web;
mod wire;

pub use client::{Endpoint, Watcher, publish};
pub use feed::Feed;
pub use mosquitto::Mosquitto;
pub use process::Process;
pub use proxy::Proxy;
pub use recorder::Recorder;
pub use seed::{Rng, seed};
#[cfg(target_os = "linux")]
pub use sshd::Sshd;
