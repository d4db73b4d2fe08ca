//! The device agent as a library: everything `iot-agent` is made of. The binary is a thin shell round it,
//! and the hub borrows [`mqtt`].
//!
//! Start reading at `ARCHITECTURE.md`.

pub mod config;
