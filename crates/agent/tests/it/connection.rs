//! The MQTT driver against a real mosquitto: order after a CONNACK, acknowledgements by hand, sessions kept and
//! lost, hostile sizes.

use std::time::Duration;

use iot_agent::mqtt::{self, Connection, Delivery, Inbox, Message, Mqtt, Outcome, Qos, Settings, Version};
use testkit::{client::Watcher, mosquitto::Mosquitto, proxy::Proxy};
use tokio::{task::JoinHandle, time::timeout};

const SOON: Duration = Duration::from_secs(10);

fn settings(port: u16, version: Version) -> Settings {
    Settings { version, ..crate::direct::settings(port, &format!("test-{port}")) }
}

struct Device {
    mqtt: Mqtt,
    driver: JoinHandle<()>,
}

impl Device {
    fn start(settings: Settings) -> (Self, Inbox) {
        let (mqtt, driver) = mqtt::new(settings, ());
        let inbox = mqtt.claim("test", "down/#", Qos::AtLeastOnce, 8);
        (Self { mqtt, driver: tokio::spawn(driver.run()) }, inbox)
    }

    async fn connected(&self) -> Connection {
        let mut connection = self.mqtt.connection();
        let up = connection.wait_for(|connection| matches!(connection, Connection::Connected { .. }));
        timeout(SOON, up).await.expect("connects").unwrap().clone()
    }

    async fn stop(self) {
        self.mqtt.stop(None, Duration::from_secs(1));
        timeout(SOON, self.driver).await.expect("stops").unwrap();
    }
}

fn message(n: usize) -> Message {
    Message {
        topic: "up/x".into(),
        payload: n.to_string().into_bytes(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delivery: Delivery::Memory,
    }
}

async fn inbound(inbox: &mut Inbox) -> mqtt::Inbound {
    timeout(SOON, inbox.recv()).await.expect("a message").expect("the driver runs")
}

/// A hundred resets while messages flow: none lost, first-seen order kept, re-subscribed every time.
async fn resets(version: Version) {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let watcher = Watcher::start(&broker, "up/#").await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let (device, mut inbox) = Device::start(settings(proxy.port(), version));
    let mut sent = Vec::new();
    for round in 0..100 {
        device.connected().await;
        for n in 0..10 {
            sent.push(device.mqtt.publish(message(round * 10 + n)));
        }
        let connects = device.mqtt.counters().connects;
        proxy.reset_all();
        let mut connection = device.mqtt.connection();
        let again = connection.wait_for(|_| device.mqtt.counters().connects > connects);
        timeout(SOON, again).await.expect("reconnects").unwrap();
    }
    for outcome in sent {
        assert_eq!(timeout(SOON, outcome).await.expect("acknowledged"), Outcome::Sent);
    }
    device.connected().await;
    testkit::client::publish(&broker, "down/last", b"x", 1, false).await.unwrap();
    loop {
        let message = inbound(&mut inbox).await;
        let last = message.topic == "down/last";
        message.ack();
        if last {
            break;
        }
    }
    watcher.next(|message| message.text() == "999", SOON).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let order: Vec<usize> = watcher
        .all()
        .iter()
        .map(|message| message.text().parse().unwrap())
        .filter(|n| seen.insert(*n))
        .collect();
    assert_eq!(order, (0..1000).collect::<Vec<_>>());
    device.stop().await;
}

#[tokio::test]
async fn a_hundred_resets_lose_nothing_under_mqtt_5() {
    resets(Version::V5).await;
}

#[tokio::test]
async fn a_hundred_resets_lose_nothing_under_mqtt_3() {
    resets(Version::V311).await;
}

/// What was not acknowledged comes again after a reconnect; what was does not.
#[tokio::test]
async fn an_unacknowledged_message_comes_again() {
    for version in [Version::V5, Version::V311] {
        let broker = Mosquitto::plain().await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let (device, mut inbox) = Device::start(settings(proxy.port(), version));
        device.connected().await;
        for text in ["taken", "dropped"] {
            testkit::client::publish(&broker, "down/x", text.as_bytes(), 1, false).await.unwrap();
        }
        inbound(&mut inbox).await.ack();
        drop(inbound(&mut inbox).await);
        // The PUBACK is on its way before the reset: a round trip shows it.
        assert_eq!(device.mqtt.publish(message(1)).await, Outcome::Sent);
        proxy.reset_all();
        let again = inbound(&mut inbox).await;
        assert_eq!((again.payload.as_slice(), again.dup), (b"dropped".as_slice(), true));
        again.ack();
        device.stop().await;
    }
}

/// A broker that comes back without its session is subscribed anew, and gets what it never acknowledged.
#[tokio::test]
async fn a_lost_session_is_made_anew() {
    for version in [Version::V5, Version::V311] {
        let mut broker = Mosquitto::plain().await.unwrap();
        let (device, mut inbox) = Device::start(settings(broker.port(), version));
        device.connected().await;
        broker.kill().await.unwrap();
        let mut connection = device.mqtt.connection();
        let down = connection.wait_for(|connection| matches!(connection, Connection::Waiting { .. }));
        timeout(SOON, down).await.expect("notices").unwrap();
        let waiting = device.mqtt.publish(message(1));
        broker.start_without_session().await.unwrap();
        let connected = device.connected().await;
        assert!(matches!(connected, Connection::Connected { session_present: false, .. }), "{connected:?}");
        assert_eq!(timeout(SOON, waiting).await.unwrap(), Outcome::Sent);
        testkit::client::publish(&broker, "down/x", b"hello", 1, false).await.unwrap();
        let received = inbound(&mut inbox).await;
        assert_eq!(received.payload, b"hello");
        received.ack();
        device.stop().await;
    }
}

/// Under MQTT 5 the broker never sends it; under 3.1.1 it goes by and is acknowledged. The next one works.
#[tokio::test]
async fn a_message_over_the_limit_does_no_harm() {
    for (version, oversized) in [(Version::V5, 0), (Version::V311, 1)] {
        let broker = Mosquitto::plain().await.unwrap();
        let (device, mut inbox) = Device::start(settings(broker.port(), version));
        device.connected().await;
        let big = vec![b'x'; 1 << 20];
        testkit::client::publish(&broker, "down/big", &big, 1, false).await.unwrap();
        testkit::client::publish(&broker, "down/small", b"x", 1, false).await.unwrap();
        let received = inbound(&mut inbox).await;
        assert_eq!(received.topic, "down/small");
        received.ack();
        assert_eq!(device.mqtt.counters().oversized, oversized, "{version:?}");
        assert_eq!(device.mqtt.counters().connects, 1, "still the first connection");
        device.stop().await;
    }
}

/// More messages than an inbox holds, and a service that is slow to take them: Receive Maximum holds them back;
/// where a broker does not keep to it (mosquitto 2.0.11) or has none (3.1.1), what found no room comes again.
#[tokio::test]
async fn a_flood_loses_nothing() {
    for version in [Version::V5, Version::V311] {
        let broker = Mosquitto::plain().await.unwrap();
        let (device, mut inbox) = Device::start(settings(broker.port(), version));
        device.connected().await;
        let lines: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        testkit::client::publish_lines(&broker, "down/x", &lines, 1).await.unwrap();
        let mut missing: std::collections::BTreeSet<_> = lines.into_iter().collect();
        while !missing.is_empty() {
            let received = inbound(&mut inbox).await;
            missing.remove(std::str::from_utf8(&received.payload).unwrap());
            received.ack();
        }
        device.stop().await;
    }
}

/// QoS 2 both ways arrives once each, also over a reset.
#[tokio::test]
async fn exactly_once_is_kept_over_a_reset() {
    for version in [Version::V5, Version::V311] {
        let broker = Mosquitto::plain().await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let watcher = Watcher::start(&broker, "up/#").await.unwrap();
        let (mqtt, driver) = mqtt::new(settings(proxy.port(), version), ());
        let mut inbox = mqtt.claim("test", "twice", Qos::ExactlyOnce, 8);
        let device = Device { mqtt, driver: tokio::spawn(driver.run()) };
        device.connected().await;
        let sent: Vec<_> =
            (0..50).map(|n| device.mqtt.publish(Message { qos: Qos::ExactlyOnce, ..message(n) })).collect();
        proxy.reset_all();
        for outcome in sent {
            assert_eq!(timeout(SOON, outcome).await.unwrap(), Outcome::Sent);
        }
        let down: Vec<_> = (0..5).collect();
        for n in &down {
            testkit::client::publish(&broker, "twice", format!("{n}").as_bytes(), 2, false).await.unwrap();
        }
        for n in &down {
            let received = inbound(&mut inbox).await;
            assert_eq!(received.payload, format!("{n}").as_bytes());
            received.ack();
        }
        watcher.next(|message| message.text() == "49", SOON).await.unwrap();
        let seen: Vec<usize> = watcher.all().iter().map(|message| message.text().parse().unwrap()).collect();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        device.stop().await;
    }
}

/// QoS 2 from the broker while the line is reset all the time: everything arrives, whatever got lost in between,
/// a PUBREC too.
#[tokio::test]
async fn exactly_once_from_the_broker_survives_chaos() {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let (mqtt, driver) = mqtt::new(settings(proxy.port(), Version::V5), ());
    let mut inbox = mqtt.claim("test", "twice", Qos::ExactlyOnce, 8);
    let device = Device { mqtt, driver: tokio::spawn(driver.run()) };
    device.connected().await;
    let chaos = proxy.chaos(testkit::seed(), Duration::from_millis(5), Duration::from_millis(30));
    // However fast they come, the line has been reset a few times in between.
    for round in 0.. {
        let lines: Vec<String> = (0..400).map(|n| format!("{round}.{n}")).collect();
        testkit::client::publish_lines(&broker, "twice", &lines, 2).await.unwrap();
        let mut missing: std::collections::BTreeSet<_> = lines.into_iter().collect();
        while !missing.is_empty() {
            let received = inbound(&mut inbox).await;
            missing.remove(std::str::from_utf8(&received.payload).unwrap());
            received.ack();
        }
        if chaos.resets() > 5 {
            break;
        }
        assert!(round < 50, "only {} resets", chaos.resets());
    }
    drop(chaos);
    device.stop().await;
}
