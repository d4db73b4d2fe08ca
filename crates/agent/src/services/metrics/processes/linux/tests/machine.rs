//! A machine of our own making.

use super::*;

/// A process as a test wants it.
#[derive(Clone)]
pub(super) struct Made<'a> {
    pub(super) comm: &'a [u8],
    pub(super) arguments: &'a [u8],
    pub(super) cgroup: &'a str,
    pub(super) state: &'a str,
    pub(super) ticks: u64,
    pub(super) threads: u64,
    pub(super) start: u64,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Self {
            comm: b"sleep",
            arguments: b"sleep\x0060\0",
            cgroup: "0::/",
            state: "S",
            ticks: 0,
            threads: 1,
            start: 50,
        }
    }
}

/// A machine with a watcher, and a clock that starts 1000 s after boot.
pub(super) struct Machine {
    pub(super) tree: Tree,
    pub(super) processes: Processes,
    pub(super) now: Duration,
    pub(super) found: BTreeMap<String, Process>,
}

impl Machine {
    pub(super) fn new(list: Value) -> Self {
        let tree = Tree::new();
        tree.file("proc/stat", "cpu 1 2 3\nbtime 1700000000\n");
        let processes = Processes::new(&tree.root(), selectors(list), ALL);
        Self { tree, processes, now: Duration::from_secs(1000), found: BTreeMap::new() }
    }

    pub(super) fn with(list: Value, made: &[(u32, Made<'_>)]) -> Self {
        let machine = Self::new(list);
        made.iter().for_each(|(pid, made)| machine.make(*pid, made));
        machine
    }

    pub(super) fn make(&self, pid: u32, made: &Made<'_>) {
        let Made { comm, arguments, cgroup, state, ticks, threads, start } = made;
        let file = |name: &str, content: &[u8]| self.tree.file(&format!("proc/{pid}/{name}"), content);
        let rest = format!(") {state} 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 {start} 0 9 0\n");
        // As the kernel does there, and only there.
        let escaped = String::from_utf8(comm.to_vec()).map(|comm| comm.replace('\n', "\\n").into_bytes());
        let escaped = escaped.unwrap_or_else(|_| comm.to_vec());
        file("stat", &[format!("{pid} (").as_bytes(), &escaped, rest.as_bytes()].concat());
        file("comm", &[comm, &b"\n"[..]].concat());
        file("cmdline", arguments);
        file("cgroup", cgroup.as_bytes());
        file("statm", b"100 10 5 1 0 9 0\n");
        file("io", b"rchar: 9\nwchar: 9\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 8192\n");
        (0..3).for_each(|fd| file(&format!("fd/{fd}"), b""));
    }

    pub(super) fn end(&self, pid: u32) {
        self.tree.remove(&format!("proc/{pid}"));
    }

    /// The first look.
    pub(super) fn first(&mut self) -> &BTreeMap<String, Process> {
        self.processes.collect_at(self.now, None, &mut self.found);
        &self.found
    }

    /// A look so many seconds later.
    pub(super) fn after(&mut self, seconds: u64) -> &BTreeMap<String, Process> {
        let elapsed = Duration::from_secs(seconds);
        self.now += elapsed;
        self.processes.collect_at(self.now, Some(elapsed), &mut self.found);
        &self.found
    }
}
