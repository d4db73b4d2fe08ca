//! A real `iot-agent` in a folder of its own, for stories against real peers.

#![allow(dead_code, unreachable_pub, reason = "each story uses its part")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

pub mod backend;
pub mod command;
#[cfg(target_os = "linux")]
pub mod disk;
pub mod packets;
pub mod proxied;
pub mod strace;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use testkit::process::Process;

/// Long enough on a loaded machine, short enough for a failing test.
pub const SOON: Duration = Duration::from_secs(15);
/// The fleet's secret in these stories.
pub const SECRET: &str = "a secret of the whole fleet";

/// A folder with a configuration, before and between the lives of an agent.
pub struct Home {
    dir: TempDir,
    broker: String,
    reconnect: String,
    mqtt: String,
    rest: String,
}

impl Home {
    /// An agent for the broker at `url`, quick to reconnect and with a heartbeat every second.
    pub fn new(url: &str) -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
            broker: url.to_owned(),
            reconnect: "{min: 20ms, max: 200ms, reset_after: 0}".to_owned(),
            mqtt: String::new(),
            rest: String::new(),
        };
        home.file("psk", SECRET, 0o600);
        home
    }

    /// Enrolled already, as this device.
    pub fn device(self, device_id: &str) -> Self {
        fs::create_dir_all(self.path().join("state")).unwrap();
        self.file("state/device.json", &format!("{{\"device_id\": \"{device_id}\"}}"), 0o600);
        self
    }

    /// Another `mqtt.reconnect`.
    pub fn reconnect(mut self, settings: &str) -> Self {
        settings.clone_into(&mut self.reconnect);
        self
    }

    /// One more line under `mqtt:`.
    pub fn mqtt(mut self, line: &str) -> Self {
        writeln!(self.mqtt, "  {line}").unwrap();
        self
    }

    /// More sections, as they stand in the file.
    pub fn yaml(mut self, text: &str) -> Self {
        writeln!(self.rest, "{text}").unwrap();
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into it and names it. Whole at any moment: a daemon may be reading it.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        let temp = path.with_extension("new");
        fs::write(&temp, content).unwrap();
        fs::set_permissions(&temp, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&temp, &path).unwrap();
        path
    }

    /// Writes the configuration file and names it.
    pub fn write(&self) -> PathBuf {
        let Self { broker, reconnect, mqtt, rest, .. } = self;
        let services = if rest.contains("services:") {
            String::new()
        } else {
            "services:\n  registration: {device_secret_file: psk, response_timeout: 2s}\n  heartbeat: {interval: 1s}\n"
                .to_owned()
        };
        // On by default; here only where the story is about it.
        if !rest.contains("metrics:") {
            fs::create_dir_all(self.path().join("conf.d")).unwrap();
            self.file("conf.d/quiet.yaml", "services: {metrics: {enabled: false}}\n", 0o600);
        }
        let dir = self.path().display();
        let text = format!(
            "mqtt:\n  broker: {broker}\n  reconnect: {reconnect}\n{mqtt}\
             paths: {{state: {dir}/state, run: {dir}/run}}\n{services}{rest}"
        );
        self.file("config.yaml", &text, 0o600)
    }

    /// The command `iot-agent` with these arguments and this configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iot-agent"));
        command.args(arguments).arg("--config").arg(self.write());
        command
    }

    /// Runs the daemon.
    pub fn start(&self) -> Process {
        Process::run(self.command(&["run"]).into()).unwrap()
    }

    /// What `status --json` says.
    pub fn status(&self) -> Option<Value> {
        let output = self.command(&["status", "--json"]).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }
}

/// Asks until `wanted` holds of the daemon's status.
pub async fn wait_status(home: &Home, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let status = home.status();
        match status {
            Some(status) if wanted(&status) => return status,
            status if tokio::time::Instant::now() >= deadline => panic!("status is {status:#?}"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl Home {
    /// Runs the daemon, and waits until it is connected and subscribed.
    pub async fn online(&self) -> Process {
        let agent = self.start();
        wait_status(self, |status| status["connection"]["state"] == "connected").await;
        agent
    }

    /// Runs the daemon with more arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Process {
        Process::run(self.command(&[&["run"], arguments].concat()).into()).unwrap()
    }
}

/// SIGTERM, after which it has to end well within five seconds; tells how long it took.
pub async fn stop(agent: &mut Process, state: &str) -> Duration {
    let began = tokio::time::Instant::now();
    agent.terminate().unwrap();
    ended(agent, state, began).await
}

/// Waits for the end, which has to be a good one within five seconds from `began`.
pub async fn ended(agent: &mut Process, state: &str, began: tokio::time::Instant) -> Duration {
    let status = agent.wait_exit(SOON).await.unwrap();
    let took = began.elapsed();
    assert!(status.success(), "{state}: {status}: {:#?}", agent.stderr.all());
    assert!(took <= Duration::from_secs(5), "{state}: {took:?}: {:#?}", agent.stderr.all());
    // Its last words, which may still be on their way.
    let stopped = agent.find_line("\"message\":\"stopped\",\"stuck\":", SOON).await.unwrap();
    assert!(stopped.contains("\"stuck\":\"\""), "{state}: {stopped}");
    took
}

/// The lines of the log, which is JSON where it is no terminal's.
pub fn log(agent: &Process) -> Vec<Value> {
    let lines = agent.stderr.all();
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// How large a proof is: 1 with every test run, 2 and 3 when asked for.
pub fn tier() -> u32 {
    std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap())
}

/// The line of figures that ends a proof: `wanted=…`, what was reached, and `seed=…` where chance had a part.
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
pub fn proof(name: &str, figures: &str) {
    let seed = if figures.contains("seed=") { "" } else { " seed=none" };
    println!("proof {name} tier={} {figures}{seed}", tier());
}
