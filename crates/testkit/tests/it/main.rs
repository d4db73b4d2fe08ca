//! The testkit against the real thing: a fixture that does not do what it says proves nothing.

use std::time::Duration;

mod client;
mod mosquitto;
#[cfg(target_os = "linux")]
mod process;
mod proxy;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);
