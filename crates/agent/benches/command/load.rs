//! Commands one after the other, many at once, and one with much to say.

use std::{
    collections::HashSet,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use testkit::procfs;

use crate::{
    device::{Device, broker, disk, memory},
    table::{Table, median},
};

/// How often a single command is timed.
const TIMES: usize = 500;
const BURST: usize = 10_000;
const GIGABYTE: u64 = 1_000_000_000;
/// What the service keeps of an output by default.
const KEPT: u64 = 64 << 10;

/// In turns: whatever else the machine does meets all of them.
pub(crate) fn single(table: &mut Table) {
    let broker = broker();
    let services = "  command: {enabled: true}\n";
    let fast = Device::start("fast", &memory(), &broker, services);
    let safe = Device::start("safe", &disk(), &broker, services);
    let mut operators = [fast.operator(&broker), safe.operator(&broker)];
    let (mut plain, mut ours) = (Vec::new(), [Vec::new(), Vec::new()]);
    for number in 0..TIMES {
        plain.push(timed(by_itself));
        for ((orders, client), times) in operators.iter_mut().zip(&mut ours) {
            let id = format!("single-{number}");
            times.push(timed(|| {
                orders.order(&id, "true");
                client.success(&id);
            }));
        }
    }
    let [fast, safe] = ours;
    let (plain, plain_worst) = (median(plain.clone()), worst(plain));
    table.figure("sh -c true by itself, p50 ms", plain, format!("p99 {plain_worst:.2}"));
    table.limit("true more than that, tmpfs, p50 ms", 5.0, median(fast.clone()) - plain, "–");
    table.figure("… p99 ms", worst(fast) - plain_worst, "–");
    table.figure("true more than that, disk, p50 ms", median(safe.clone()) - plain, "–");
    table.figure("… p99 ms", worst(safe) - plain_worst, "–");
}

/// What nobody could do without.
fn by_itself() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "true"]).stdin(Stdio::null());
    assert!(command.output().unwrap().status.success());
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e3
}

/// Of a hundred, the last but one.
fn worst(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() * 99 / 100]
}

pub(crate) fn burst(table: &mut Table) {
    table.at_least("10,000 × true queued, tmpfs, per s", 300.0, commands_a_second(&memory()), "–");
    table.figure("10,000 × true queued, disk, per s", commands_a_second(&disk()), "–");
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..BURST / 4).for_each(|_| by_itself()));
        }
    });
    table.figure(
        "10,000 × sh -c true by itself, 4 at once, per s",
        BURST as f64 / began.elapsed().as_secs_f64(),
        "–",
    );
}

/// From the first order to the last end.
fn commands_a_second(folder: &Path) -> f64 {
    let broker = broker();
    let device = Device::start("burst", folder, &broker, "  command: {enabled: true, queue: 10000}\n");
    let (mut orders, mut client) = device.operator(&broker);
    let ids: Vec<String> = (0..BURST).map(|number| format!("burst-{number}")).collect();
    let mut open: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| orders.order_all(&ids));
        while !open.is_empty() {
            let end = client.end();
            assert_eq!(end["status"], "success", "{end}");
            assert!(open.remove(end["execution_id"].as_str().unwrap()), "ended twice: {end}");
        }
    });
    BURST as f64 / began.elapsed().as_secs_f64()
}

pub(crate) fn gigabyte(table: &mut Table) {
    let broker = broker();
    let device = Device::start("talker", &memory(), &broker, "  command: {enabled: true}\n");
    let (mut orders, mut client) = device.operator(&broker);
    let (pid, done) = (device.pid(), AtomicBool::new(false));
    let before = procfs::usage(pid).unwrap().rss;
    let (took, (ours, theirs)) = thread::scope(|scope| {
        let peaks = scope.spawn(|| {
            let (mut ours, mut theirs) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                ours = procfs::usage(pid).unwrap().rss.max(ours);
                for keeper in procfs::children(pid).unwrap() {
                    theirs = procfs::usage(keeper).map_or(theirs, |usage| usage.peak_rss.max(theirs));
                }
                thread::sleep(Duration::from_millis(20));
            }
            (procfs::usage(pid).unwrap().rss.max(ours), theirs)
        });
        let began = Instant::now();
        orders.order("long", &format!("head -c {GIGABYTE} /dev/zero"));
        let end = client.success("long");
        let took = began.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let kept = end["stdout"].as_str().unwrap().len() as u64;
        assert!(kept <= KEPT && kept + end["stdout_dropped"].as_u64().unwrap() == GIGABYTE);
        (took, peaks.join().unwrap())
    });
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.at_least("1 GB of output, MB/s", 500.0, GIGABYTE as f64 / 1e6 / took, "–");
    table.limit("… agent RSS grown, MiB", 2.0, mib(ours.saturating_sub(before)), "–");
    table.figure("… keeper peak RSS, MiB", mib(theirs), "–");
}
