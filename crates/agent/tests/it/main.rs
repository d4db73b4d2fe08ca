//! Stories of a whole agent against real peers, in one program: built once, and run side by side.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../support/direct.rs"]
mod direct;
#[path = "../support/forgeries.rs"]
mod forgeries;
#[path = "../support/mod.rs"]
mod support;

mod config_check;
mod connection;
mod damaged_state;
mod durable;
mod full_disk;
mod go_agent;
mod hung_file_system;
mod location;
mod location_google;
mod location_gpsfake;
mod location_networks;
mod location_recordings;
mod metrics;
mod outages;
mod poison;
mod presence;
mod presence_matrix;
mod publish;
mod reconnect;
mod register_command;
mod registration;
mod registration_attack;
mod takeover;
mod versions;
