//! I2 at the hub: malformed requests and signs of life, each answered with its own reason, or logged where there is
//! nobody to answer; and then a valid one works.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod requests;
mod signs;
#[path = "../support/mod.rs"]
mod support;

const WANTED: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
async fn prove_i2_what_is_malformed_is_answered_with_its_reason() {
    let (answered, unreadable, signs) =
        tokio::join!(requests::answered(), requests::unreadable(), signs::table());
    let rows = answered + unreadable + signs;
    assert!(rows >= WANTED, "{rows} rows");
    let tier = std::env::var("IOT_AGENT_TIER").unwrap_or_else(|_| "1".to_owned());
    println!(
        "proof I2 tier={tier} wanted={WANTED}-rows-at-the-hub rows={rows} requests={} signs={signs} unanswered=0 \
         seed=none",
        answered + unreadable
    );
}
