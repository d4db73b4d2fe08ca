//! An agent whose receiver is a FIFO, which can carry so much.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use testkit::{procfs, recordings};

use crate::table::Table;

/// Bytes at once, and how often: a megabyte a second.
const PIECE: usize = 100_000;
const EVERY: Duration = Duration::from_millis(100);
/// Pieces before anything is measured, and while it is.
const SETTLING: usize = 20;
const MEASURED: usize = 150;
/// Of one core.
const MOST: f64 = 5.0;
/// Memory does not grow; the kernel counts pages of each processor that are not yet added up.
const GROWTH: f64 = 256.0;
const PYNMEA2: &str = r#"
import pynmea2, sys, time
texts = [line for line in sys.stdin.read().splitlines() if line]
began = time.process_time()
for text in texts:
    try: pynmea2.parse(text, check=True)
    except pynmea2.ParseError: pass
print((time.process_time() - began) * 1e6 / len(texts))
"#;

pub(crate) fn measure(table: &mut Table) {
    let mut random = testkit::Rng::new(testkit::seed());
    let noise: Vec<u8> = (0..PIECE).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    let mut endless = [b'A'; PIECE];
    endless[0] = b'$';
    for (what, piece) in [("noise", &noise[..]), ("lines of 100 kB", &endless[..])] {
        let (cpu, grown) = Agent::start().hear(piece);
        table.limit(&format!("1 MB/s of {what}, % of a core"), MOST, cpu, "–");
        table.limit(&format!("… RSS grown, KiB in {} s", MEASURED / 10), GROWTH, grown, "–");
    }
    let sentences = sentences();
    let count = sentences.iter().filter(|byte| **byte == b'$').count();
    let peer = format!("{:.2} (pynmea2)", pynmea2(&sentences));
    let (cpu, grown) = Agent::start().hear(&sentences);
    let share = cpu / 100.0 * EVERY.as_secs_f64() / f64::from(u32::try_from(count).unwrap());
    table.figure("1 MB/s of real sentences, % of a core", cpu, "–");
    table.figure("… a sentence with its reading, µs", share * 1e6, peer);
    table.limit("… RSS grown, KiB", GROWTH, grown, "–");
}

/// What receivers have said, in a piece of whole lines.
fn sentences() -> Vec<u8> {
    let mut text = Vec::new();
    for recording in recordings::all().unwrap() {
        for line in recording.bytes.split_inclusive(|byte| *byte == b'\n') {
            let plain = line.starts_with(b"$G") && line.is_ascii() && line.len() < 100;
            if plain && text.len() + line.len() <= PIECE {
                text.extend_from_slice(line);
            }
        }
    }
    text
}

/// Microseconds of the processor a sentence.
fn pynmea2(sentences: &[u8]) -> f64 {
    let mut python = Command::new("/usr/bin/python3");
    let mut child =
        python.args(["-c", PYNMEA2]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(sentences).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("pynmea2 of scripts/tools check")
}

struct Agent {
    process: Child,
    line: File,
    _home: tempfile::TempDir,
}

impl Agent {
    /// With nothing to do but to read its receiver.
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (folder, fifo) = (home.path().display(), home.path().join("gps"));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fs::create_dir(home.path().join("state")).unwrap();
        fs::write(home.path().join("state/device.json"), r#"{"device_id": "d"}"#).unwrap();
        let file = home.path().join("config.yaml");
        let text = format!(
            "mqtt: {{broker: 'mqtt://127.0.0.1:1', reconnect: {{min: 1h, max: 1h}}}}\n\
             paths: {{state: '{folder}/state', run: '{folder}/run'}}\n\
             services:\n  registration: {{enabled: false}}\n  heartbeat: {{enabled: false}}\n  metrics: {{enabled: false}}\n\
             \x20 location: {{enabled: true, gps_device_path: '{folder}/gps', interval: 1h}}\n"
        );
        fs::write(&file, text).unwrap();
        let program = std::env::var_os("IOT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_iot-agent").into());
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let line = OpenOptions::new().write(true).open(&fifo).unwrap();
        Self { process, line, _home: home }
    }

    /// Percent of a core, and KiB that it grew by.
    fn hear(mut self, piece: &[u8]) -> (f64, f64) {
        self.say(piece, SETTLING);
        let (before, began) = (procfs::usage(self.process.id()).unwrap(), Instant::now());
        self.say(piece, MEASURED);
        let (after, took) = (procfs::usage(self.process.id()).unwrap(), began.elapsed());
        let cpu = (after.cpu - before.cpu).as_secs_f64() / took.as_secs_f64() * 100.0;
        let grown = after.rss as f64 - before.rss as f64;
        (cpu, grown / 1024.0)
    }

    fn say(&mut self, piece: &[u8], times: usize) {
        let mut next = Instant::now();
        for _ in 0..times {
            self.line.write_all(piece).unwrap();
            next += EVERY;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
