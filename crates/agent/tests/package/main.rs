//! Packages of updates: made by the command line and by other tools, and hostile ones of all kinds.

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod by_hand;
mod cases;
mod command_line;
mod damage;
mod hostile;
mod made;
mod manifests;
mod plain;
mod secret_key;
mod unpack;
