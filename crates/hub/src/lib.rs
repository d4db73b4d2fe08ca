//! The backend as a library: everything `iot-hub` is made of.
//!
//! A message comes in ([`serve`]), [`hub`] sends it to the [`registrar`] or to the [`fleet`], and both keep what
//! must outlive the process in the [`store`]. Registrar and fleet know neither MQTT nor a clock: they are given a
//! payload and a time, and answer.

pub mod broker;
pub mod cli;
pub mod control;
pub mod demo;
pub mod devices;
pub mod fleet;
pub mod hub;
pub mod registrar;
pub mod secret;
pub mod serve;
pub mod store;
mod throttle;
