//! This machine and its programs as psutil sees them, in the same second: idle, with all cores busy, while its disk
//! is written, and among 2,000 processes.
//!
//! psutil looks just before and just after us, at the begin and at the end of the time that rates are of. What flows
//! lies between its two looks; a share of the time is as near as is asked for to that of the longer or the shorter
//! time between its looks, however busy the machine is with other things.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Instant, SystemTime},
};

use serde_json::{Value, json};

use super::*;
use crate::services::metrics::{
    fixture::look,
    processes::{self, Processes, Selectors},
    sample::Process,
};

const SCRIPT: &str = r#"
import json, psutil, sys, time
def program(process):
    times, io = process.cpu_times(), process.io_counters()
    return {"at": time.monotonic(), "cpu": times.user + times.system, "memory": process.memory_info().rss,
        "threads": process.num_threads(), "fds": process.num_fds(), "started": process.create_time(),
        "read_bytes": io.read_bytes, "write_bytes": io.write_bytes,
        "read_ops": io.read_count, "write_ops": io.write_count}
def of(name):
    programs = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == name: programs.append(program(process))
    return programs
for name in sys.stdin:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    seen = {"memory": memory._asdict(), "swap": psutil.swap_memory()._asdict(), "disk": disk._asdict(),
        "load": psutil.getloadavg(), "boot": psutil.boot_time(), "count": len(psutil.pids()),
        "nics": {name: nic._asdict() for name, nic in psutil.net_io_counters(pernic=True).items()},
        "disks": {name: disk._asdict() for name, disk in psutil.disk_io_counters(perdisk=True).items()},
        "programs": of(name.strip()),
        "cpu": psutil.cpu_times()._asdict(), "cores": [core._asdict() for core in psutil.cpu_times(percpu=True)]}
    print(json.dumps(seen), flush=True)
"#;

/// A Python that answers each line, the name of a program, with what it sees.
struct Psutil {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Psutil {
    fn start() -> Self {
        let mut command = Command::new("timeout");
        command.args(["300", "/usr/bin/python3", "-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().expect("python3 and its psutil are installed by `scripts/tools check`");
        let (ask, answer) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answer }
    }

    fn look(&mut self, program: &str) -> Value {
        writeln!(self.ask, "{program}").unwrap();
        let mut line = String::new();
        self.answer.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "psutil is missing or failed: `scripts/tools check` installs it");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Psutil {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Programs that we have started, in a process group of their own.
struct Programs(Child);

impl Programs {
    /// What this shell script does, until dropped.
    fn run(script: &str) -> Self {
        let mut command = Command::new("/bin/bash");
        Self(command.args(["-c", script]).process_group(0).spawn().unwrap())
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        drop(self.0.wait());
    }
}

/// Points of CPU, of memory, of disk.
const MARGINS: (f64, f64, f64) = (3.0, 1.0, 0.5);

/// What differs by more than is allowed, and how many values were compared.
#[derive(Default)]
struct Differences {
    found: Vec<String>,
    compared: usize,
}

impl Differences {
    /// Within the two values of psutil, which come in any order, and a margin beyond.
    fn near(&mut self, name: &str, ours: Option<f64>, theirs: [f64; 2], margin: f64) {
        self.compared += 1;
        let (low, high) = (theirs[0].min(theirs[1]) - margin, theirs[0].max(theirs[1]) + margin);
        if !ours.is_some_and(|ours| (low..=high).contains(&ours)) {
            self.found.push(format!("{name}: {ours:?}, and psutil {low} to {high}"));
        }
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// psutil's four looks: before and after ours, at the begin and at the end.
struct Looks {
    begin: [Value; 2],
    end: [Value; 2],
}

impl Looks {
    /// A number as it was before and after our last look.
    fn now(&self, pointer: &str) -> [f64; 2] {
        [0, 1].map(|at| number(self.end[at].pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"))))
    }

    /// The share of the time that went to this, between the inner and between the outer looks, in percent.
    fn share(&self, times: &str, of: &dyn Fn(&Value) -> f64) -> [f64; 2] {
        [(1, 0), (0, 1)].map(|(begin, end)| {
            let [begin, end] = [&self.begin[begin], &self.end[end]].map(|seen| seen.pointer(times).unwrap());
            let spent = |part: &dyn Fn(&Value) -> f64| part(end) - part(begin);
            let all = |times: &Value| {
                let guests = number(&times["guest"]) + number(&times["guest_nice"]);
                // Guests are in user and nice as well.
                times.as_object().unwrap().values().map(number).sum::<f64>() - 2.0 * guests
            };
            100.0 * spent(of) / spent(&all)
        })
    }
}

/// What is done to the machine meanwhile, and the name of a program to watch.
struct Scene<'a> {
    program: &'a str,
    work: &'a dyn Fn(Instant),
}

/// What we saw.
struct Ours {
    summary: Summary,
    values: BTreeMap<String, f64>,
    program: Process,
}

/// Looks with both, two seconds apart, with the scene's work going on meanwhile.
fn look_with_both(psutil: &mut Psutil, scene: &Scene<'_>) -> (Looks, Ours) {
    let wanted =
        Wanted { cpu: true, memory: true, disk: true, network: true, own: true, ..Wanted::default() };
    let mut system = System::new(&Root::system(), wanted, Clock::new(SystemTime::UNIX_EPOCH, None));
    let selectors = serde_json::from_value::<Selectors>(json!([scene.program])).unwrap().0;
    let all = processes::Wanted { cpu: true, memory: true, io: true };
    let mut programs = Processes::new(&Root::system(), selectors, all);
    let mut found = BTreeMap::new();
    let mut summary = Summary::default();

    let before = psutil.look(scene.program);
    let began = Instant::now();
    programs.collect(None, &mut found);
    look(|values| system.collect(None, values));
    let begin = [before, psutil.look(scene.program)];
    (scene.work)(began + Duration::from_secs(2));
    programs.look_again();
    let before = psutil.look(scene.program);
    let elapsed = Some(began.elapsed());
    programs.collect(elapsed, &mut found);
    let values = look(|values| summary = system.collect(elapsed, values));
    let end = [before, psutil.look(scene.program)];
    let program = found.remove(scene.program).expect("it is in the report");
    (Looks { begin, end }, Ours { summary, values, program })
}

fn compare(looks: &Looks, ours: &Ours) -> Differences {
    let mut differences = Differences::default();
    compare_machine(looks, ours, &mut differences);
    compare_flows(looks, ours, &mut differences);
    compare_program(looks, &ours.program, &mut differences);
    differences
}

fn compare_machine(looks: &Looks, ours: &Ours, differences: &mut Differences) {
    let (cpu, memory, disk) = MARGINS;
    let mut near = |name: &str, theirs, margin| {
        differences.near(name, ours.values.get(name).copied(), theirs, margin);
    };
    for part in ["user", "nice", "system", "idle", "iowait", "steal"] {
        let of = |times: &Value| number(&times[part]);
        near(&format!("cpu.{part}"), looks.share("/cpu", &of), cpu);
    }
    let busy = |times: &Value| {
        let all = |part: &str| number(&times[part]);
        ["user", "nice", "system", "irq", "softirq", "steal"].into_iter().map(all).sum()
    };
    near("cpu.usage", looks.share("/cpu", &busy), cpu);
    for core in 0..looks.end[0]["cores"].as_array().unwrap().len() {
        near(&format!("cpu.core.{core}.usage"), looks.share(&format!("/cores/{core}"), &busy), cpu);
    }
    near("load.1m", looks.now("/load/0"), 0.5);
    near("memory.used", looks.now("/memory/percent"), memory);
    near("memory.total", looks.now("/memory/total"), 0.0);
    near("swap.total", looks.now("/swap/total"), 0.0);
    near("fs./.used", looks.now("/disk/percent"), disk);
    near("fs./.total", looks.now("/disk/total"), 0.0);
    near("fs./.free", looks.now("/disk/free"), 4096.0);
    near("host.boot_time", looks.now("/boot"), 1.0);
    // Those that come and go within a look are in neither.
    near("host.processes", looks.now("/count"), 20.0);
}

/// What flowed between psutil's looks and no more.
fn compare_flows(looks: &Looks, ours: &Ours, differences: &mut Differences) {
    for (name, value) in &ours.values {
        let Some((kind, rest)) = name.split_once('.') else { continue };
        let Some((thing, what)) = rest.rsplit_once('.') else { continue };
        let (table, field) = match (kind, what) {
            ("net", "rx_bytes") => ("nics", "bytes_recv"),
            ("net", "tx_bytes") => ("nics", "bytes_sent"),
            ("net", "rx_packets") => ("nics", "packets_recv"),
            ("net", "tx_packets") => ("nics", "packets_sent"),
            ("net", "rx_errors") => ("nics", "errin"),
            ("net", "tx_drops") => ("nics", "dropout"),
            ("disk", "read_bytes") => ("disks", "read_bytes"),
            ("disk", "write_bytes") => ("disks", "write_bytes"),
            ("disk", "read_ops") => ("disks", "read_count"),
            ("disk", "write_ops") => ("disks", "write_count"),
            _ => continue,
        };
        let theirs = [0, 1].map(|at| number(&looks.end[at][table][thing][field]));
        differences.near(name, Some(*value), theirs, 0.0);
    }
}

fn compare_program(looks: &Looks, ours: &Process, differences: &mut Differences) {
    let programs = |seen: &Value| seen["programs"].as_array().unwrap().clone();
    let sum = |seen: &Value, field: &str| programs(seen).iter().map(|one| number(&one[field])).sum::<f64>();
    let theirs = |field: &str| [0, 1].map(|at| sum(&looks.end[at], field));
    let count = [0, 1].map(|at| programs(&looks.end[at]).len() as f64);
    differences.near("count", Some(ours.count as f64), count, 0.0);
    if ours.count == 0 {
        return;
    }
    let known = |value: Option<u64>| value.map(|value| value as f64);
    for (name, ours, field) in [
        ("threads", ours.threads, "threads"),
        ("fds", ours.fds, "fds"),
        ("read_bytes", ours.read_bytes, "read_bytes"),
        ("write_bytes", ours.write_bytes, "write_bytes"),
        ("read_ops", ours.read_ops, "read_ops"),
        ("write_ops", ours.write_ops, "write_ops"),
    ] {
        differences.near(name, known(ours), theirs(field), 0.0);
    }
    let memory = theirs("memory");
    differences.near("program's memory", known(ours.memory), memory, memory[0] / 100.0);
    let first =
        |seen: &Value| programs(seen).iter().map(|one| number(&one["started"])).fold(f64::MAX, f64::min);
    differences.near("started", ours.started, [0, 1].map(|at| first(&looks.end[at])), 1.0);
    // Of the time between psutil's looks at the first of them.
    let usage = [(1, 0), (0, 1)].map(|(begin, end)| {
        let (begin, end) = (&looks.begin[begin], &looks.end[end]);
        let time = number(&programs(end)[0]["at"]) - number(&programs(begin)[0]["at"]);
        100.0 * (sum(end, "cpu") - sum(begin, "cpu")) / time
    });
    differences.near("program's cpu_usage", ours.cpu_usage, usage, MARGINS.0);
}

/// What a kernel adds up late (a tick, a batch of a core's own) may fall on the other side of a look: of five pairs
/// one must agree in everything. Returns it, and how many values were compared.
fn agrees(psutil: &mut Psutil, scene: &Scene<'_>) -> (Ours, usize) {
    let mut differences = Vec::new();
    for _ in 0..5 {
        let (looks, ours) = look_with_both(psutil, scene);
        let these = compare(&looks, &ours);
        if these.found.is_empty() {
            return (ours, these.compared);
        }
        differences.push(these.found);
    }
    panic!("{}: {differences:#?}", scene.program)
}

fn idle(end: Instant) {
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

/// A program with a name that no other has.
fn named(folder: &tempfile::TempDir, name: &str, of: &str) -> String {
    let path = folder.path().join(name);
    fs::copy(of, &path).unwrap();
    path.display().to_string()
}

/// Waits until so many programs of this name run.
fn started(name: &str, count: usize) {
    let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let began = Instant::now();
    loop {
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        if pids.filter(|pid| comm(pid).trim_end() == name).count() == count {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{count} of {name} do not start");
        thread::yield_now();
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
fn prove_m1_psutil_sees_the_same_in_the_same_second() {
    let tier: u64 = std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap());
    let crowd = if tier > 1 { 2000 } else { 200 };
    let (mut psutil, folder) = (Psutil::start(), tempfile::tempdir().unwrap());
    let mut compared = Vec::new();
    let mut scene = |name: &str, program: &str, work: &dyn Fn(Instant)| {
        let (ours, count) = agrees(&mut psutil, &Scene { program, work });
        compared.push(format!("{name}={count}"));
        ours
    };
    scene("idle", "m1-nobody", &idle);

    let cores = thread::available_parallelism().unwrap().get();
    let bash = named(&folder, "m1-busy", "/bin/bash");
    let busy =
        Programs::run(&format!("for i in $(seq {cores}); do {bash} -c 'while :; do :; done' & done; wait"));
    started("m1-busy", cores);
    let ours = scene("busy", "m1-busy", &idle);
    let usage = ours.summary.cpu_usage.unwrap();
    assert!(usage > 80.0, "all cores were busy, and we saw {usage} %");
    assert_eq!(ours.program.count, cores as u64);
    drop(busy);

    let dd = named(&folder, "m1-writes", "/bin/dd");
    let file = folder.path().join("written").display().to_string();
    let endless = format!(
        "exec {dd} if=/dev/zero of={file} bs=256k count=1000000 conv=notrunc oflag=dsync status=none"
    );
    let writes = Programs::run(&format!("{endless} & while sleep 0.2; do : >{file}; done"));
    started("m1-writes", 1);
    let ours = scene("writing", "m1-writes", &idle);
    assert!(ours.program.write_bytes.unwrap() > 1 << 20, "{:?}", ours.program);
    drop(writes);

    let sleep = named(&folder, "m1-crowd", "/bin/sleep");
    let crowded = Programs::run(&format!("for i in $(seq {crowd}); do {sleep} 600 & done; wait"));
    started("m1-crowd", crowd);
    let ours = scene("crowd", "m1-crowd", &idle);
    assert_eq!(ours.program.count, crowd as u64);
    drop(crowded);
    println!(
        "proof M1 tier={tier} wanted=cpu<=3,memory<=1,disk<=0.5,counters-between processes={crowd} compared={} seed=none",
        compared.join(",")
    );
}
