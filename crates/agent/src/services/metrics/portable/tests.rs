//! Linux as the library sees it, against our own eyes.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use super::*;
use crate::clock::Clock;
use crate::services::metrics::{files::Root, fixture::look, glob::Glob, system::System};

fn all() -> Wanted {
    Wanted { cpu: true, memory: true, disk: true, network: true, own: true, ..Wanted::default() }
}

fn clock() -> Clock {
    Clock::new(SystemTime::UNIX_EPOCH, None)
}

type Seen = BTreeMap<String, f64>;

/// Both look twice: ours just before and just after it, so that what flows lies between.
fn look_with_both(ours: &mut System, portable: &mut Portable) -> (Seen, Seen, Seen, Summary) {
    let elapsed = Duration::from_secs(1);
    look(|values| ours.collect(None, values));
    look(|values| portable.collect(None, values));
    let end = Instant::now() + elapsed;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
    let mut summary = Summary::default();
    let before = look(|values| ours.collect(Some(elapsed), values));
    let seen = look(|values| summary = portable.collect(Some(elapsed), values));
    (before, seen, look(|values| ours.collect(None, values)), summary)
}

#[test]
fn the_library_sees_what_our_own_eyes_see() {
    let mut ours = System::new(&Root::system(), all(), clock());
    let mut portable = Portable::new(all());
    let mut wrong = Vec::new();
    // The looks are some milliseconds apart, in which a loaded machine can do something else.
    for _ in 0..5 {
        let (before, seen, after, summary) = look_with_both(&mut ours, &mut portable);
        wrong = differences(&before, &seen, &after);
        assert_eq!(summary.cpu_usage, seen.get("cpu.usage").copied());
        assert_eq!(summary.memory, seen.get("memory.used").copied());
        assert_eq!(summary.disk, None);
        if wrong.is_empty() {
            return;
        }
    }
    panic!("{wrong:#?}");
}

fn differences(before: &Seen, seen: &Seen, after: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let margins = [
        ("cpu.usage", 10.0),
        ("cpu.core.0.usage", 20.0),
        ("cpu.cores", 0.0),
        ("load.1m", 0.5),
        ("load.15m", 0.5),
        ("memory.used", 1.0),
        ("memory.total", 0.0),
        ("swap.total", 0.0),
        ("host.boot_time", 2.0),
        ("host.uptime", 2.0),
    ];
    for (name, margin) in margins {
        let near = before.get(name).zip(seen.get(name)).is_some_and(|(a, b)| (a - b).abs() <= margin);
        if !near {
            wrong.push(format!("{name}: {:?}, and the library {:?}", before.get(name), seen.get(name)));
        }
    }
    let flows = ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_errors", "tx_errors"];
    for (name, low) in before.iter().filter(|(name, _)| name.starts_with("net.")) {
        let Some(high) = after.get(name).filter(|_| flows.iter().any(|flow| name.ends_with(flow))) else {
            continue;
        };
        if !seen.get(name).is_some_and(|value| (low..=high).contains(&value)) {
            wrong.push(format!("{name}: {low} to {high}, and the library {:?}", seen.get(name)));
        }
    }
    wrong
}

#[test]
fn only_what_is_wanted_is_looked_at() {
    let mut portable = Portable::new(Wanted::default());
    let seen = look(|values| assert_eq!(portable.collect(None, values), Summary::default()));
    assert!(seen.keys().all(|name| name.starts_with("host.")), "{seen:?}");
    let mut portable = Portable::new(Wanted { own: true, ..Wanted::default() });
    let seen = look(|values| portable.collect(None, values));
    assert!(seen["agent.memory"] > 100_000.0 && seen["agent.fds"] > 2.0, "{seen:?}");
}

#[test]
fn virtual_interfaces_count_only_where_chosen() {
    for (name, real) in [
        ("en0", true),
        ("em0", true),
        ("ppp0", true),
        ("wlan0", true),
        ("lo0", false),
        ("utun3", false),
        ("bridge100", false),
        ("lo", false),
    ] {
        assert_eq!(is_real(name.as_bytes()), real, "{name}");
    }
    let interfaces = Choice { include: vec![Glob::new("lo")], exclude: vec![] };
    let mut portable = Portable::new(Wanted { network: true, interfaces, ..Wanted::default() });
    let seen = look(|values| assert!(portable.collect(None, values).network.is_some()));
    assert!(seen.contains_key("net.lo.rx_bytes") && !seen.keys().any(|name| name.starts_with("net.e")));
}

#[test]
fn what_is_mounted_is_listed_with_the_root_first() {
    let mut mounted = Mounted::new(&Root::system());
    let mut chosen = Vec::new();
    let choose = |include: &[&str], exclude: &[&str]| Choice {
        include: include.iter().map(|glob| Glob::new(glob)).collect(),
        exclude: exclude.iter().map(|glob| Glob::new(glob)).collect(),
    };
    mounted.choose(&choose(&[], &[]), &mut chosen);
    assert!(chosen[0].at.as_path() == std::path::Path::new("/") && chosen[0].wanted);
    mounted.choose(&choose(&[], &["*"]), &mut chosen);
    assert_eq!(chosen.len(), 1);
    assert!(!chosen[0].wanted, "asked for the summary only");
    assert!(holds_files(OsStr::new("apfs")) && holds_files(OsStr::new("ufs")));
    assert!(!holds_files(OsStr::new("devfs")));
}

/// A list that does not come holds nothing up, and none is asked for meanwhile.
#[test]
fn a_list_that_does_not_come_leaves_the_one_of_before() {
    let (tell, listing) = channel();
    let at = |path: &str| Mount { at: std::sync::Arc::new(path.into()), wanted: true };
    let mut mounted = Mounted { listing: Some(listing), mounts: vec![(at("/mnt"), true)] };
    let names = |mounted: &mut Mounted| -> Vec<_> {
        let mut mounts = Vec::new();
        mounted.choose(&Choice::default(), &mut mounts);
        mounts.iter().map(|mount| mount.at.display().to_string()).collect()
    };
    assert_eq!(names(&mut mounted), ["/", "/mnt"]);
    assert!(mounted.listing.is_some(), "it is waited for still");
    tell.send(vec![(at("/srv"), true), (at("/tmp"), false)]).unwrap();
    assert_eq!(names(&mut mounted), ["/", "/srv"]);
    assert!(mounted.listing.is_none());
}
