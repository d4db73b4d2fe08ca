//! What one client sent, in order, as mosquitto's log tells it.

use std::time::Duration;

use testkit::Mosquitto;
use tokio::time::{Instant, sleep};

use super::SOON;

/// One connection of a client, from its CONNECT on.
#[derive(Debug, Default)]
pub struct Connection {
    /// `p5` or `p2` (3.1.1).
    pub version: String,
    /// CONNECT named a will.
    pub will: bool,
    /// The broker still had the session; none before the CONNACK.
    pub session_present: Option<bool>,
    /// `SUBSCRIBE`, `PUBLISH r1 topic`, …
    pub sent: Vec<String>,
}

impl Connection {
    /// Subscribes before it publishes, and publishes the retained birth before anything else; holds also for
    /// what a cut connection got through of it.
    pub fn assert_order(&self, status_topic: &str) {
        let wanted = ["SUBSCRIBE".to_owned(), format!("PUBLISH r1 {status_topic}")];
        let sent: Vec<_> = self
            .sent
            .iter()
            .filter(|packet| packet.starts_with("SUBSCRIBE") || packet.starts_with("PUBLISH"))
            .take(2)
            .cloned()
            .collect();
        assert_eq!(sent, wanted[..sent.len()], "{self:#?}");
    }
}

/// Every connection of `client_id` so far.
pub fn connections(log: &str, client_id: &str) -> Vec<Connection> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut lines = log.lines().filter_map(|line| line.split_once(": ").map(|(_, text)| text)).peekable();
    let connected = format!(" as {client_id} (");
    let received = |line: &str| -> Option<String> {
        let (kind, rest) = line.strip_prefix("Received ")?.split_once(" from ")?;
        let rest = rest.strip_prefix(client_id)?;
        if kind != "PUBLISH" {
            return Some(kind.to_owned());
        }
        let retain = if rest.contains(", r1, ") { "r1" } else { "r0" };
        Some(format!("PUBLISH {retain} {}", rest.split('\'').nth(1)?))
    };
    while let Some(line) = lines.next() {
        if line.starts_with("New client connected") && line.contains(&connected) {
            let (_, about) = line.split_once(&connected).unwrap();
            let version = about.split(',').next().unwrap().to_owned();
            let will = lines.peek().is_some_and(|next| next.starts_with("Will message specified"));
            connections.push(Connection { version, will, ..Connection::default() });
        }
        let Some(connection) = connections.last_mut() else { continue };
        if let Some(session) = line.strip_prefix(&format!("Sending CONNACK to {client_id} (")) {
            connection.session_present = Some(session.starts_with('1'));
        }
        connection.sent.extend(received(line));
    }
    connections
}

/// Waits for the birth on the client's connection number `index`, and tells how long after its CONNACK it came:
/// at most so long, since the log's own clock counts whole seconds.
pub async fn wait_birth(broker: &Mosquitto, client_id: &str, topic: &str, index: usize) -> Duration {
    let birth = format!("PUBLISH r1 {topic}");
    let began = Instant::now();
    // The last look that found no CONNACK.
    let mut before = began;
    loop {
        let now = Instant::now();
        let connections = connections(&broker.log(), client_id);
        match connections.get(index) {
            Some(connection) if connection.sent.contains(&birth) => return before.elapsed(),
            Some(connection) if connection.session_present.is_some() => {}
            _ => before = now,
        }
        assert!(began.elapsed() < SOON, "no birth on connection {index}: {connections:#?}");
        sleep(Duration::from_millis(2)).await;
    }
}
