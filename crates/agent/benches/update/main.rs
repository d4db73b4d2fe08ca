//! What an update of 1 GiB takes, through the whole agent: time beside a pipeline of curl, zstd and sha256sum in the same run,
//! memory, and what is fetched again after a kill.
//!
//! `cargo bench -p iot-agent --bench update`, on an otherwise idle machine with mosquitto, minisign, curl and zstd, and 6 GB
//! of room where temporary files are; takes ten minutes, and ends with 1 when a limit is missed. `IOT_AGENT` names the binary
//! to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(clippy::disallowed_methods, reason = "who waits here has a thread to itself")]

#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod goods;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    table::run(|table| runtime.block_on(measure::measure(table)))
}

#[cfg(not(target_os = "linux"))]
fn main() {}
