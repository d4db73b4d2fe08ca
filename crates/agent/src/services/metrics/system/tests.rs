use std::{
    collections::BTreeMap,
    fs,
    time::{Instant, SystemTime},
};

use testkit::Rng;

use super::*;
use crate::services::metrics::{
    fixture::{Tree, look, spoil},
    glob::Glob,
};

fn all() -> Wanted {
    Wanted { cpu: true, memory: true, disk: true, network: true, own: true, ..Wanted::default() }
}

fn clock() -> Clock {
    Clock::new(SystemTime::UNIX_EPOCH, None)
}

/// Another board: one core, no MemAvailable, no pressure, an SD card.
const BOARD: &[(&str, &str)] = &[
    ("proc/stat", "cpu  100 0 100 800 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0\nbtime 1700000000\n"),
    ("proc/loadavg", "0.00 0.01 0.05 1/70 4711\n"),
    (
        "proc/meminfo",
        "MemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 100 kB\nCached: 150 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
    ),
    ("proc/diskstats", " 179 0 mmcblk0 10 0 20 0 30 0 40 0 0 0 0\n 179 1 mmcblk0p1 1 2 3 4\n"),
    (
        "proc/net/dev",
        "Inter-|\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n  eth0:5000 1 2 3 0 0 0 0 7000 4 5 6 0 0 0 0\n",
    ),
    (
        "proc/self/mountinfo",
        "27 1 179:1 / / rw - ext4 /dev/mmcblk0p1 rw\n30 27 0:9 / /tmp\\040x rw - tmpfs tmpfs rw\n",
    ),
    ("proc/self/cgroup", "0::/a\n"),
    ("sys/fs/cgroup/a/memory.max", "100\n"),
    ("sys/fs/cgroup/a/memory.current", "25\n"),
    ("proc/self/status", "Name:\tx\nVmRSS:\t 500 kB\nThreads:\t2\n"),
    ("proc/uptime", "17236.53 29001.20\n"),
    ("proc/pressure/cpu", "some avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("sys/class/thermal/thermal_zone0/type", "soc\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48000\n"),
    ("sys/block/mmcblk0/device/type", "SD\n"),
    ("sys/class/net/eth0/device/uevent", ""),
];

fn board() -> Tree {
    let tree = Tree::new();
    BOARD.iter().for_each(|(path, content)| tree.file(path, content));
    tree
}

fn names(system: &mut System, elapsed: Option<Duration>) -> Vec<String> {
    let kinds = look(|values| system.collect(elapsed, values)).into_keys();
    let mut kinds: Vec<String> =
        kinds.map(|name| name.split('.').next().unwrap_or_default().to_owned()).collect();
    kinds.dedup();
    kinds
}

#[test]
fn the_summary_is_of_what_is_wanted() {
    let tree = board();
    let mut system = System::new(&tree.root(), all(), clock());
    look(|values| {
        let summary = system.collect(None, values);
        assert_eq!((summary.cpu_usage, summary.memory, summary.network), (None, Some(25.0), Some(5000)));
        assert!(summary.disk.is_some_and(|used| used > 0.0 && used <= 100.0), "of this machine's own /");
    });
    tree.file("proc/stat", "cpu  150 0 100 850 0 0 0 0\nbtime 1700000000\n");
    look(|values| assert_eq!(system.collect(Some(Duration::from_secs(1)), values).cpu_usage, Some(50.0)));
}

#[test]
fn flags_choose_the_groups() {
    let tree = board();
    let of = |wanted| names(&mut System::new(&tree.root(), wanted, clock()), None);
    assert_eq!(of(Wanted::default()), ["host"]);
    assert_eq!(of(Wanted { cpu: true, ..Wanted::default() }), ["cpu", "host", "load", "pressure", "temp"]);
    assert_eq!(of(Wanted { memory: true, ..Wanted::default() }), ["host", "memory", "swap"]);
    assert_eq!(of(Wanted { disk: true, ..Wanted::default() }), ["disk", "fs", "host"]);
    assert_eq!(of(Wanted { network: true, ..Wanted::default() }), ["host", "net"]);
    assert_eq!(of(Wanted { own: true, ..Wanted::default() }), ["agent", "host"]);
}

#[test]
fn globs_reach_their_collectors() {
    let tree = board();
    let glob = |pattern| Choice { include: vec![Glob::new(pattern)], exclude: vec![] };
    let wanted = Wanted { filesystems: glob("/none"), disks: glob("none"), interfaces: glob("lo"), ..all() };
    let mut system = System::new(&tree.root(), wanted, clock());
    let seen = look(|values| {
        let summary = system.collect(None, values);
        assert_eq!((summary.network, summary.disk.is_some()), (Some(1), true));
    });
    assert!(!seen.keys().any(|name| name.starts_with("fs.") || name.starts_with("disk.")), "{seen:?}");
}

/// Whatever the kernel writes: no panic, no percentage outside 0 to 100, nothing below zero but a temperature.
#[test]
fn spoilt_files_never_make_a_panic_or_an_absurd_value() {
    let (tree, mut rng) = (board(), Rng::new(testkit::seed()));
    let mut system = System::new(&tree.root(), all(), clock());
    let mut values = Values::default();
    for round in 0..1500 {
        let (path, content) = *rng.pick(BOARD);
        tree.file(path, spoil(content.as_bytes(), &mut rng));
        if round % 50 == 0 {
            // What is looked up once (cgroup, sensors) is looked up anew.
            system = System::new(&tree.root(), all(), clock());
        }
        values.begin();
        system.collect(Some(Duration::from_millis(1 + rng.below(2000))), &mut values);
        for (name, value) in values.iter() {
            let bounds = match value.unit {
                // A group may use more than its limit, for a moment.
                "%" if name != "memory.cgroup_used" => 0.0..=100.000_001,
                "°C" => -90.0..=200.0,
                _ => 0.0..=f64::MAX,
            };
            assert!(bounds.contains(&value.value), "{name} {value:?} after {path}");
        }
        if rng.below(3) == 0 {
            tree.file(path, content);
        }
    }
}

#[test]
fn a_machine_without_these_files_lacks_the_values_and_no_more() {
    let tree = board();
    let mut system = System::new(&tree.root(), all(), clock());
    let full = look(|values| system.collect(None, values));
    let mut other = System::new(&Tree::new().root(), all(), clock());
    let empty = look(|values| other.collect(None, values));
    let of_no_file = ["fs./.free", "fs./.inodes_used", "fs./.total", "fs./.used", "host.clock_synchronised"];
    assert!(empty.keys().all(|name| of_no_file.contains(&name.as_str())), "{empty:?}");
    assert!(full.len() > 30, "{full:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn this_machine_by_hand() {
    let mut system = System::new(&Root::system(), all(), clock());
    let mut summary = Summary::default();
    look(|values| summary = system.collect(None, values));
    let begin = Instant::now();
    let before = by_hand();
    let seen =
        look(|values| summary = system.collect(Some(begin.elapsed().max(Duration::from_millis(1))), values));
    let after = by_hand();
    for (name, low) in &before {
        let high = after[name];
        let value = seen.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let (low, high) = (low.min(high), low.max(high));
        assert!((low..=high).contains(value), "{name}: {value} is not in {low}..={high}");
    }
    assert_eq!(summary.memory, seen.get("memory.used").copied());
    assert_eq!(summary.disk, seen.get("fs./.used").copied());
}

/// What does not go back, read with other means: split and index, as a person would.
fn by_hand() -> BTreeMap<String, f64> {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let mut values = BTreeMap::new();
    for line in read("/proc/net/dev").lines().skip(2) {
        let (name, counts) = line.split_once(':').unwrap();
        let name = name.trim();
        if fs::exists(format!("/sys/class/net/{name}/device")).unwrap() {
            let counts: Vec<f64> = counts.split_whitespace().map(|count| count.parse().unwrap()).collect();
            values.insert(format!("net.{name}.rx_bytes"), counts[0]);
            values.insert(format!("net.{name}.tx_bytes"), counts[8]);
        }
    }
    for line in read("/proc/diskstats").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if fs::exists(format!("/sys/block/{}/device", words[2])).unwrap() {
            let count = |at: usize| words[at].parse::<f64>().unwrap();
            values.insert(format!("disk.{}.read_bytes", words[2]), 512.0 * count(5));
            values.insert(format!("disk.{}.write_bytes", words[2]), 512.0 * count(9));
            values.insert(format!("disk.{}.write_ops", words[2]), count(7));
        }
    }
    let total = read("/proc/meminfo");
    let total: f64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    values.insert("memory.total".to_owned(), 1024.0 * total);
    let uptime = read("/proc/uptime");
    values.insert("host.uptime".to_owned(), uptime.split(' ').next().unwrap().parse().unwrap());
    let cores = read("/proc/stat")
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .count();
    values.insert("cpu.cores".to_owned(), cores as f64);
    values
}
