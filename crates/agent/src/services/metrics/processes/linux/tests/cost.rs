//! What a look costs, counted: this test runs itself once more, under strace, with nothing beside it.

use std::{
    alloc::System,
    env, fs,
    path::Path,
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

/// As many looks, every second; three of them walk.
const LOOKS: usize = 30;

/// A look as strace saw it, and the allocator.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    calls: usize,
    allocations: usize,
}

#[test]
fn a_look_costs_next_to_nothing() {
    if let Ok(root) = env::var(CHILD) {
        return child(&root);
    }
    let of = |looks: &[Look]| looks.iter().map(|look| look.calls).sum::<usize>() as f64 / looks.len() as f64;
    let folder = tempfile::tempdir().unwrap();
    let sleepers = Sleepers::new(folder.path());
    let real = run(Path::new("/"));
    drop(sleepers);
    println!("real: {:.1} calls a look", of(&real));
    let quiet = real.iter().filter(|look| look.calls == 12).count();
    assert!(quiet >= LOOKS * 8 / 10, "4 calls for each of three, but for walks: {real:?}");
    assert!(of(&real) < 40.0, "{real:?}");
    assert!(real.iter().all(|look| look.allocations <= 5), "{real:?}");
    let idle = real.iter().filter(|look| look.allocations == 0).count();
    assert!(idle >= LOOKS * 8 / 10, "none but for walks: {real:?}");

    let (few, many) = (of(&among(200)), of(&among(5000)));
    println!("200: {few:.1}, 5000: {many:.1} calls a look");
    assert!(many <= 5.0 * few, "{few} {many}");
}

/// Among so many that are files.
fn among(many: u32) -> Vec<Look> {
    let machine = Machine::new(json!([]));
    for pid in 1000..1000 + many {
        machine.tree.file(&format!("proc/{pid}/comm"), "other\n");
    }
    for (pid, comm) in [(1, b"cost-a"), (2, b"cost-b"), (3, b"cost-c")] {
        machine.make(pid, &Made { comm, ..Made::default() });
    }
    run(&machine.tree.root().path(""))
}

/// Runs this test as a child under strace, and takes its looks apart.
fn run(root: &Path) -> Vec<Look> {
    let folder = tempfile::tempdir().unwrap();
    let (trace, figures) = (folder.path().join("trace"), folder.path().join("figures"));
    let done = Command::new("strace")
        .args(["-f", "-qq", "--signal=none", "-o"])
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", THIS, "--test-threads=1"])
        .env(CHILD, root)
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
fn child(root: &str) {
    let list = json!(["cost-a", "cost-b", "cost-c"]);
    let mut processes = Processes::new(&Root::at(Path::new(root)), selectors(list), ALL);
    let mut found = BTreeMap::new();
    let mut now = since_boot();
    let mut look = |seconds| {
        let elapsed = Duration::from_secs(seconds);
        now += elapsed;
        processes.collect_at(now, Some(elapsed), &mut found);
    };
    // None is young any more then, and all there is to allocate for has been seen.
    [1, 30, 10, 10].into_iter().for_each(&mut look);
    let mut allocations = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let region = Region::new(ALLOCATOR);
        assert!(access("/a-look-begins", Access::EXISTS).is_err());
        look(1);
        let asked = region.change();
        allocations.push(asked.allocations + asked.reallocations);
    }
    assert!(access("/the-looks-end", Access::EXISTS).is_err());
    assert_eq!(counts(&found), [("cost-a", 1), ("cost-b", 1), ("cost-c", 1)]);
    assert!(found.values().all(|process| process.cpu_usage.is_some() && process.read_ops.is_some()));
    let lines: Vec<_> = allocations.iter().map(usize::to_string).collect();
    let figures = format!("{}\n{}\n", gettid().as_raw_nonzero(), lines.join("\n"));
    fs::write(env::var("FIGURES").unwrap(), figures).unwrap();
}

/// Processes to be among; ended with it.
struct Sleepers(Vec<Child>);

impl Sleepers {
    /// 200, and three that have names.
    fn new(folder: &Path) -> Self {
        let mut sleepers = Self(Vec::new());
        for name in ["cost-a", "cost-b", "cost-c"] {
            let path = folder.join(name);
            std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
            sleepers.start(&path);
        }
        (0..200).for_each(|_| sleepers.start(Path::new("sleep")));
        sleepers
    }

    fn start(&mut self, program: &Path) {
        self.0.push(Command::new(program).arg("600").stdin(Stdio::null()).spawn().unwrap());
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }
}
