//! All figures, in one table.

mod agent;
#[path = "../../../tests/support/direct.rs"]
mod direct;
mod idle;
mod start;
mod table;
mod throughput;

use std::{path::PathBuf, process::ExitCode};

use table::Table;

/// Of the whole. Enrolment, presence and heartbeat alone had to do with 4; decisions 9 to 13 say what has come since.
const SIZE_MB: f64 = 8.0;

/// Takes them all; a failure when a limit is exceeded.
pub(crate) async fn take() -> ExitCode {
    let program = std::env::var_os("IOT_AGENT").map_or(env!("CARGO_BIN_EXE_iot-agent").into(), PathBuf::from);
    println!("measuring {}", program.display());
    let mut table = Table::default();
    let size = std::fs::metadata(&program).unwrap().len();
    table.limit("binary, MB", SIZE_MB, size as f64 / 1e6, "");
    start::measure(&program, &mut table).await;
    throughput::measure(&mut table).await;
    idle::measure(&program, &mut table).await;
    println!("\n{table}");
    if table.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
