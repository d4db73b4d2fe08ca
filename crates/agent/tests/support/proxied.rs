//! An agent behind a proxy, whose connection a story breaks.

use serde_json::Value;
use testkit::{Mosquitto, Process, Proxy, Watcher, certs::Pki, client::Message, mosquitto::Tls};

use super::{Home, SOON};

pub const STATUS: &str = "iot/d1/status";
pub const HEARTBEAT: &str = "iot/d1/heartbeat";
pub const CLIENT: &str = "story-reconnect";

/// How the agent reaches the broker.
pub enum Way {
    Tcp,
    Tls,
    WebSocket,
}

pub fn home(port: u16, version: &str) -> Home {
    at(&format!("mqtt://127.0.0.1:{port}"), version)
}

pub fn at(url: &str, version: &str) -> Home {
    Home::new(url)
        .device("d1")
        .mqtt(&format!("version: {version}"))
        .mqtt(&format!("client_id: {CLIENT}"))
        .mqtt("keep_alive: 1s")
}

/// An agent behind a proxy.
pub struct Story {
    pub broker: Mosquitto,
    pub proxy: Proxy,
    pub watcher: Watcher,
    pub agent: Process,
    _kept: (Home, Pki),
}

impl Story {
    pub async fn begin(version: &str, heartbeat: &str) -> Self {
        Self::begin_over(Way::Tcp, version, heartbeat).await
    }

    pub async fn begin_over(way: Way, version: &str, heartbeat: &str) -> Self {
        let pki = Pki::new().unwrap();
        let tls = Tls {
            server: pki.server().unwrap(),
            client_ca: pki.ca_file(),
            require_client_certificate: true,
            only_version: None,
        };
        // What the watcher has not taken yet waits for it.
        let broker = Mosquitto::builder().tls(tls).websockets().line("max_queued_messages 0");
        let broker = broker.start().await.unwrap();
        let (scheme, target) = match way {
            Way::Tcp => ("mqtt", broker.port()),
            Way::Tls => ("mqtts", broker.tls_port()),
            Way::WebSocket => ("ws", broker.ws_port()),
        };
        let proxy = Proxy::start(([127, 0, 0, 1], target).into()).await.unwrap();
        let watcher = Watcher::start(&broker, "iot/#").await.unwrap();
        let client = pki.client("agent").unwrap();
        let home = at(&format!("{scheme}://127.0.0.1:{}", proxy.port()), version)
            .mqtt(&format!("ca_certificate: {}", pki.ca_file().display()))
            .mqtt(&format!("client_certificate: {}", client.cert.display()))
            .mqtt(&format!("client_key: {}", client.key.display()))
            .yaml(&format!("services:\n  heartbeat: {{interval: {heartbeat}}}"));
        let agent = home.start();
        let story = Self { broker, proxy, watcher, agent, _kept: (home, pki) };
        story.birth().await;
        story
    }

    pub async fn birth(&self) -> Message {
        let online =
            |message: &Message| message.topic == STATUS && message.json().unwrap()["state"] == "online";
        let birth = self.watcher.next(online, SOON).await.unwrap();
        assert!(birth.retain);
        birth
    }

    /// What the broker tells whoever asks now.
    pub async fn retained(&self) -> Value {
        let fresh = Watcher::start(&self.broker, STATUS).await.unwrap();
        fresh.next(|_| true, SOON).await.unwrap().json().unwrap()
    }

    pub async fn end(mut self) -> Vec<Message> {
        self.agent.terminate().unwrap();
        assert!(self.agent.wait_exit(SOON).await.unwrap().success());
        let gone =
            |message: &Message| message.topic == STATUS && message.json().unwrap()["reason"] == "shutdown";
        self.watcher.next(gone, SOON).await.unwrap();
        self.watcher.all()
    }
}

/// One run; `seq` grows; no heartbeat is older than the birth before it.
pub fn assert_alive_only_when_connected(messages: &[Message]) {
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

pub fn state(message: &Message) -> Option<Value> {
    (message.topic == STATUS).then(|| message.json().unwrap()["state"].clone())
}
