//! A real agent whose connection breaks, again and again: presence, heartbeats and subscriptions afterwards.

#![allow(clippy::print_stdout, reason = "figures, for who runs it with --nocapture")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Home, SOON, packets::connections};
use testkit::{
    Mosquitto, Process, Proxy, Watcher,
    client::Message,
    proxy::{Faults, Link},
    publish,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const STATUS: &str = "iot/d1/status";
const HEARTBEAT: &str = "iot/d1/heartbeat";
const CLIENT: &str = "story-reconnect";
const RESETS: usize = 100;
/// From the reset, or from the moment the broker can be reached again, to the birth: longer than from CONNACK.
const PROMPT: Duration = Duration::from_secs(1);

fn home(port: u16, version: &str) -> Home {
    Home::new(&format!("mqtt://127.0.0.1:{port}"))
        .device("d1")
        .mqtt(&format!("version: {version}"))
        .mqtt(&format!("client_id: {CLIENT}"))
        .mqtt("keep_alive: 1s")
}

/// An agent behind a proxy.
struct Story {
    broker: Mosquitto,
    proxy: Proxy,
    watcher: Watcher,
    agent: Process,
    _home: Home,
}

impl Story {
    async fn begin(version: &str, heartbeat: &str) -> Self {
        // What the watcher has not taken yet waits for it.
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let watcher = Watcher::start(&broker, "iot/#").await.unwrap();
        let home =
            home(proxy.port(), version).yaml(&format!("services:\n  heartbeat: {{interval: {heartbeat}}}"));
        let agent = home.start();
        let story = Self { broker, proxy, watcher, agent, _home: home };
        story.birth().await;
        story
    }

    async fn birth(&self) -> Message {
        let online =
            |message: &Message| message.topic == STATUS && message.json().unwrap()["state"] == "online";
        let birth = self.watcher.next(online, SOON).await.unwrap();
        assert!(birth.retain);
        birth
    }

    /// What the broker tells whoever asks now.
    async fn retained(&self) -> Value {
        let fresh = Watcher::start(&self.broker, STATUS).await.unwrap();
        fresh.next(|_| true, SOON).await.unwrap().json().unwrap()
    }

    async fn end(mut self) -> Vec<Message> {
        self.agent.terminate().unwrap();
        assert!(self.agent.wait_exit(SOON).await.unwrap().success());
        let gone =
            |message: &Message| message.topic == STATUS && message.json().unwrap()["reason"] == "shutdown";
        self.watcher.next(gone, SOON).await.unwrap();
        self.watcher.all()
    }
}

/// Every other time the broker has lost the session meanwhile.
async fn resets(version: &str) {
    let story = Story::begin(version, "50ms").await;
    let mut slowest = Duration::ZERO;
    for round in 0..RESETS {
        let lost = round % 2 == 1;
        let mut from = Instant::now();
        if lost {
            story.proxy.refuse().await;
            story.proxy.reset_all();
            forget_session(&story.broker).await;
            from = Instant::now();
            story.proxy.accept().await;
        } else {
            story.proxy.reset_all();
        }
        let birth = story.birth().await;
        slowest = slowest.max(birth.at.duration_since(from));
        if round % 10 < 2 {
            assert_eq!(story.retained().await["state"], "online");
        }
    }
    assert!(slowest < PROMPT, "{slowest:?}");
    println!("MQTT {version}: birth at most {} ms after the reset", slowest.as_millis());
    let reply = format!("iot/registration/{CLIENT}/reply");
    publish(&story.broker, &reply, "{}", 1, false).await.unwrap();
    story.broker.wait_log(&format!("Received PUBACK from {CLIENT}"), SOON).await.unwrap();

    let (log, connected) = (story.broker.log(), story.proxy.stats().connections);
    let mut lives = connections(&log, CLIENT);
    lives.retain(|life| life.will);
    assert_eq!((lives.len(), connected), (RESETS + 1, RESETS as u64 + 1), "one connection for each reset");
    for (round, life) in lives.iter().enumerate() {
        life.assert_order(STATUS);
        assert_eq!(life.session_present, Some(round > 0 && round % 2 == 1), "{round}: {life:#?}");
        assert_eq!(life.sent.iter().filter(|packet| packet.starts_with("SUBSCRIBE")).count(), 1, "{life:#?}");
    }
    let messages = story.end().await;
    let births = messages.iter().filter(|message| state(message) == Some("online".into())).count();
    assert_eq!(births, RESETS + 1);
    assert_alive_only_when_connected(&messages);
}

#[tokio::test]
async fn a_hundred_resets_under_mqtt_5() {
    resets("5").await;
}

#[tokio::test]
async fn a_hundred_resets_under_mqtt_3() {
    resets("3.1.1").await;
}

/// While the broker cannot be reached no heartbeat is made, and none is made up for afterwards.
#[tokio::test]
async fn an_outage_leaves_no_heartbeats_behind() {
    for version in ["5", "3.1.1"] {
        let story = Story::begin(version, "20ms").await;
        story.watcher.next_on(HEARTBEAT, SOON).await.unwrap();
        story.proxy.refuse().await;
        story.proxy.reset_all();
        story.agent.wait_line("not connected", SOON).await.unwrap();
        // The outage.
        sleep(Duration::from_secs(1)).await;
        let before = last_seq(&story.watcher.all());
        story.proxy.accept().await;
        story.birth().await;
        let after = story.watcher.next_on(HEARTBEAT, SOON).await.unwrap().json().unwrap();
        let after = after["seq"].as_u64().unwrap();
        assert!(after <= before + 5, "{before} and then {after}: counted on while offline");
        assert_alive_only_when_connected(&story.end().await);
    }
}

/// On a dead line more heartbeats pile up than may be in flight: none is sent on the next connection.
#[tokio::test]
async fn a_black_hole_leaves_no_heartbeats_behind() {
    for version in ["5", "3.1.1"] {
        let story = Story::begin(version, "5ms").await;
        story.proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
        // The outage: far more heartbeats than the 64 that may be in flight.
        sleep(Duration::from_secs(1)).await;
        story.proxy.reset_all();
        story.proxy.heal();
        story.birth().await;
        story.watcher.next_on(HEARTBEAT, SOON).await.unwrap();
        assert_alive_only_when_connected(&story.end().await);
    }
}

/// Both ends find the line dead at about the same time: the old connection's will must not outlast the new birth.
#[tokio::test]
async fn a_half_open_line_ends_online() {
    tokio::join!(half_open("5"), half_open("3.1.1"));
}

async fn half_open(version: &str) {
    let story = Story::begin(version, "100ms").await;
    for round in 1..=2 {
        let connections = story.proxy.stats().connections;
        story.proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
        story.proxy.wait(|stats| stats.connections > connections, SOON).await.unwrap();
        // Lets the end of the old connection and the CONNECT of the new one through at once.
        story.proxy.heal();
        let birth = story.birth().await;
        // Longer than the will is delayed.
        let later = |message: &Message| {
            message.topic == HEARTBEAT && message.at.duration_since(birth.at) > Duration::from_millis(1500)
        };
        story.watcher.next(later, SOON).await.unwrap();
        assert_eq!(story.retained().await["state"], "online", "MQTT {version}, round {round}");
    }
    assert_alive_only_when_connected(&story.end().await);
}

/// An "online" that a broker restored, or that another life left behind, is not left standing.
#[tokio::test]
async fn a_stop_before_the_birth_says_goodbye_too() {
    for version in ["5", "3.1.1"] {
        let broker = Mosquitto::plain().await.unwrap();
        publish(&broker, STATUS, r#"{"state": "online"}"#, 1, true).await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let slow = Link { latency: Duration::from_millis(200), ..Link::default() };
        proxy.set(Faults { down: slow, ..Faults::default() });
        let home = home(proxy.port(), version);
        let mut agent = home.start();
        broker.wait_log(&format!("Received SUBSCRIBE from {CLIENT}"), SOON).await.unwrap();
        agent.terminate().unwrap();
        assert!(agent.wait_exit(Duration::from_secs(5)).await.unwrap().success());
        let fresh = Watcher::start(&broker, STATUS).await.unwrap();
        let retained = fresh.next(|_| true, SOON).await.unwrap().json().unwrap();
        assert_eq!((&retained["state"], &retained["reason"]), (&"offline".into(), &"shutdown".into()));
    }
}

/// One run; `seq` grows; no heartbeat is older than the birth before it.
fn assert_alive_only_when_connected(messages: &[Message]) {
    let (mut run_id, mut seq, mut born) = (None, 0, String::new());
    for message in messages.iter().filter(|message| [STATUS, HEARTBEAT].contains(&message.topic.as_str())) {
        let json = message.json().unwrap();
        let timestamp = json["timestamp"].as_str().unwrap();
        assert_eq!(run_id.get_or_insert_with(|| json["run_id"].clone()), &json["run_id"]);
        if state(message) == Some("online".into()) {
            timestamp.clone_into(&mut born);
        }
        if message.topic == HEARTBEAT {
            assert!(timestamp >= born.as_str(), "{json}: before the birth at {born}");
            assert!(json["seq"].as_u64().unwrap() > seq, "{json} after {seq}");
            seq = json["seq"].as_u64().unwrap();
        }
    }
    assert!(seq > 0, "there were heartbeats");
}

fn state(message: &Message) -> Option<Value> {
    (message.topic == STATUS).then(|| message.json().unwrap()["state"].clone())
}

fn last_seq(messages: &[Message]) -> u64 {
    let last = messages.iter().rfind(|message| message.topic == HEARTBEAT).unwrap();
    last.json().unwrap()["seq"].as_u64().unwrap()
}

/// Connects with the agent's client id and a clean session, and leaves: the broker forgets the agent's.
async fn forget_session(broker: &Mosquitto) {
    let id = u8::try_from(CLIENT.len()).unwrap();
    let mut connect = vec![0x10, 12 + id, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 30, 0, id];
    connect.extend(CLIENT.bytes());
    let mut stream = TcpStream::connect(broker.addr()).await.unwrap();
    stream.write_all(&connect).await.unwrap();
    let mut connack = [0; 4];
    timeout(SOON, stream.read_exact(&mut connack)).await.unwrap().unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream.write_all(&[0xe0, 0]).await.unwrap();
    timeout(SOON, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}
