//! The log by itself: no broker, no socket.

use std::{fs, sync::Arc, time::Instant};

use iot_agent::{
    clock::{self, Clock},
    mqtt::{Delivery, Message, Mqtt},
    outbox::{Class, Disk, Draft, Fate, Folder, Outbox, Qos},
};

use crate::table::{Table, median};

/// Bytes of a payload.
const PAYLOAD: usize = 200;
/// Messages that are waiting whenever a commit begins, as of so many senders at once.
const GROUP: usize = 64;
const HELD: usize = 200_000;
const STORED: usize = 20_000;
const QUEUED: usize = 1_000_000;
const ROUNDS: usize = 3;
const MIB: f64 = 1_048_576.0;

struct World {
    dir: tempfile::TempDir,
    disk: Arc<Folder>,
}

impl World {
    fn new() -> Self {
        let dir = match std::env::var_os("OUTBOX_BENCH_DIR") {
            Some(dir) => tempfile::tempdir_in(dir).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let disk = Arc::new(Folder::new(dir.path().join("outbox")));
        Self { dir, disk }
    }

    fn open(&self) -> Outbox {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as _;
        Outbox::open(disk, 1 << 30, Clock::new(clock::built(), None))
    }

    fn commit(&self, outbox: &mut Outbox) {
        while let Some(plan) = outbox.plan() {
            let result = plan.execute(&*self.disk);
            outbox.committed(plan, result);
        }
        assert_eq!(outbox.degraded(), None);
    }

    fn fill(&self, outbox: &mut Outbox, messages: usize, group: usize) {
        for at in 0..messages {
            push(outbox);
            if at % group == group - 1 {
                self.commit(outbox);
            }
        }
        self.commit(outbox);
    }
}

pub(crate) fn measure(table: &mut Table) {
    let rates = (0..ROUNDS).map(|_| held_per_second()).collect();
    table.at_least("taken into memory a second, delivery: memory", 50_000.0, median(rates), "");
    let rates = (0..ROUNDS).map(|_| stored_per_second()).collect();
    table.at_least("stored a second, 64 at a time", 5_000.0, median(rates), "");
    let rates = (0..ROUNDS).map(|_| fsyncs_per_second()).collect();
    table.figure("of these, one by one", median(rates), "one fsync each");
    million(table);
    written(table);
}

/// While offline, with room for all.
fn held_per_second() -> f64 {
    let mqtt = Mqtt::disconnected(1 << 30);
    let began = Instant::now();
    for _ in 0..HELD {
        let (topic, payload) = ("iot/0123456789abcdef/metrics".to_owned(), vec![b'x'; PAYLOAD]);
        let (qos, delivery) = (Qos::AtLeastOnce, Delivery::Memory);
        drop(mqtt.publish(Message { topic, payload, qos, retain: false, delivery }));
    }
    HELD as f64 / began.elapsed().as_secs_f64()
}

fn stored_per_second() -> f64 {
    let world = World::new();
    let mut outbox = world.open();
    let began = Instant::now();
    world.fill(&mut outbox, STORED, GROUP);
    STORED as f64 / began.elapsed().as_secs_f64()
}

fn fsyncs_per_second() -> f64 {
    let world = World::new();
    let mut outbox = world.open();
    let began = Instant::now();
    world.fill(&mut outbox, 500, 1);
    500.0 / began.elapsed().as_secs_f64()
}

fn million(table: &mut Table) {
    let world = World::new();
    let mut outbox = world.open();
    world.fill(&mut outbox, 1_000, 1_000);
    let before = rss();
    world.fill(&mut outbox, QUEUED, 1_000);
    table.limit("RSS from 1,000 to 1,000,000 queued, MiB more", 2.0, rss() - before, "");
    // As after kill -9: nothing is said, nothing is closed.
    std::mem::forget(outbox);
    let began = Instant::now();
    let mut outbox = world.open();
    let took = began.elapsed().as_secs_f64();
    assert_eq!(outbox.total().messages as usize, QUEUED + 1_000);
    assert!(outbox.take(Class::Metrics).is_some());
    table.limit("opening with 1,000,000 queued, s", 1.0, took, "");
    let before = rss();
    let began = Instant::now();
    let rate = drain(&world, &mut outbox) as f64 / began.elapsed().as_secs_f64();
    table.figure("read and settled a second", rate, "");
    table.limit("RSS from 1,000,000 to 0 queued, MiB more", 2.0, rss() - before, "");
    drop(world.dir);
}

/// Bytes handed to the system, over append and drain, to bytes of payload.
fn written(table: &mut Table) {
    let world = World::new();
    let mut outbox = world.open();
    let (before, blocks) = (io("wchar"), io("write_bytes"));
    world.fill(&mut outbox, 100_000, GROUP);
    let drained = drain(&world, &mut outbox);
    let payload = (drained * PAYLOAD) as f64;
    table.limit("bytes written to bytes of payload", 1.8, (io("wchar") - before) / payload, "");
    table.figure("the same in whole pages", (io("write_bytes") - blocks) / payload, "");
}

fn drain(world: &World, outbox: &mut Outbox) -> usize {
    let mut drained = 0;
    loop {
        let mut taken = Vec::new();
        while taken.len() < GROUP
            && let Some((key, _)) = outbox.take(Class::Metrics)
        {
            taken.push(key);
        }
        if taken.is_empty() {
            return drained;
        }
        drained += taken.len();
        taken.into_iter().for_each(|key| outbox.settle(key, Fate::Sent));
        outbox.note();
        if let Some(plan) = outbox.plan() {
            let result = plan.execute(&*world.disk);
            outbox.committed(plan, result);
        }
    }
}

fn push(outbox: &mut Outbox) {
    let mut payload = |seq: u64| format!("{seq:0PAYLOAD$}").into_bytes();
    let topic = "iot/0123456789abcdef/metrics".to_owned();
    let (class, qos) = (Class::Metrics, Qos::AtLeastOnce);
    outbox.push(Draft { class, topic, qos, retain: false, payload: &mut payload }, None);
}

fn rss() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / MIB
}

fn io(what: &str) -> f64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').trim().parse().unwrap()
}
