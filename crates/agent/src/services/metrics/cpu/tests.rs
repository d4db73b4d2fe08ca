use std::time::Duration;

use super::*;
use crate::services::metrics::fixture::{Tree, look};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn stat(tree: &Tree, lines: &[&str]) {
    tree.file("proc/stat", format!("{}\nintr 1 2 3\nctxt 5\nbtime 1700000000\n", lines.join("\n")));
}

#[test]
fn shares_are_of_the_time_between_two_looks() {
    let tree = Tree::new();
    let mut cpu = Cpu::new(&tree.root());
    tree.file("proc/loadavg", "0.53 1.20 12.07 2/311 4711\n");
    stat(&tree, &["cpu  100 10 50 1000 20 1 2 3 40 5", "cpu0 100 10 50 1000 20 1 2 3 40 5"]);
    let first = look(|values| assert_eq!(cpu.collect(None, values), None));
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        ["cpu.cores", "load.15m", "load.1m", "load.5m"],
        "no share of an unknown time"
    );
    assert_eq!([first["load.1m"], first["load.5m"], first["load.15m"]], [0.53, 1.20, 12.07]);

    stat(&tree, &["cpu  120 15 65 1040 28 2 5 11 48 9", "cpu0 200 10 50 1000 20 1 2 3 40 5"]);
    let mut usage = None;
    let second = look(|values| usage = cpu.collect(SECOND, values));
    // 100 ticks: 20 user, 5 nice, 15 system, 40 idle, 8 iowait, 1 + 3 interrupts, 8 steal; guests are in user.
    for (name, share) in [
        ("cpu.user", 20.0),
        ("cpu.nice", 5.0),
        ("cpu.system", 15.0),
        ("cpu.idle", 40.0),
        ("cpu.iowait", 8.0),
        ("cpu.irq", 4.0),
        ("cpu.steal", 8.0),
        ("cpu.usage", 52.0),
        ("cpu.core.0.usage", 100.0),
    ] {
        assert!((second[name] - share).abs() < 1e-9, "{name} is {}", second[name]);
    }
    assert_eq!(usage, Some(second["cpu.usage"]));
}

#[test]
fn many_cores_are_told_apart_and_one_that_was_off_begins_anew() {
    let tree = Tree::new();
    let mut cpu = Cpu::new(&tree.root());
    let write = |busy: u64, idle: u64, but: Option<u64>| {
        let mut lines = vec![format!("cpu  {} 0 0 {} 0 0 0 0 0 0", 128 * busy, 128 * idle)];
        let cores = (0..128).filter(|core| Some(*core) != but);
        lines.extend(cores.map(|core| format!("cpu{core} {} 0 0 {idle} 0 0 0 0 0 0", busy + core)));
        stat(&tree, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    };
    write(100, 100, None);
    look(|values| assert_eq!(cpu.collect(None, values), None));
    write(125, 175, None);
    let all = look(|values| assert_eq!(cpu.collect(SECOND, values), Some(25.0)));
    assert_eq!((all["cpu.cores"], all["cpu.core.0.usage"], all["cpu.core.127.usage"]), (128.0, 25.0, 25.0));
    write(150, 250, Some(7));
    let less = look(|values| cpu.collect(SECOND, values));
    assert_eq!((less["cpu.cores"], less.get("cpu.core.7.usage")), (127.0, None));
    write(175, 325, None);
    let back = look(|values| cpu.collect(SECOND, values));
    assert_eq!((back.get("cpu.core.7.usage"), back["cpu.core.8.usage"]), (None, 25.0));
    write(200, 400, None);
    assert_eq!(look(|values| cpu.collect(SECOND, values))["cpu.core.7.usage"], 25.0);
}

#[test]
fn counters_that_begin_again_yield_nothing_for_that_round() {
    let tree = Tree::new();
    let mut cpu = Cpu::new(&tree.root());
    let mut usage = |line: &str, elapsed| {
        stat(&tree, &[line]);
        let mut usage = None;
        look(|values| usage = cpu.collect(elapsed, values));
        usage
    };
    assert_eq!(usage("cpu 1000 0 1000 8000 0 0 0 0", None), None);
    assert_eq!(usage("cpu 10 0 10 80 0 0 0 0", SECOND), None, "reset");
    assert_eq!(usage("cpu 20 0 10 170 0 0 0 0", SECOND), Some(10.0));
    assert_eq!(usage("cpu 20 0 10 170 0 0 0 18446744073709551615", SECOND), None, "steal gone mad");
    assert_eq!(usage("cpu 20 0 10 170 0 0 0 0", SECOND), None);
    assert_eq!(usage("cpu 20 0 10 170 0 0 0 0", SECOND), None, "no time went by");
    assert_eq!(usage("cpu 70 0 10 220 5 0 0 0", None), None, "suspended");
    // The kernel's iowait and idle step back at times; the round is not lost for it.
    assert_eq!(usage("cpu 80 0 10 250 3 0 0 0", SECOND), Some(25.0));
}

#[test]
fn a_kernel_that_tells_less_is_understood() {
    assert_eq!(parse(b"cpu 1 2 3 4"), Some((&b""[..], [1, 2, 3, 4, 0, 0, 0, 0])));
    assert_eq!(parse(b"cpu12 1 2 3 4 5 6 7"), Some((&b"12"[..], [1, 2, 3, 4, 5, 6, 7, 0])));
    for odd in
        [&b"cpu"[..], b"cpu 1 2 3", b"cpux 1 2 3 4", b"cpu 1 2 -3 4", b"cpu0", b"cpufreq 1 2 3 4 5", b"\xff"]
    {
        assert_eq!(parse(odd), None, "{odd:?}");
    }
}

#[test]
fn a_file_that_vanishes_takes_its_values_with_it() {
    let tree = Tree::new();
    let mut cpu = Cpu::new(&tree.root());
    assert!(look(|values| assert_eq!(cpu.collect(SECOND, values), None)).is_empty());
    stat(&tree, &["cpu 10 0 0 10 0 0 0 0"]);
    look(|values| assert_eq!(cpu.collect(SECOND, values), None));
    stat(&tree, &["cpu 20 0 0 20 0 0 0 0"]);
    look(|values| assert_eq!(cpu.collect(SECOND, values), Some(50.0)));
}
