//! What a patch saves and what it takes: this program as it would come to a device, whole and as a patch against an earlier
//! build of it; the installer beside `zstd -d --patch-from` in the same run.
//!
//! `cargo bench -p iot-agent --bench delta`, with minisign and zstd; takes a minute, and ends with 1 when a limit is missed.
//! `IOT_AGENT` names the binary to measure, `IOT_AGENT_OLD` an earlier build of it. Without that one is made of it: code is
//! put in at three places, and addresses that lead over them move.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(clippy::disallowed_methods, reason = "who waits here has a thread to itself")]

#[cfg(target_os = "linux")]
mod goods;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    table::run(measure::measure)
}

#[cfg(not(target_os = "linux"))]
fn main() {}
