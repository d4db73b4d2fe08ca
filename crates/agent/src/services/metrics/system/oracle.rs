//! This machine as psutil sees it, in the same second: idle, with all its cores busy, and while its disk is written.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Instant, SystemTime},
};

use serde_json::Value;

use super::*;
use crate::services::metrics::fixture::look;

const SCRIPT: &str = r#"
import json, psutil, sys
for _ in sys.stdin:
    times, cores = psutil.cpu_times_percent(), psutil.cpu_percent(percpu=True)
    memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage("/")
    seen = {"cpu": times._asdict(), "cores": cores, "load": psutil.getloadavg(), "memory": memory._asdict(),
        "swap": swap._asdict(), "disk": disk._asdict(), "boot": psutil.boot_time(), "count": len(psutil.pids()),
        "nics": {name: nic._asdict() for name, nic in psutil.net_io_counters(pernic=True).items()},
        "disks": {name: disk._asdict() for name, disk in psutil.disk_io_counters(perdisk=True).items()}}
    print(json.dumps(seen), flush=True)
"#;

/// A Python that answers each line with what it sees; percentages are since the line before.
struct Psutil {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Psutil {
    fn start() -> Self {
        let mut command = Command::new("timeout");
        command.args(["120", "/usr/bin/python3", "-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().expect("python3 and its psutil are installed by `scripts/tools check`");
        let (ask, answer) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answer }
    }

    fn look(&mut self) -> Value {
        self.ask.write_all(b"\n").unwrap();
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

/// What differs by more than is allowed.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn near(&mut self, name: &str, ours: Option<f64>, theirs: &Value, margin: f64) {
        let theirs = theirs.as_f64().unwrap();
        if !ours.is_some_and(|ours| (ours - theirs).abs() <= margin) {
            self.0.push(format!("{name}: {ours:?}, and psutil {theirs} ± {margin}"));
        }
    }

    /// What flows was read by psutil before and after us, so that it must lie between.
    fn between(&mut self, name: &str, ours: f64, (before, after): (&Value, &Value)) {
        let (before, after) = (before.as_f64().unwrap(), after.as_f64().unwrap());
        if ours < before || ours > after {
            self.0.push(format!("{name}: {ours}, and psutil {before} to {after}"));
        }
    }
}

/// Looks with both, two seconds apart, with this going on meanwhile. Returns our CPU usage.
fn compare(psutil: &mut Psutil, work: &dyn Fn(Instant)) -> Result<f64, Vec<String>> {
    let wanted =
        Wanted { cpu: true, memory: true, disk: true, network: true, own: true, ..Wanted::default() };
    let mut system = System::new(&Root::system(), wanted, Clock::new(SystemTime::UNIX_EPOCH, None));
    psutil.look();
    look(|values| system.collect(None, values));
    let begin = Instant::now();
    work(begin + Duration::from_secs(2));
    let before = psutil.look();
    let mut summary = Summary::default();
    let ours = look(|values| summary = system.collect(Some(begin.elapsed()), values));
    let after = psutil.look();

    let mut differences = Differences::default();
    let mut near =
        |name: &str, theirs: &Value, margin| differences.near(name, ours.get(name).copied(), theirs, margin);
    for part in ["user", "nice", "system", "idle", "iowait", "steal"] {
        near(&format!("cpu.{part}"), &before["cpu"][part], 3.0);
    }
    for (core, theirs) in before["cores"].as_array().unwrap().iter().enumerate() {
        near(&format!("cpu.core.{core}.usage"), theirs, 3.0);
    }
    near("load.1m", &before["load"][0], 0.5);
    near("memory.used", &before["memory"]["percent"], 1.0);
    near("memory.total", &before["memory"]["total"], 0.0);
    near("swap.total", &before["swap"]["total"], 0.0);
    near("fs./.used", &before["disk"]["percent"], 0.5);
    near("fs./.total", &before["disk"]["total"], 0.0);
    near("fs./.free", &before["disk"]["free"], 100e6);
    near("host.boot_time", &before["boot"], 1.0);
    near("host.processes", &before["count"], 20.0);
    for (name, value) in &ours {
        let Some((kind, rest)) = name.split_once('.') else { continue };
        let Some((thing, what)) = rest.rsplit_once('.') else { continue };
        let (table, field) = match (kind, what) {
            ("net", "rx_bytes") => ("nics", "bytes_recv"),
            ("net", "tx_bytes") => ("nics", "bytes_sent"),
            ("net", "rx_packets") => ("nics", "packets_recv"),
            ("net", "tx_drops") => ("nics", "dropout"),
            ("disk", "read_bytes") => ("disks", "read_bytes"),
            ("disk", "write_bytes") => ("disks", "write_bytes"),
            ("disk", "write_ops") => ("disks", "write_count"),
            _ => continue,
        };
        let field = |seen: &Value| seen[table][thing][field].clone();
        differences.between(name, *value, (&field(&before), &field(&after)));
    }
    if differences.0.is_empty() { Ok(summary.cpu_usage.unwrap()) } else { Err(differences.0) }
}

/// The looks are some milliseconds apart, in which a loaded machine can do something else: of five pairs one
/// must agree in everything.
fn agrees(psutil: &mut Psutil, work: &dyn Fn(Instant)) -> f64 {
    let mut differences = Vec::new();
    for _ in 0..5 {
        match compare(psutil, work) {
            Ok(usage) => return usage,
            Err(these) => differences.push(these),
        }
    }
    panic!("{differences:#?}")
}

#[test]
fn psutil_sees_the_same_in_the_same_second() {
    let mut psutil = Psutil::start();
    let idle = |end: Instant| {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
    };
    agrees(&mut psutil, &idle);

    let over = AtomicBool::new(false);
    let usage = thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _stop = Stop(&over);
        agrees(&mut psutil, &idle)
    });
    assert!(usage > 80.0, "all cores were busy, and we saw {usage} %");

    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |end| {
        while Instant::now() < end {
            let mut file = File::create(file.path()).unwrap();
            file.write_all(&[7; 1 << 20]).unwrap();
            file.sync_all().unwrap();
        }
    };
    agrees(&mut psutil, &write);
}

/// Ends the busy threads also when the test fails, which would wait for them else.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
