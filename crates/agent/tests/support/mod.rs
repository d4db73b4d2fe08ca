//! A real `iot-agent` in a folder of its own, for stories against real peers.

#![allow(dead_code, unreachable_pub, reason = "each story uses its part")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

pub mod backend;
pub mod packets;
pub mod proxied;

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

    /// Writes a file into it and names it.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
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
