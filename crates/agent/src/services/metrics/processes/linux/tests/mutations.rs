//! Files that say anything.

use testkit::seed::{Rng, seed};

use super::*;

/// Whatever is in them, a look ends, and what it tells is a number that can be true.
#[test]
fn no_file_makes_a_look_panic_or_absurd() {
    let mut rng = Rng::new(seed());
    let list = json!(["sleep", {"glob": "*", "as": "all"}, {"cmdline": "(s|sl)+e*p", "as": "line"}, {"unit": "ssh"}, {"pid_file": "/run/x.pid"}]);
    let made = Made { cgroup: "0::/system.slice/ssh.service", start: 50, ..Made::default() };
    let mut machine = Machine::with(list, &[(7, made.clone()), (8, made.clone())]);
    machine.tree.file("run/x.pid", "7");
    machine.first();
    for round in 0..400_u64 {
        machine.make(7, &Made { ticks: 100 * round, ..made.clone() });
        let name = rng.pick(&[
            "proc/7/stat",
            "proc/7/comm",
            "proc/7/statm",
            "proc/7/io",
            "proc/7/cgroup",
            "proc/7/cmdline",
            "proc/stat",
            "run/x.pid",
        ]);
        let path = machine.tree.root().path(name);
        let mut text = std::fs::read(&path).unwrap();
        for _ in 0..=rng.below(3) {
            let place = rng.below(text.len() as u64 + 1) as usize;
            match rng.below(4) {
                0 => text.truncate(place),
                1 => text.insert(place, *rng.pick(b"()0 \n:-/\0\xff9")),
                2 if place < text.len() => text[place] = rng.below(256) as u8,
                _ => text.extend_from_within(place..(place + 64).min(text.len())),
            }
        }
        std::fs::write(&path, text).unwrap();
        if rng.below(3) == 0 {
            machine.processes.look_again();
        }
        machine.after(1 + rng.below(12));
        for (key, process) in &machine.found {
            assert!(process.count <= 2, "{key}: {process:?}");
            assert!(process.count > 0 || *process == Process::default(), "{key}: {process:?}");
            assert!(process.cpu_usage.is_none_or(|cpu| cpu.is_finite() && cpu >= 0.0), "{key}: {process:?}");
        }
        machine.tree.file("run/x.pid", "7");
        machine.tree.file("proc/stat", "btime 1700000000\n");
    }
    machine.make(7, &made);
    machine.processes.look_again();
    assert_eq!(machine.after(10)["sleep"].count, 2, "and none of it lasts");
}
