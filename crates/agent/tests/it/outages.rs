//! Outages of other kinds than a reset: what a real agent says before, during and after.

use std::time::Duration;

use testkit::{
    Mosquitto, Proxy, Watcher,
    client::Message,
    proxy::{Faults, Link},
    publish,
};
use tokio::time::sleep;

use crate::support::{
    SOON,
    proxied::{CLIENT, HEARTBEAT, STATUS, Story, assert_alive_only_when_connected, home},
};

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

fn last_seq(messages: &[Message]) -> u64 {
    let last = messages.iter().rfind(|message| message.topic == HEARTBEAT).unwrap();
    last.json().unwrap()["seq"].as_u64().unwrap()
}
