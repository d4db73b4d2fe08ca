//! Over trees that are written here, so that time, names and ends are ours to choose.

mod cost;
mod machine;
mod mutations;
mod real;
mod said;

use serde_json::{Value, json};

use machine::{Machine, Made};

use super::*;
use crate::services::metrics::{fixture::Tree, processes::Selectors};

const ALL: Wanted = Wanted { cpu: true, memory: true, io: true };

fn selectors(list: Value) -> Vec<Selector> {
    serde_json::from_value::<Selectors>(list).unwrap().0
}

fn counts(found: &BTreeMap<String, Process>) -> Vec<(&str, u64)> {
    found.iter().map(|(key, process)| (key.as_str(), process.count)).collect()
}

#[test]
fn each_kind_of_selector_finds_its_own() {
    let list = json!([
        "sshd", "ng*", "quite-a-long-name-of-a-daemon", "*-of-a-script.py",
        {"cmdline": "^java .*Main$", "as": "java"}, {"pid_file": "/run/x.pid", "as": "by file"}, {"unit": "ssh"}
    ]);
    let daemon = "quite-a-long-na";
    let mut machine = Machine::with(
        list,
        &[
            (1, Made { comm: b"systemd", ..Made::default() }),
            (10, Made { comm: b"sshd", cgroup: "0::/system.slice/ssh.service\n", ..Made::default() }),
            (11, Made { comm: b"sshd-session", ..Made::default() }),
            (12, Made { comm: b"nginx", ..Made::default() }),
            (
                13,
                Made {
                    comm: daemon.as_bytes(),
                    arguments: b"/usr/sbin/quite-a-long-name-of-a-daemon\0-d\0",
                    ..Made::default()
                },
            ),
            (
                14,
                Made {
                    comm: daemon.as_bytes(),
                    arguments: b"quite-a-long-name-of-another\0",
                    ..Made::default()
                },
            ),
            (
                15,
                Made {
                    comm: b"the-name-of-a-s",
                    arguments: b"python3\0-u\0/opt/the-name-of-a-script.py\0",
                    ..Made::default()
                },
            ),
            (16, Made { comm: b"java", arguments: b"java\0-jar\0\xff\0Main\0", ..Made::default() }),
            (17, Made::default()),
        ],
    );
    machine.tree.file("run/x.pid", "17\n");
    assert_eq!(
        counts(machine.first()),
        [
            ("*-of-a-script.py", 1),
            ("by file", 1),
            ("java", 1),
            ("ng*", 1),
            ("quite-a-long-name-of-a-daemon", 1),
            ("ssh", 1),
            ("sshd", 1)
        ]
    );
}

#[test]
fn a_long_name_is_that_of_the_executable_too() {
    let made = Made { comm: b"quite-a-long-na", arguments: b"title set by itself\0", ..Made::default() };
    let mut machine = Machine::with(json!(["quite-a-long-name"]), &[(5, made)]);
    machine.tree.link("proc/5/exe", "/opt/quite-a-long-name (deleted)");
    assert_eq!(machine.first()["quite-a-long-name"].count, 1);
}

#[test]
fn a_name_may_hold_anything() {
    let names: [&[u8]; 6] =
        [b"a b", b"a) S 1 (b", b"(sd-pam)", b"a\nb", b"\xff\xfe", b"kworker/u8:1-events_unbound"];
    let made = names.map(|comm| Made { comm, arguments: b"", ..Made::default() });
    let made: Vec<_> = (10..).zip(made).collect();
    let list = json!(["a b", "a) S 1 (b", "(sd-pam)", "kworker/u8:1-events_unbound", {"cmdline": ".*", "as": "any"}, {"glob": "*", "as": "all"}]);
    let mut machine = Machine::with(list, &made);
    let expected = [
        ("(sd-pam)", 1),
        ("a b", 1),
        ("a) S 1 (b", 1),
        ("all", 6),
        ("any", 0),
        ("kworker/u8:1-events_unbound", 1),
    ];
    assert_eq!(counts(machine.first()), expected, "what the kernel runs for itself has no arguments");
    assert_eq!(counts(machine.after(1)), expected);
}

#[test]
fn several_are_summed() {
    let mut machine = Machine::with(
        json!(["sleep"]),
        &[
            (7, Made { ticks: 100, threads: 2, start: 500, ..Made::default() }),
            (8, Made { ticks: 1000, start: 250, ..Made::default() }),
        ],
    );
    let page = page_size() as u64;
    let expected = Process {
        count: 2,
        cpu_usage: None,
        memory: Some(20 * page),
        threads: Some(3),
        fds: Some(6),
        read_bytes: Some(8192),
        write_bytes: Some(16384),
        read_ops: Some(6),
        write_ops: Some(8),
        started: Some(1_700_000_002.5),
    };
    assert_eq!(machine.first()["sleep"], expected);
    machine.make(7, &Made { ticks: 150, threads: 2, start: 500, ..Made::default() });
    machine.make(8, &Made { ticks: 1200, start: 250, ..Made::default() });
    assert_eq!(machine.after(2)["sleep"], Process { cpu_usage: Some(125.0), ..expected });
}

#[test]
fn only_what_is_wanted_is_read() {
    let machine = Machine::with(json!(["sleep"]), &[(7, Made::default())]);
    let wanted = Wanted { cpu: false, memory: false, io: false };
    let mut processes = Processes::new(&machine.tree.root(), selectors(json!(["sleep"])), wanted);
    let mut found = BTreeMap::from([("stale".to_owned(), Process::default())]);
    processes.collect_at(machine.now, None, &mut found);
    processes.collect_at(machine.now, Some(Duration::from_secs(1)), &mut found);
    let expected = Process {
        count: 1,
        threads: Some(1),
        fds: Some(3),
        started: Some(1_700_000_000.5),
        ..Process::default()
    };
    assert_eq!(found, BTreeMap::from([("sleep".to_owned(), expected)]));
}

#[test]
fn none_is_a_count_of_0_and_nothing_else() {
    let mut machine = Machine::with(
        json!(["sleep", {"pid_file": "/run/none.pid"}]),
        &[(7, Made { comm: b"x", ..Made::default() })],
    );
    assert_eq!(machine.first()["sleep"], Process::default());
    assert_eq!(machine.found["/run/none.pid"], Process::default());
}

#[test]
fn one_that_ended_is_gone_and_its_successor_found_at_once() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made::default())]);
    assert_eq!(machine.first()["sleep"].count, 1);
    machine.end(7);
    machine.make(9, &Made { start: 100_250, ticks: 30, ..Made::default() });
    let found = machine.after(5)["sleep"].clone();
    assert_eq!(found.count, 1);
    assert_eq!(found.cpu_usage, Some(6.0), "it began since the last look: 0.3 s of 5");
    machine.end(9);
    assert_eq!(machine.after(5)["sleep"], Process::default());
}

#[test]
fn one_found_late_counts_from_then_on() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made { comm: b"x", ..Made::default() })]);
    machine.first();
    machine.make(8, &Made { start: 100_100, ticks: 400, ..Made::default() });
    assert_eq!(machine.after(5)["sleep"].count, 0, "nobody looks yet");
    let found = &machine.after(5)["sleep"];
    assert_eq!((found.count, found.cpu_usage), (1, None), "most of it was before the last look");
    machine.make(8, &Made { start: 100_100, ticks: 500, ..Made::default() });
    assert_eq!(machine.after(5)["sleep"].cpu_usage, Some(20.0));
}

#[test]
fn new_ones_are_found_at_once_on_request() {
    let mut machine = Machine::new(json!(["sleep"]));
    assert_eq!(machine.first()["sleep"].count, 0);
    machine.make(8, &Made::default());
    assert_eq!(machine.after(1)["sleep"].count, 0);
    machine.processes.look_again();
    assert_eq!(machine.after(1)["sleep"].count, 1);
}

/// The file stays, as that of a number that another process has got.
#[test]
fn the_same_number_is_not_the_same_process() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made { ticks: 5, ..Made::default() })]);
    machine.first();
    machine.make(7, &Made { comm: b"other", start: 100_100, ticks: 900, ..Made::default() });
    assert_eq!(machine.after(5)["sleep"], Process::default());
    machine.make(7, &Made { start: 100_600, ticks: 100, ..Made::default() });
    machine.processes.look_again();
    let found = &machine.after(5)["sleep"];
    assert_eq!((found.count, found.cpu_usage), (1, Some(20.0)), "its own second, not the other's nine");
    machine.make(7, &Made { start: 101_100, ticks: 110, ..Made::default() });
    assert_eq!(machine.after(5)["sleep"].cpu_usage, Some(22.0), "another one, of the same name");
}

#[test]
fn counters_that_fall_yield_nothing_for_a_round() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made { ticks: 500, ..Made::default() })]);
    machine.first();
    machine.make(7, &Made { ticks: 400, ..Made::default() });
    assert_eq!(machine.after(1)["sleep"].cpu_usage, None);
    machine.make(7, &Made { ticks: 450, ..Made::default() });
    assert_eq!(machine.after(1)["sleep"].cpu_usage, Some(50.0));
    let at_once = Some(Duration::from_millis(1));
    machine.make(7, &Made { ticks: 451, ..Made::default() });
    machine.processes.collect_at(machine.now, at_once, &mut machine.found);
    assert_eq!(machine.found["sleep"].cpu_usage, None, "a tick is not 1000 %");
}

/// Between a start and its name lies the exec; and a program may become another one at any time.
#[test]
fn one_that_becomes_another_program_is_seen() {
    let mut machine = Machine::with(json!(["sleep", "web"]), &[(7, Made { comm: b"sh", ..Made::default() })]);
    assert_eq!(machine.first()["sleep"].count, 0);
    machine.make(7, &Made::default());
    assert_eq!(machine.after(10)["sleep"].count, 1, "young ones are looked at again");
    machine.make(7, &Made { comm: b"web", ..Made::default() });
    assert_eq!(counts(machine.after(1)), [("sleep", 0), ("web", 1)], "its stat says so");
    machine.make(7, &Made { comm: b"sh", ..Made::default() });
    assert_eq!(counts(machine.after(1)), [("sleep", 0), ("web", 0)]);
    for _ in 0..4 {
        machine.after(10);
    }
    machine.make(7, &Made::default());
    assert_eq!(machine.after(10)["sleep"].count, 1, "old ones are looked at in turn");
}

#[test]
fn old_ones_have_their_turn_among_many() {
    let made: Vec<_> = (100..300).map(|pid| (pid, Made { comm: b"sh", ..Made::default() })).collect();
    let mut machine = Machine::with(json!(["sleep"]), &made);
    machine.first();
    for _ in 0..6 {
        machine.after(10);
    }
    for pid in [100, 199, 299] {
        machine.make(pid, &Made::default());
    }
    // 200 in turns of 32.
    for _ in 0..8 {
        machine.after(10);
    }
    assert_eq!(machine.found["sleep"].count, 3);
}

#[test]
fn a_zombie_does_not_run() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made { state: "Z", ..Made::default() })]);
    assert_eq!(machine.first()["sleep"].count, 0);
    machine.make(7, &Made { state: "Z", threads: 4, ..Made::default() });
    assert_eq!(machine.after(10)["sleep"].count, 1, "only its first thread has ended");
    machine.make(7, &Made { state: "Z", ..Made::default() });
    assert_eq!(machine.after(1)["sleep"].count, 0);
}

#[test]
fn a_pid_file_may_name_another() {
    let made: Vec<_> = (7..10).map(|pid| (pid, Made { start: u64::from(pid), ..Made::default() })).collect();
    let mut machine = Machine::with(json!([{"pid_file": "/run/x.pid", "as": "x"}]), &made);
    machine.tree.file("run/x.pid", "7");
    assert_eq!(machine.first()["x"].started, Some(1_700_000_000.07));
    machine.tree.file("run/x.pid", "8");
    assert_eq!(machine.after(10)["x"].started, Some(1_700_000_000.08));
    assert_eq!(machine.found["x"].count, 1);
    machine.tree.file("run/x.pid", "");
    assert_eq!(machine.after(10)["x"].count, 0);
    machine.tree.file("run/x.pid", "4000000");
    assert_eq!(machine.after(10)["x"].count, 0, "a stale one");
}

/// What is not known is not said to be none.
#[test]
fn what_cannot_be_looked_at_is_not_0() {
    let mut machine = Machine::with(
        json!(["sleep", {"pid_file": "/run", "as": "x"}]),
        &[(7, Made { comm: b"x", ..Made::default() })],
    );
    machine.tree.folder("run");
    assert_eq!(counts(machine.first()), [("sleep", 0)], "a folder is no pid file");
    machine.tree.remove("proc/7/comm");
    machine.tree.folder("proc/7/comm");
    machine.processes.look_again();
    assert_eq!(counts(machine.after(1)), [], "it may be one");
    machine.tree.remove("proc/7/comm");
    assert_eq!(counts(machine.after(10)), [("sleep", 0)]);
    machine.make(7, &Made::default());
    assert_eq!(machine.after(10)["sleep"].count, 1);
    machine.tree.file("proc/7/stat", "7 (sleep) S");
    assert_eq!(counts(machine.after(1)), [], "there, and not understood");
}

#[test]
fn a_part_that_cannot_be_read_is_absent_for_all() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made::default()), (8, Made::default())]);
    machine.tree.remove("proc/7/io");
    machine.tree.file("proc/8/statm", "odd");
    let found = machine.first()["sleep"].clone();
    assert_eq!((found.count, found.read_bytes, found.read_ops, found.memory), (2, None, None, None));
    assert_eq!((found.threads, found.fds), (Some(2), Some(6)));
    machine.make(7, &Made::default());
    assert_eq!(machine.after(1)["sleep"].read_bytes, Some(8192), "it is tried again");
}

#[test]
fn without_proc_nothing_is_known() {
    let tree = Tree::new();
    let mut processes = Processes::new(&tree.root(), selectors(json!(["sleep"])), ALL);
    let mut found = BTreeMap::new();
    processes.collect_at(Duration::from_secs(1), None, &mut found);
    assert!(found.is_empty());
}

#[test]
fn the_time_of_the_boot_does_not_waver() {
    let mut machine = Machine::with(json!(["sleep"]), &[(7, Made::default())]);
    for (btime, expected) in
        [(1_700_000_000, 1_700_000_000.5), (1_700_000_001, 1_700_000_000.5), (1_800_000_000, 1_800_000_000.5)]
    {
        machine.tree.file("proc/stat", format!("btime {btime}\n"));
        assert_eq!(machine.after(10)["sleep"].started, Some(expected));
    }
}
