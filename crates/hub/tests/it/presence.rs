//! Presence of a real agent on the embedded broker, in both versions of MQTT: enrolment, birth, will, heartbeats,
//! a hub that comes back, a hundred resets, the goodbye.

#![allow(clippy::print_stdout, reason = "figures, for who runs it with --nocapture")]

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::client::Message;
use testkit::ports::free_port;
use testkit::process::Signal;
use testkit::proxy::{Faults, Link};
use testkit::{Process, Proxy, Watcher, publish};
use tokio::time::Instant;

use crate::support::{Hub, PATIENCE, Place, agent, write};

const RESETS: usize = 100;
/// From the new connection to the birth: longer than from its CONNACK.
const PROMPT: Duration = Duration::from_secs(1);
/// From SIGTERM to the exit.
const STOP: Duration = Duration::from_secs(5);

/// A hub, a proxy before its broker, and an agent's folder.
struct Story {
    place: Place,
    hub: Hub,
    proxy: Proxy,
    folder: TempDir,
}

impl Story {
    async fn begin(version: &str) -> Story {
        let (place, port) = (Place::new(), free_port());
        let hub = place.hub_on(port).await;
        let proxy = Proxy::start(hub.broker).await.unwrap();
        let folder = TempDir::new().unwrap();
        let at = folder.path().display();
        let config = format!(
            "mqtt:\n  broker: mqtt://{}\n  version: {version}\n  keep_alive: 1s\n  \
             reconnect: {{min: 20ms, max: 200ms, reset_after: 0}}\n\
             paths: {{state: {at}/state, run: {at}/run}}\nlog: {{format: json, level: debug}}\nservices:\n  \
             registration: {{device_secret_file: {}, response_timeout: 5s}}\n  heartbeat: {{interval: 100ms}}\n  metrics: {{enabled: false}}\n",
            proxy.addr(),
            place.psk_file().display()
        );
        write(&folder.path().join("config.yaml"), config.as_bytes(), 0o600);
        Story { place, hub, proxy, folder }
    }

    async fn run(&self) -> Process {
        let config = self.folder.path().join("config.yaml");
        Process::spawn(agent().await, ["run".into(), "--config".into(), config]).unwrap()
    }

    /// Hears every device.
    async fn watcher(&self) -> Watcher {
        Watcher::start_many(self.hub.broker, &["iot/+/status", "iot/+/heartbeat"]).await.unwrap()
    }

    /// What the broker tells whoever asks now.
    async fn retained(&self, topic: &str) -> Value {
        let fresh = Watcher::start(self.hub.broker, topic).await.unwrap();
        fresh.next(|_| true, PATIENCE).await.unwrap().json().unwrap()
    }

    /// A message to the agent reaches it: it is subscribed.
    async fn reaches(&self, agent: &Process, client_id: &str) {
        agent.stderr.skip_to_end();
        publish(self.hub.broker, &format!("iot/registration/{client_id}/reply"), "{}", 1, false)
            .await
            .unwrap();
        agent.wait_line("already enrolled", PATIENCE).await.unwrap();
    }
}

/// The next presence message, which has to say this.
async fn state(watcher: &Watcher, state: &str) -> Value {
    let next = watcher.next(|message| message.topic.ends_with("/status"), PATIENCE).await.unwrap();
    let json = next.json().unwrap();
    assert_eq!(json["state"], state, "{json:#}");
    json
}

async fn life(version: &str) {
    let mut story = Story::begin(version).await;
    let watcher = story.watcher().await;
    let mut agent = story.run().await;
    let first = watcher.next(|_| true, PATIENCE).await.unwrap();
    assert!(first.topic.ends_with("/status"), "the birth comes first: {first:?}");
    let (status, birth) = (first.topic.clone(), first.json().unwrap());
    assert_eq!(birth["state"], "online");
    let beat = watcher.next(|message| message.topic.ends_with("/heartbeat"), PATIENCE).await.unwrap();
    let beat = beat.json().unwrap();
    assert_eq!((&beat["seq"], &beat["run_id"]), (&1.into(), &birth["run_id"]));

    agent.signal(Signal::KILL).unwrap();
    agent.wait_exit(STOP).await.unwrap();
    let will = state(&watcher, "offline").await;
    assert_eq!((&will["reason"], &will["run_id"]), (&"connection_lost".into(), &birth["run_id"]));

    let mut agent = story.run().await;
    let again = state(&watcher, "online").await;
    assert_eq!(again["device_id"], birth["device_id"]);
    assert_ne!(again["run_id"], birth["run_id"]);
    let devices = story.place.devices().await;
    assert_eq!(devices.len(), 1, "{devices:#?}");
    let client_id = devices[0]["client_id"].as_str().unwrap().to_owned();
    drop(watcher);

    for gently in [true, false] {
        let port = story.hub.broker.port();
        if gently {
            story.hub.process.terminate().unwrap();
            story.hub.process.wait_exit(PATIENCE).await.unwrap();
        } else {
            story.hub.process.kill().await.unwrap();
        }
        agent.wait_line("not connected", PATIENCE).await.unwrap();
        story.hub = story.place.hub_on(port).await;
        agent.wait_line("\"connected\"", PATIENCE).await.unwrap();
        let watcher = story.watcher().await;
        watcher.next(|message| message.topic.ends_with("/heartbeat"), PATIENCE).await.unwrap();
        let retained = story.retained(&status).await;
        assert_eq!((&retained["state"], &retained["run_id"]), (&"online".into(), &again["run_id"]));
        story.reaches(&agent, &client_id).await;
    }
    resets(&story, &agent, &client_id, version).await;
    half_open(&story, &status, version).await;

    agent.terminate().unwrap();
    let exit = agent.wait_exit(STOP).await.unwrap();
    assert!(exit.success(), "{exit}: {:#?}", agent.stderr.all());
    let retained = story.retained(&status).await;
    assert_eq!((&retained["state"], &retained["reason"]), (&"offline".into(), &"shutdown".into()));
    assert_eq!(retained["run_id"], again["run_id"]);
    story.hub.stop().await;
}

async fn resets(story: &Story, agent: &Process, client_id: &str, version: &str) {
    let watcher = story.watcher().await;
    let status = watcher.next(online, PATIENCE).await.unwrap().topic;
    let (before, mut slowest) = (story.proxy.stats().connections, Duration::ZERO);
    for round in 0..RESETS {
        let connections = story.proxy.stats().connections;
        story.proxy.reset_all();
        // Before its CONNECT can have passed: the proxy has its turn on this very thread.
        story.proxy.wait(|stats| stats.connections > connections, PATIENCE).await.unwrap();
        let from = Instant::now();
        let birth = watcher.next(online, PATIENCE).await.unwrap();
        slowest = slowest.max(birth.at.duration_since(from));
        if round % 10 == 0 {
            story.reaches(agent, client_id).await;
            assert_eq!(story.retained(&status).await["state"], "online");
        }
    }
    assert!(slowest < PROMPT, "{slowest:?}");
    println!("MQTT {version}: birth at most {} ms after dialling", slowest.as_millis());
    assert_eq!(story.proxy.stats().connections - before, RESETS as u64, "one connection for each reset");
    let seqs = watcher.all().into_iter().filter(|message| message.topic.ends_with("/heartbeat"));
    let seqs: Vec<_> = seqs.map(|message| message.json().unwrap()["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
}

/// Both ends find the line dead at about the same time: the old connection's will must not outlast the new birth.
async fn half_open(story: &Story, status: &str, version: &str) {
    let watcher = story.watcher().await;
    watcher.next(online, PATIENCE).await.unwrap();
    for round in 1..=2 {
        let connections = story.proxy.stats().connections;
        story.proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
        story.proxy.wait(|stats| stats.connections > connections, PATIENCE).await.unwrap();
        // Lets the end of the old connection and the CONNECT of the new one through at once.
        story.proxy.heal();
        let birth = watcher.next(online, PATIENCE).await.unwrap();
        // Longer than the will is delayed.
        let later = |message: &Message| {
            message.topic.ends_with("/heartbeat")
                && message.at.duration_since(birth.at) > Duration::from_millis(1500)
        };
        watcher.next(later, PATIENCE).await.unwrap();
        assert_eq!(story.retained(status).await["state"], "online", "MQTT {version}, round {round}");
    }
}

fn online(message: &Message) -> bool {
    message.topic.ends_with("/status") && message.json().unwrap()["state"] == "online"
}

#[tokio::test]
async fn a_life_under_mqtt_5() {
    life("5").await;
}

#[tokio::test]
async fn a_life_under_mqtt_3() {
    life("3.1.1").await;
}
