//! Forwards of ours beside `ssh -R`: the same sshd, cipher, machine and run, both directions, the middle one of five.
//!
//! `cargo bench -p iot-agent --bench ssh`, on an otherwise idle machine; ends with 1 when a limit is missed.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]

#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;
#[cfg(target_os = "linux")]
mod traffic;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // One runtime thread, as the agent has.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if arguments.get(1).is_some_and(|argument| argument == device::ROLE) {
        runtime.block_on(device::be(&arguments[2..]));
        return std::process::ExitCode::FAILURE;
    }
    table::run(|table| runtime.block_on(measure::measure(table)))
}

#[cfg(not(target_os = "linux"))]
fn main() {}
