use std::time::{Duration, SystemTime};

use super::*;
use crate::{
    clock::Reading,
    services::metrics::fixture::{Tree, look},
};

fn clock(synchronised: bool) -> Clock {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Clock::with_source(time, move || Reading { time, synchronised })
}

#[test]
fn since_when_it_runs_and_whether_its_clock_is_right() {
    let tree = Tree::new();
    tree.file("proc/uptime", "17236.53 29001.20\n");
    tree.file("proc/stat", "cpu 1 2 3 4\nbtime 1795363040\nprocesses 5\n");
    let seen = look(|values| Host::new(&tree.root(), clock(true)).collect(values));
    assert_eq!((seen["host.uptime"], seen["host.boot_time"]), (17236.53, 1_795_363_040.0));
    assert_eq!(seen["host.clock_synchronised"], 1.0);
    assert_eq!(
        look(|values| Host::new(&tree.root(), clock(false)).collect(values))["host.clock_synchronised"],
        0.0
    );
}

#[test]
fn what_cannot_be_read_is_absent() {
    let tree = Tree::new();
    let mut host = Host::new(&tree.root(), clock(true));
    assert_eq!(
        look(|values| host.collect(values)).into_keys().collect::<Vec<_>>(),
        ["host.clock_synchronised"]
    );
    tree.file("proc/uptime", "");
    tree.file("proc/stat", "btime x\nbtimes 7\n");
    assert_eq!(
        look(|values| host.collect(values)).into_keys().collect::<Vec<_>>(),
        ["host.clock_synchronised"]
    );
}

/// Processes come and go while the test counts, so the count must lie between those of before and after, with
/// a margin for what came and went meanwhile.
#[cfg(target_os = "linux")]
#[test]
fn the_links_of_proc_count_the_processes() {
    let count = || {
        let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| number(name.as_encoded_bytes()).is_some()).count() as f64
    };
    let mut host = Host::new(&Root::system(), clock(true));
    let before = count();
    let seen = look(|values| host.collect(values))["host.processes"];
    let after = count();
    assert!(seen > before.min(after) - 20.0 && seen < before.max(after) + 20.0, "{before} {seen} {after}");
}
