//! A real agent whose connection is reset, again and again: presence, heartbeats and subscriptions afterwards.

#![allow(clippy::print_stdout, reason = "figures, for who runs it with --nocapture")]

use std::time::Duration;

use testkit::{Mosquitto, publish};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{
    SOON,
    packets::connections,
    proxied::{CLIENT, HEARTBEAT, STATUS, Story, Way, assert_alive_only_when_connected, state},
};

const RESETS: usize = 100;
/// From the new connection to the birth: longer than from its CONNACK.
const PROMPT: Duration = Duration::from_secs(1);

/// Every other time the broker has lost the session meanwhile.
async fn resets(way: Way, version: &str) {
    let story = Story::begin_over(way, version, "50ms").await;
    let mut slowest = Duration::ZERO;
    for round in 0..RESETS {
        let lost = round % 2 == 1;
        let connections = story.proxy.stats().connections;
        if lost {
            story.proxy.refuse().await;
            story.proxy.reset_all();
            forget_session(&story.broker).await;
            story.proxy.accept().await;
        } else {
            story.proxy.reset_all();
        }
        // Before its CONNECT can have passed: the proxy has its turn on this very thread.
        story.proxy.wait(|stats| stats.connections > connections, SOON).await.unwrap();
        let from = Instant::now();
        let birth = story.birth().await;
        slowest = slowest.max(birth.at.duration_since(from));
        if round % 10 < 2 {
            assert_eq!(story.retained().await["state"], "online");
        }
    }
    assert!(slowest < PROMPT, "{slowest:?}");
    // A connection between two resets may be too short for any: the last one is not.
    story.watcher.next_on(HEARTBEAT, SOON).await.unwrap();
    println!("MQTT {version}: birth at most {} ms after dialling", slowest.as_millis());
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

// The slowest by far, since mosquitto looks after its websockets ten times a second only: first in the alphabet, so
// that the others run beside it.
#[tokio::test]
async fn a_hundred_resets_in_websockets() {
    tokio::join!(resets(Way::WebSocket, "5"), resets(Way::WebSocket, "3.1.1"));
}

#[tokio::test]
async fn a_hundred_resets_over_plain_tcp() {
    tokio::join!(resets(Way::Tcp, "5"), resets(Way::Tcp, "3.1.1"));
}

#[tokio::test]
async fn a_hundred_resets_over_tls_with_a_client_certificate() {
    tokio::join!(resets(Way::Tls, "5"), resets(Way::Tls, "3.1.1"));
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
