//! What a job costs beside the program itself: its start, a burst of small ones, and one with a gigabyte of output.
//!
//! `cargo bench -p iot-agent --bench executor`, on an otherwise idle machine; ends with 1 when a limit is missed.
//! `IOT_AGENT` names the program whose keepers are measured; by default the one built beside this.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]

#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    table::run(|table| runtime.block_on(measure::measure(table)))
}

#[cfg(not(target_os = "linux"))]
fn main() {}
