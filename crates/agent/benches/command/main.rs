//! What a command costs, from the message at the broker to its end there: one after the other, ten thousand queued, a
//! gigabyte of output, and nothing at all; beside the same shell started without us.
//!
//! `cargo bench -p iot-agent --bench command`, on an otherwise idle machine; ends with 1 when a limit is missed.
//! `IOT_AGENT` names the program that is measured, by default the one built beside this; `COMMAND_BENCH_DIR` the folder,
//! hence the disk, beside tmpfs, by default that of temporary files. Needs mosquitto and strace.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(clippy::disallowed_methods, reason = "without a runtime: it would be measured too")]

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod idle;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
#[path = "../footprint/figures/table.rs"]
mod table;

/// What is measured together, by name.
#[cfg(target_os = "linux")]
type Part = (&'static str, fn(&mut table::Table));

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    // Names of parts, for one of them alone.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [Part; 5] = [
        ("single", load::single),
        ("burst", load::burst),
        ("gigabyte", load::gigabyte),
        ("calls", calls::measure),
        ("idle", idle::measure),
    ];
    table::run(|table| {
        for (name, measure) in parts {
            if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
                measure(table);
            }
        }
    })
}

#[cfg(not(target_os = "linux"))]
fn main() {}
