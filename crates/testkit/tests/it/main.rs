//! The testkit against the real thing: a fixture that does not do what it says proves nothing.

use std::time::Duration;

mod badtls;
mod client;
mod mosquitto;
#[cfg(target_os = "linux")]
mod namespace;
mod oldbroker;
#[cfg(target_os = "linux")]
mod process;
mod proxy;
mod recorder;
mod stalls;

iot_agent_testkit::recorder_process!();

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(10);
