//! The hub with real agents: enrolment, presence and heartbeats through kills, restarts and wrong clocks.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use testkit::Process;
use testkit::ports::free_port;
use testkit::process::libfaketime;
use tokio::process::Command;

use crate::support::{PATIENCE, Place, agent, write};

/// An agent's folder; it survives the agent.
struct Agent {
    folder: TempDir,
    program: PathBuf,
}

impl Agent {
    async fn new(broker: &str, psk_file: &Path) -> Agent {
        let agent = Agent { folder: TempDir::new().unwrap(), program: agent().await };
        let folder = agent.folder.path().display();
        let config = format!(
            "mqtt: {{broker: \"{broker}\", reconnect: {{min: 50ms, max: 500ms, reset_after: 0}}}}\n\
             paths: {{state: {folder}/state, run: {folder}/run}}\n\
             log: {{format: json}}\n\
             services:\n\
             \x20 registration: {{device_secret_file: {}, response_timeout: 2s}}\n\
             \x20 heartbeat: {{interval: 1s}}\n\
             \x20 metrics: {{enabled: false}}\n",
            psk_file.display()
        );
        write(&agent.config(), config.as_bytes(), 0o600);
        agent
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.yaml")
    }

    fn run(&self) -> Process {
        Process::spawn(&self.program, [Path::new("run"), Path::new("--config"), &self.config()]).unwrap()
    }

    /// With a clock that is wrong from the start.
    fn run_at(&self, date: &str) -> Process {
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(self.config());
        command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", format!("@{date}"));
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Process::run(command).unwrap()
    }
}

fn is(state: &str) -> impl Fn(&[Value]) -> bool {
    move |devices| devices.len() == 1 && devices[0]["state"] == state
}

fn beating(devices: &[Value]) -> bool {
    is("online")(devices) && devices[0]["last_heartbeat"]["run_id"] == devices[0]["run_id"]
}

#[tokio::test]
async fn a_device_through_kills_of_either_side() {
    let (place, port) = (Place::new(), free_port());
    let mut hub = place.hub_on(port).await;
    let device = Agent::new(&format!("mqtt://127.0.0.1:{port}"), &place.psk_file()).await;
    let mut agent = device.run();
    let first = place.devices_until(beating).await;

    agent.kill().await.unwrap();
    let lost = place.devices_until(is("offline")).await;
    assert_eq!(lost[0]["reason"], "connection_lost");

    let mut agent = device.run();
    let again = place.devices_until(beating).await;
    assert_eq!(again[0]["device_id"], first[0]["device_id"]);
    assert_ne!(again[0]["run_id"], first[0]["run_id"]);

    hub.process.kill().await.unwrap();
    let hub = place.hub_on(port).await;
    let after = place.devices_until(beating).await;
    assert_eq!(after[0]["device_id"], first[0]["device_id"]);
    assert_eq!(after[0]["run_id"], again[0]["run_id"]);

    agent.terminate().unwrap();
    assert!(agent.wait_exit(PATIENCE).await.unwrap().success());
    let stopped = place.devices_until(is("offline")).await;
    assert_eq!(stopped[0]["reason"], "shutdown");
    hub.stop().await;
}

#[tokio::test]
async fn wrong_clocks_both_ways_still_enrol() {
    let place = Place::new();
    let hub = place.hub().await;
    for (n, date) in ["2020-01-01 00:00:00", "2038-02-01 00:00:00"].iter().enumerate() {
        let device = Agent::new(&format!("mqtt://{}", hub.broker), &place.psk_file()).await;
        let _agent = device.run_at(date);
        place.devices_until(|devices| devices.len() == n + 1).await;
        hub.process.find_line("\"reason\":\"clock\"", PATIENCE).await.unwrap();
    }
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_with_another_secret_gets_no_id_and_the_hub_says_why() {
    let place = Place::new();
    let hub = place.hub().await;
    let wrong = place.path().join("wrong.psk");
    write(&wrong, b"another secret of ample length", 0o600);
    let device = Agent::new(&format!("mqtt://{}", hub.broker), &wrong).await;
    let mut agent = device.run();
    hub.process.find_line("compare the secrets", PATIENCE).await.unwrap();
    assert!(agent.is_running().unwrap());
    assert_eq!(place.devices().await, Vec::<Value>::new());
    hub.stop().await;
}
