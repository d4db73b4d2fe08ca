//! L3 of all services together: a day's work, squeezed, leaves nothing behind in the agent that did it. Ten minutes in
//! `make prove`, two hours in `make soak`, a sample with every test run.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../ssh/story.rs"]
#[allow(dead_code, reason = "tunnels have more tests")]
mod tunnel;
#[path = "../update/story.rs"]
#[allow(dead_code, reason = "updates have more tests")]
mod update;

mod device;

use std::time::Duration;

use testkit::{Rng, procfs::Usage};
use tokio::time::Instant;

use device::Device;
use support::{proof, tier};

/// What an idle agent has: the one that does the work, the watchdog, and the one that asks about file systems.
const THREADS: usize = 3;

/// How long it works before the first look, and how long from then on; at least so many rounds in each.
fn lengths() -> (Duration, Duration, usize) {
    match tier() {
        // Each kind of software once.
        1 => (Duration::ZERO, Duration::ZERO, 3),
        2 => (Duration::from_secs(120), Duration::from_secs(480), 10),
        _ => (Duration::from_secs(600), Duration::from_secs(6600), 10),
    }
}

/// Rounds for so long; how many there were.
async fn work(device: &mut Device, rng: &mut Rng, first: usize, length: Duration, least: usize) -> usize {
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < length || rounds < least {
        device.round(first + rounds, rng).await;
        rounds += 1;
    }
    rounds
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[tokio::test]
async fn prove_l3_a_day_of_all_services_leaves_nothing() {
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let (warm, length, least) = lengths();
    let mut device = Device::begin().await;
    let warmed = work(&mut device, &mut rng, 0, warm, least).await;
    // The sample does not wait for threads twice.
    let before: Usage = device.idle(if tier() > 1 { THREADS } else { usize::MAX }).await;
    let rounds = work(&mut device, &mut rng, warmed, length, least).await;
    let after = device.idle(THREADS).await;
    device.each_has_one_end();
    let grown = (after.rss as f64 / before.rss as f64 - 1.0) * 100.0;
    let figures = format!(
        "wanted=fds:+-2,threads:+-0,rss:<=+10% rounds={} {} fds={:+} threads={:+} rss={grown:+.1}% rss_mib={:.1} seed={seed}",
        warmed + rounds,
        device.done(),
        after.fds as i64 - before.fds as i64,
        after.threads as i64 - THREADS as i64,
        mib(after.rss),
    );
    proof("l3-all", &figures);
    assert!(after.fds.abs_diff(before.fds) <= 2 && after.threads == THREADS && grown <= 10.0, "{figures}");
}
