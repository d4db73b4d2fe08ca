//! What metrics cost: processor time beside Debian's collectd, system calls, allocations, memory, bytes sent.
//!
//! `cargo bench -p iot-agent --bench metrics`, on an otherwise idle machine with mosquitto, strace and collectd
//! (`apt-get install mosquitto strace collectd-core`); takes five minutes, and ends with 1 when a limit is missed. `IOT_AGENT`
//! names the binary to measure.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]

#[cfg(target_os = "linux")]
#[path = "../footprint/figures/agent.rs"]
mod agent;
#[cfg(target_os = "linux")]
mod collectd;
#[cfg(target_os = "linux")]
mod counted;
#[cfg(target_os = "linux")]
mod crowd;
#[cfg(target_os = "linux")]
mod figures;
#[cfg(target_os = "linux")]
mod quiet;
#[cfg(target_os = "linux")]
mod sent;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;
#[cfg(target_os = "linux")]
mod traced;
#[cfg(target_os = "linux")]
mod watched;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if counted::is_child() {
        return counted::child();
    }
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return std::process::ExitCode::SUCCESS;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(figures::take())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("the figures come from Linux's /proc");
}
