//! How often the whole agent asks the allocator for memory, for each heartbeat: it runs in this process, over TLS,
//! with its threads and all.

#![allow(clippy::unwrap_used, reason = "a benchmark says where it failed")]
#![allow(clippy::print_stdout, reason = "its voice")]
#![allow(unsafe_code, reason = "a global allocator cannot be had without; this one only counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use iot_agent::{agent, config::Sources};
use rustix::process::{Signal, getpid, kill_process};
use testkit::{Mosquitto, certs::Pki, mosquitto::Tls};
use tokio::time::sleep;

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The thread that only looks on.
    static ONLOOKER: Cell<bool> = const { Cell::new(false) };
}

fn note(size: usize) {
    if !ONLOOKER.get() {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised to us.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as promised to us.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BEATS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    ONLOOKER.set(true);
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
    let agent = std::thread::spawn(move || block_on(agent::run(Sources { file, sets: vec![], env: vec![] })));

    block_on(wait(&broker, 3));
    let (calls, bytes) = count();
    let first = beats(&broker);
    block_on(wait(&broker, first + BEATS));
    let (calls_after, bytes_after) = count();
    let beats = (beats(&broker) - first) as u64;
    println!("| allocations a heartbeat | {} |", (calls_after - calls) as f64 / beats as f64);
    println!("| bytes allocated a heartbeat | {} |", (bytes_after - bytes) / beats);
    kill_process(getpid(), Signal::TERM).unwrap();
    agent.join().unwrap().unwrap();
}

fn config(broker: &Mosquitto, pki: &Pki, home: &std::path::Path) -> String {
    let (port, ca, home) = (broker.tls_port(), pki.ca_file(), home.display());
    format!(
        "mqtt:\n  broker: mqtts://localhost:{port}\n  ca_certificate: {}\n\
         paths: {{state: {home}/state, run: {home}/run}}\nservices:\n  heartbeat: {{interval: 1s}}\n",
        ca.display()
    )
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn count() -> (u64, u64) {
    (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed))
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
