//! What the outbox costs: storing, holding a million, opening after a kill, draining, beside what is wanted.
//!
//! `cargo bench -p iot-agent --bench outbox`, on an otherwise idle machine; ends with 1 when a limit is missed.
//! `OUTBOX_BENCH_DIR` names the folder, hence the disk, to measure; by default that of temporary files.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]

#[cfg(target_os = "linux")]
#[path = "../../tests/support/direct.rs"]
mod direct;
#[cfg(target_os = "linux")]
mod drain;
#[cfg(target_os = "linux")]
mod store;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    table::run(|table| {
        store::measure(table);
        drain::measure(table);
    })
}

#[cfg(not(target_os = "linux"))]
fn main() {}
