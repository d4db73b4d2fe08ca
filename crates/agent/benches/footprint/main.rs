//! What the agent costs: size on disk, memory, processor time, start, throughput, beside peers of the same run.
//!
//! `cargo bench -p iot-agent --bench footprint`, on an otherwise idle machine; ends with 1 when a limit is
//! exceeded. Environment: `IOT_AGENT`, the binary to measure (default: the one cargo built for this run, which
//! has the features of the tests' dependencies too); `PAHO_PYTHON`, a Python with paho-mqtt; `PEER`, any other
//! program that takes PORT and CA_FILE and sends a heartbeat to `peer/other/heartbeat` every ten seconds.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]

#[cfg(target_os = "linux")]
mod figures;

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    figures::take().await
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the figures come from Linux's /proc");
}
