//! I2: a table of malformed inputs at every boundary, each answered with its own reason, or counted where there is
//! nobody to answer; and then a valid one of the same kind works. (Requests to the hub: `crates/hub/tests`.)

#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod command_line;
mod config;
mod control;
mod packets;
mod replies;
mod state;
#[path = "../support/mod.rs"]
mod support;

use support::proof;

const WANTED: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prove_i2_what_is_malformed_is_answered_with_its_reason() {
    let (replies, packets, control, state) =
        tokio::join!(replies::table(), packets::table(), control::table(), state::table());
    let counts = [
        ("files", config::table()),
        ("arguments", command_line::arguments()),
        ("settings", command_line::settings()),
        ("replies", replies),
        ("packets", packets),
        ("control", control),
        ("state", state),
    ];
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    assert!(all >= WANTED, "{all} rows: {counts:?}");
    let each: Vec<String> = counts.iter().map(|(boundary, count)| format!("{boundary}={count}")).collect();
    proof("I2", &format!("wanted={WANTED}-rows rows={all} {} unanswered=0", each.join(" ")));
}
