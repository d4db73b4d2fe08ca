//! Messages that a real mosquitto never takes: each is set aside and counted, and what stands behind it arrives.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use iot_agent::{
    clock::{self, Clock},
    mqtt::{
        self, Backoff, Connection, Delivery, Message, Mqtt, Outcome, Pending, Presence, Qos, Settings,
        Version,
    },
    outbox::{Folder, Outbox},
};
use tempfile::TempDir;
use testkit::{
    client::Watcher,
    mosquitto::Mosquitto,
    proxy::{Cut, Faults, Link, Proxy},
};
use tokio::{task::JoinHandle, time::timeout};

const SOON: Duration = Duration::from_secs(10);
/// A poisonous message has to be seen for 20 s.
const PROVEN: Duration = Duration::from_secs(40);

fn settings(port: u16, version: Version) -> Settings {
    let settings = crate::direct::settings(port, "device");
    let reconnect = Backoff { max: Duration::from_millis(500), ..settings.reconnect };
    Settings { version, reconnect, ..settings }
}

struct Born;

impl Presence for Born {
    fn birth(&self) -> Option<Message> {
        Some(Message { delivery: Delivery::Live, ..message("birth", b"online") })
    }

    fn will(&self) -> Option<Message> {
        None
    }
}

struct Device {
    mqtt: Mqtt,
    driver: JoinHandle<()>,
    committer: JoinHandle<()>,
    _state: TempDir,
}

impl Device {
    fn start(settings: Settings) -> Self {
        let state = tempfile::tempdir().unwrap();
        let disk = Arc::new(Folder::new(state.path().join("outbox")));
        let outbox = Outbox::open(Arc::clone(&disk) as _, 64 << 20, Clock::new(clock::built(), None));
        let (mqtt, driver, committer) = mqtt::durable(settings, Born, outbox, disk);
        let (driver, committer) = (tokio::spawn(driver.run()), tokio::spawn(committer.run()));
        Self { mqtt, driver, committer, _state: state }
    }

    async fn connected(&self) {
        let mut connection = self.mqtt.connection();
        let up = connection.wait_for(|connection| matches!(connection, Connection::Connected { .. }));
        timeout(SOON, up).await.expect("connects").unwrap();
    }

    async fn stop(self) {
        self.mqtt.stop(None, Duration::from_secs(1));
        timeout(SOON, self.driver).await.expect("stops").unwrap();
        self.mqtt.close();
        timeout(SOON, self.committer).await.expect("is written").unwrap();
        assert_eq!(self.mqtt.counters().queued, 0);
    }
}

fn message(name: &str, payload: &[u8]) -> Message {
    Message {
        topic: format!("up/{name}"),
        payload: payload.to_vec(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delivery: Delivery::Durable,
    }
}

async fn outcome(pending: Pending) -> Outcome {
    timeout(PROVEN, pending).await.expect("an outcome")
}

/// Mosquitto reads no more than the head of a message over its limit, and closes. 3.1.1 could not tell it before.
#[tokio::test]
async fn a_message_too_large_for_a_broker_of_3_1_1_blocks_nothing() {
    let broker = Mosquitto::builder().line("max_packet_size 10000").start().await.unwrap();
    let watcher = Watcher::start(&broker, "up/#").await.unwrap();
    let device = Device::start(settings(broker.port(), Version::V311));
    device.connected().await;
    let before = device.mqtt.publish(message("x", b"before"));
    let poison = device.mqtt.publish(message("x", &[b'x'; 20_000]));
    let behind: Vec<_> =
        (0..100).map(|n| device.mqtt.publish(message("x", n.to_string().as_bytes()))).collect();
    assert_eq!(outcome(before).await, Outcome::Sent);
    assert!(matches!(outcome(poison).await, Outcome::Refused(_)));
    for pending in behind {
        assert_eq!(outcome(pending).await, Outcome::Sent);
    }
    assert_eq!(device.mqtt.counters().refused, 1);
    let connects = device.mqtt.counters().connects;
    assert!(connects >= 6, "only {connects} connections: was it the limit?");
    watcher.next(|message| message.text() == "99", SOON).await.unwrap();
    let seen: BTreeSet<_> =
        watcher.all().into_iter().filter(|seen| seen.topic == "up/x").map(|seen| seen.text()).collect();
    assert_eq!(seen.len(), 101);
    device.stop().await;
}

/// The CONNACK of MQTT 5 says what is too large, and a PUBACK what is forbidden.
#[tokio::test]
async fn what_mqtt_5_refuses_by_name_costs_no_connection() {
    let acl = "topic readwrite up/x\ntopic readwrite up/birth\n";
    let broker = Mosquitto::builder().line("max_packet_size 10000").acl(acl).start().await.unwrap();
    let watcher = Watcher::start(&broker, "up/x").await.unwrap();
    let device = Device::start(settings(broker.port(), Version::V5));
    device.connected().await;
    let large = device.mqtt.publish(message("x", &[b'x'; 20_000]));
    let forbidden = device.mqtt.publish(message("forbidden", b"x"));
    let behind = device.mqtt.publish(message("x", b"behind"));
    assert_eq!(outcome(behind).await, Outcome::Sent);
    assert!(matches!(outcome(large).await, Outcome::Refused(_)));
    assert!(matches!(outcome(forbidden).await, Outcome::Refused(_)));
    watcher.next(|message| message.text() == "behind", SOON).await.unwrap();
    let counters = device.mqtt.counters();
    assert_eq!((counters.refused, counters.connects), (2, 1));
    device.stop().await;
}

/// A line that dies after a few kilobytes, by FIN or RST, each time in the middle of some message: for longer than it
/// takes to prove that a message is poisonous.
#[tokio::test]
async fn no_message_is_blamed_for_a_bad_line() {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let watcher = Watcher::start(&broker, "up/x").await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let seed = testkit::seed();
    let mut rng = testkit::Rng::new(seed);
    let device = Device::start(settings(proxy.port(), Version::V311));
    let mut sent = Vec::new();
    let until = tokio::time::Instant::now() + Duration::from_secs(22);
    while tokio::time::Instant::now() < until {
        let cut = if rng.below(2) == 0 { Cut::Fin } else { Cut::Rst };
        // Enough for CONNECT, the birth and one message; not for many.
        let link = Link { cut_after: Some((700 + rng.below(2000), cut)), ..Link::default() };
        proxy.set(Faults { up: link, down: Link::default() });
        let first = sent.len();
        for n in first..first + 20 {
            sent.push((n, device.mqtt.publish(message("x", format!("{n:0500}").as_bytes()))));
        }
        tokio::time::sleep(Duration::from_millis(rng.below(600))).await;
    }
    proxy.heal();
    let mut ids = BTreeSet::new();
    for (n, pending) in sent {
        assert_eq!(outcome(pending).await, Outcome::Sent, "message {n}");
        ids.insert(n);
    }
    let connects = device.mqtt.counters().connects;
    assert!(connects > 20, "only {connects} connections");
    let last = ids.last().copied().unwrap();
    watcher.next(|message| message.text().parse() == Ok(last), SOON).await.unwrap();
    let seen: BTreeSet<usize> = watcher.all().iter().map(|message| message.text().parse().unwrap()).collect();
    assert_eq!(seen, ids);
    assert_eq!(device.mqtt.counters().refused, 0);
    device.stop().await;
}
