//! `iot-hub demo` with the real agent: what it shows, and that it leaves nothing behind however it ends.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::Process;
use testkit::process::Signal;
use tokio::process::Command;

use crate::support::{HUB, PATIENCE, agent, write};

/// A demo, and the folder in which it makes its own.
struct Demo {
    process: Process,
    temp: TempDir,
}

impl Demo {
    fn start(agent: &Path) -> Demo {
        let temp = TempDir::new().unwrap();
        let mut command = Command::new(HUB);
        command.arg("demo").arg("--agent").arg(agent).env("TMPDIR", temp.path());
        Demo { process: Process::run(command).unwrap(), temp }
    }

    async fn says(&self, words: &str) -> String {
        self.process.stdout.find(|line| line.contains(words), PATIENCE).await.unwrap()
    }

    /// Its exit code; whatever it made must be gone by then.
    async fn ends(mut self) -> Option<i32> {
        let status = self.process.wait_exit(PATIENCE).await.unwrap();
        let left: Vec<_> = std::fs::read_dir(self.temp.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let orphans = processes_naming(self.temp.path());
        assert!(orphans.is_empty(), "still running: {orphans:?}");
        status.code()
    }
}

/// Command lines of processes that have `path` in them. (Where there is no /proc: none.)
fn processes_naming(path: &Path) -> Vec<String> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let lines = all.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&*path.to_string_lossy())).collect()
}

/// Runs a command line that the demo has printed.
async fn run_printed(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let output = tokio::time::timeout(PATIENCE, command.args(words).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn it_shows_a_device_from_enrolment_to_goodbye() {
    for signal in [Signal::INT, Signal::TERM] {
        let demo = Demo::start(&agent().await);
        let enrolled = demo.says("enrolled as").await;
        let device_id = enrolled.rsplit(' ').next().unwrap().to_owned();
        demo.says(&format!("{device_id} online")).await;
        demo.says(&format!("{device_id} heartbeat 1")).await;
        let status = run_printed(&demo.says(" status --config ").await).await;
        assert!(status.contains(&device_id), "{status}");
        let devices = run_printed(&demo.says(" devices --data ").await).await;
        assert!(devices.contains(&device_id) && devices.contains(" online "), "{devices}");
        demo.says("mosquitto_sub -h 127.0.0.1 -p ").await;
        assert_eq!(processes_naming(demo.temp.path()).len(), 1, "the agent's");

        demo.process.signal(signal).unwrap();
        demo.says(&format!("{device_id} offline: shutdown")).await;
        assert_eq!(demo.ends().await, Some(0));
    }
}

#[tokio::test]
async fn a_signal_at_any_moment_leaves_nothing() {
    let agent = agent().await;
    // From the first moment at which there is something to leave.
    for line in ["hub: running", "agent: starting", "To talk to them", "enrolled as"] {
        let demo = Demo::start(&agent);
        demo.says(line).await;
        demo.process.terminate().unwrap();
        assert_eq!(demo.ends().await, Some(0), "after {line:?}");
    }
}

#[tokio::test]
async fn an_agent_that_ends_by_itself_ends_the_demo() {
    let demo = Demo::start(Path::new("/bin/false"));
    demo.process.find_line("the agent ended by itself: exit status: 1", PATIENCE).await.unwrap();
    assert_eq!(demo.ends().await, Some(1));

    let demo = Demo::start(Path::new("/nonexistent/iot-agent"));
    demo.process.find_line("start /nonexistent/iot-agent", PATIENCE).await.unwrap();
    assert_eq!(demo.ends().await, Some(1));
}

#[tokio::test]
async fn a_second_signal_kills_an_agent_that_does_not_stop() {
    let folder = TempDir::new().unwrap();
    let deaf: PathBuf = folder.path().join("deaf");
    write(&deaf, b"#!/bin/sh\ntrap '' TERM INT\necho deaf\nwhile :; do sleep 1; done\n", 0o700);
    let demo = Demo::start(&deaf);
    demo.says("agent: deaf").await;
    demo.process.signal(Signal::INT).unwrap();
    demo.says("stopping").await;
    demo.process.signal(Signal::INT).unwrap();
    demo.process.find_line("was killed", PATIENCE).await.unwrap();
    assert_eq!(demo.ends().await, Some(1));
}
