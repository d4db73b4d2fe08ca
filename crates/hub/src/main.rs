//! `iot-hub`: the backend.

use std::process::ExitCode;

fn main() -> ExitCode {
    iot_hub::cli::run(std::env::args_os())
}
