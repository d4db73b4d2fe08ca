//! What a look costs, counted: this test runs itself once more, under strace, with nothing beside it.

use std::{
    alloc::System,
    env, fs,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Access, access},
    thread::gettid,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use super::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CHILD: &str = "IOT_AGENT_TEST_COST";
const THIS: &str = "services::metrics::processes::linux::tests::cost::a_look_costs_next_to_nothing";

/// One minute of looks, every second, after one to warm up.
const LOOKS: usize = 60;

/// A look as strace saw it, and the allocator.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    calls: usize,
    allocations: usize,
}

#[test]
fn a_look_costs_next_to_nothing() {
    if let Ok(many) = env::var(CHILD) {
        return child(&many);
    }
    let of = |looks: &[Look]| looks.iter().map(|look| look.calls).sum::<usize>() as f64 / looks.len() as f64;
    let real = run("real");
    println!("real: {:.1} calls a look", of(&real));
    let quiet = real.iter().filter(|look| look.calls == 12).count();
    assert!(quiet >= LOOKS * 8 / 10, "4 calls for each of three, but for walks: {real:?}");
    assert!(of(&real) < 40.0, "{real:?}");
    assert!(real.iter().all(|look| look.allocations <= 5), "{real:?}");
    let idle = real.iter().filter(|look| look.allocations == 0).count();
    assert!(idle >= LOOKS * 8 / 10, "none but for walks: {real:?}");

    let (few, many) = (of(&run("200")), of(&run("5000")));
    println!("200: {few:.1}, 5000: {many:.1} calls a look");
    assert!(many <= 5.0 * few, "{few} {many}");
}

/// Runs this test as a child under strace, and takes its looks apart.
fn run(many: &str) -> Vec<Look> {
    let folder = tempfile::tempdir().unwrap();
    let (trace, figures) = (folder.path().join("trace"), folder.path().join("figures"));
    let done = Command::new("strace")
        .args(["-f", "-qq", "--signal=none", "-o"])
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", THIS, "--test-threads=1"])
        .env(CHILD, many)
        .env("FIGURES", &figures)
        .output()
        .expect("strace is needed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let (trace, figures) = (fs::read_to_string(trace).unwrap(), fs::read_to_string(figures).unwrap());
    let mut figures = figures.lines();
    let watcher = figures.next().unwrap();
    let own =
        trace.lines().filter(|line| line.split(' ').next() == Some(watcher) && !line.contains("resumed>"));
    let calls: Vec<_> = own.collect();
    // What is before the first mark is not of a look.
    let end = calls.iter().position(|line| line.contains("/the-looks-end")).unwrap();
    let calls = calls[..end].split(|line| line.contains("/a-look-begins")).skip(1).map(<[_]>::len);
    let looks: Vec<_> = calls
        .zip(figures)
        .map(|(calls, allocations)| Look { calls, allocations: allocations.parse().unwrap() })
        .collect();
    assert_eq!(looks.len(), LOOKS);
    looks
}

/// The looks, each after a call that marks it.
fn child(many: &str) {
    let list = json!(["cost-a", "cost-b", "cost-c"]);
    let children: Vec<Child>;
    let mut machine = Machine::new(list.clone());
    if let Ok(many) = many.parse::<u32>() {
        children = Vec::new();
        for pid in 1000..1000 + many {
            machine.tree.file(&format!("proc/{pid}/comm"), "other\n");
        }
        for (pid, comm) in [(1, b"cost-a"), (2, b"cost-b"), (3, b"cost-c")] {
            machine.make(pid, &Made { comm, ..Made::default() });
        }
    } else {
        let program = |name: &str| {
            let path = machine.tree.root().path(name);
            std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
            path
        };
        let named = ["cost-a", "cost-b", "cost-c"].map(program);
        let mut started: Vec<_> = named.iter().map(|path| sleeper(path.to_str().unwrap())).collect();
        started.extend((0..200).map(|_| sleeper("sleep")));
        children = started;
        machine.processes = Processes::new(&Root::system(), selectors(list), ALL);
    }
    machine.first();
    (0..LOOKS).for_each(|_| _ = machine.after(1));
    let mut allocations = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let region = Region::new(ALLOCATOR);
        assert!(access("/a-look-begins", Access::EXISTS).is_err());
        machine.after(1);
        let asked = region.change();
        allocations.push(asked.allocations + asked.reallocations);
    }
    assert!(access("/the-looks-end", Access::EXISTS).is_err());
    assert_eq!(counts(&machine.found), [("cost-a", 1), ("cost-b", 1), ("cost-c", 1)]);
    assert!(machine.found.values().all(|process| process.cpu_usage.is_some() && process.read_ops.is_some()));
    let lines: Vec<_> = allocations.iter().map(usize::to_string).collect();
    let figures = format!("{}\n{}\n", gettid().as_raw_nonzero(), lines.join("\n"));
    fs::write(env::var("FIGURES").unwrap(), figures).unwrap();
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn sleeper(program: &str) -> Child {
    Command::new(program).arg("600").stdin(Stdio::null()).spawn().unwrap()
}
