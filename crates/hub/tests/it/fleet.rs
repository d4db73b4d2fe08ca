//! Many agents at once, and hubs that die at the worst moment: real agents, the real hub, a real broker.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::process::Signal;
use testkit::{Mosquitto, Process, Rng, Watcher, publish, seed};

use crate::support::{PATIENCE, Place, agent, write};

/// An agent at work, and its folder.
struct Agent {
    folder: TempDir,
    _process: Process,
}

impl Agent {
    fn start(program: &PathBuf, broker: &Mosquitto, psk_file: &Path) -> Agent {
        let folder = TempDir::new().unwrap();
        let path = folder.path().display();
        let config = format!(
            "mqtt: {{broker: \"mqtt://{}\", reconnect: {{min: 50ms, max: 500ms, reset_after: 0}}}}\n\
             paths: {{state: {path}/state, run: {path}/run}}\n\
             services:\n\
             \x20 registration: {{device_secret_file: {}, response_timeout: 1s}}\n\
             \x20 heartbeat: {{interval: 1s}}\n\
             \x20 metrics: {{enabled: false}}\n",
            broker.addr(),
            psk_file.display()
        );
        let file = folder.path().join("agent.yaml");
        write(&file, config.as_bytes(), 0o600);
        let process = Process::spawn(program, [Path::new("run"), Path::new("--config"), &file]).unwrap();
        Agent { folder, _process: process }
    }

    /// What it has written down.
    fn device_id(&self) -> String {
        let kept = std::fs::read(self.folder.path().join("state/device.json")).unwrap();
        serde_json::from_slice::<Value>(&kept).unwrap()["device_id"].as_str().unwrap().to_owned()
    }
}

fn alive(devices: &[Value]) -> usize {
    let alive = |device: &&Value| device["state"] == "online" && device["last_heartbeat"].is_object();
    devices.iter().filter(alive).count()
}

/// The ids that the hub has given, each once.
fn ids(devices: &[Value]) -> BTreeSet<String> {
    let ids: BTreeSet<_> = devices.iter().map(|d| d["device_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), devices.len(), "{devices:#?}");
    ids
}

#[tokio::test]
async fn fifty_at_once_get_an_id_each() {
    const AGENTS: usize = 50;
    let program = agent().await;
    let broker = Mosquitto::plain().await.unwrap();
    let place = Place::new();
    let hub = place.hub_at(broker.addr()).await;
    let agents: Vec<_> = (0..AGENTS).map(|_| Agent::start(&program, &broker, &place.psk_file())).collect();
    let devices = place.devices_until(|devices| alive(devices) == AGENTS).await;
    let kept: BTreeSet<_> = agents.iter().map(Agent::device_id).collect();
    assert_eq!(kept, ids(&devices));
    hub.stop().await;
}

/// Whatever the hub had done with the request when it died: one id for each client in the end, and the recorded
/// request is worth nothing to anybody, also after the restart.
#[tokio::test]
async fn a_hub_killed_at_any_moment_gives_each_agent_one_id() {
    const ROUNDS: usize = 6;
    let mut rng = Rng::new(seed());
    let program = agent().await;
    let broker = Mosquitto::plain().await.unwrap();
    let place = Place::new();
    let watcher = Watcher::start(&broker, "iot/registration/#").await.unwrap();
    let mut hub = place.hub_at(broker.addr()).await;
    let mut agents = Vec::new();
    for round in 0..ROUNDS {
        // First one that cannot even look at the request, then those that have got to who knows where with it.
        if round == 0 {
            hub.process.signal(Signal::STOP).unwrap();
        }
        agents.push(Agent::start(&program, &broker, &place.psk_file()));
        let request = watcher.next(|message| !message.topic.ends_with("/reply"), PATIENCE).await.unwrap();
        tokio::time::sleep(rng.between(Duration::ZERO, Duration::from_millis(8))).await;
        hub.process.kill().await.unwrap();
        hub = place.hub_at(broker.addr()).await;
        place.devices_until(|devices| alive(devices) == agents.len()).await;

        watcher.messages().skip_to_end();
        publish(&broker, &request.topic, &request.payload, 1, false).await.unwrap();
        let reply = format!("{}/reply", request.topic);
        let reply = watcher.next_on(&reply, PATIENCE).await.unwrap().json().unwrap();
        // A request that died with the hub before it was looked at is not a replay; it only gets the same id again.
        match reply["error"].as_str() {
            Some(error) => assert_eq!(error, "replay"),
            None => assert_eq!(reply["device_id"], agents[round].device_id()),
        }
        watcher.messages().skip_to_end();
    }
    let devices = place.devices().await;
    let kept: BTreeSet<_> = agents.iter().map(Agent::device_id).collect();
    assert_eq!((kept.len(), devices.len()), (ROUNDS, ROUNDS));
    assert_eq!(kept, ids(&devices));
    hub.stop().await;
}
