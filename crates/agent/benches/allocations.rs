//! How often the whole agent asks the allocator for memory, for each heartbeat: it runs in this process, over TLS,
//! with its threads and all.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(clippy::disallowed_methods, reason = "the onlooker must not allocate while it waits")]

use std::{
    alloc::System,
    fs, thread,
    time::{Duration, Instant},
};

use iot_agent::{agent, config::Sources};
use rustix::process::{Signal, getpid, kill_process};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use testkit::{Mosquitto, certs::Pki, mosquitto::Tls};
use tokio::time::sleep;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WATCHED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let pki = Pki::new().unwrap();
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    let broker = block_on(Mosquitto::builder().tls(tls).start()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("config.yaml");
    fs::write(&file, config(&broker, &pki, home.path())).unwrap();
    fs::create_dir(home.path().join("state")).unwrap();
    fs::write(home.path().join("state/device.json"), r#"{"device_id": "d"}"#).unwrap();
    let agent = thread::spawn(move || block_on(agent::run(Sources { file, sets: vec![], env: vec![] })));

    block_on(wait(&broker, 3));
    let first = beats(&broker);
    let region = Region::new(ALLOCATOR);
    thread::sleep(WATCHED);
    let asked = region.change();
    let beats = beats(&broker) - first;
    let (calls, bytes) = (asked.allocations + asked.reallocations, asked.bytes_allocated);
    println!("| allocations a heartbeat | {} |", calls as f64 / beats as f64);
    println!("| bytes allocated a heartbeat | {} |", bytes / beats);
    kill_process(getpid(), Signal::TERM).unwrap();
    agent.join().unwrap().unwrap();
}

fn config(broker: &Mosquitto, pki: &Pki, home: &std::path::Path) -> String {
    let (port, ca, home) = (broker.tls_port(), pki.ca_file(), home.display());
    format!(
        "mqtt:\n  broker: mqtts://localhost:{port}\n  ca_certificate: {}\n\
         paths: {{state: {home}/state, run: {home}/run}}\nservices:\n  heartbeat: {{interval: 1s}}\n  metrics: {{enabled: false}}\n",
        ca.display()
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Heartbeats that reached the broker.
fn beats(broker: &Mosquitto) -> usize {
    broker
        .log()
        .lines()
        .filter(|line| line.contains("Received PUBLISH") && line.contains("/heartbeat"))
        .count()
}

async fn wait(broker: &Mosquitto, wanted: usize) {
    let deadline = Instant::now() + PATIENCE;
    while beats(broker) < wanted {
        assert!(Instant::now() < deadline, "not {wanted} heartbeats: {}", broker.log());
        sleep(Duration::from_millis(100)).await;
    }
}
