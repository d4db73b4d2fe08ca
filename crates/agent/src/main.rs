//! `iot-agent`: the device agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    iot_agent::cli::main()
}
