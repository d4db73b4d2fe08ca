//! `iot-agent`: the device agent.

fn main() {}
