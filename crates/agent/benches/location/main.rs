//! What a receiver costs: a megabyte of noise a second, a line that never ends, and sentences of real receivers at the
//! same rate, beside pynmea2.
//!
//! `cargo bench -p iot-agent --bench location`, on an otherwise idle machine; ends with 1 when a limit is missed.
//! `IOT_AGENT` names the program that is measured; by default the one built beside this. Needs `scripts/tools check`.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(clippy::disallowed_methods, reason = "without a runtime: it would be measured too")]

#[cfg(target_os = "linux")]
mod line;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    table::run(line::measure)
}

#[cfg(not(target_os = "linux"))]
fn main() {}
