//! A device that runs commands, and whoever sends them.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use testkit::{Mosquitto, Process, Watcher};

use crate::support::{Home, SOON};

/// The seven statuses of which each id has exactly one.
pub(crate) const FINAL: [&str; 7] =
    ["success", "failed", "timed_out", "cancelled", "interrupted", "rejected", "expired"];

pub(crate) struct Story {
    pub(crate) broker: Mosquitto,
    pub(crate) watcher: Watcher,
    pub(crate) home: Home,
    topic: &'static str,
}

/// The section of the service; `more` are further keys of it.
pub(crate) fn services(more: &str) -> String {
    format!(
        "services:\n  registration: {{device_secret_file: psk}}\n  heartbeat: {{interval: 1s}}\n  \
         metrics: {{enabled: false}}\n  command: {{enabled: true{more}}}\n"
    )
}

impl Story {
    pub(crate) async fn begin(more: &str) -> Self {
        Self::with(more, "").await
    }

    /// That does nothing but what it is asked.
    pub(crate) async fn quiet() -> Self {
        let mut story = Self::begin("").await;
        let text = services("").replace("interval: 1s", "interval: 1h");
        story.home = Home::new(&format!("mqtt://127.0.0.1:{}", story.broker.port())).device("d1").yaml(&text);
        story
    }

    /// With more keys of the service, and more sections.
    pub(crate) async fn with(more: &str, sections: &str) -> Self {
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let watcher = Watcher::start(&broker, "iot/d1/#").await.unwrap();
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()));
        let home = home.device("d1").yaml(&format!("{}{sections}", services(more)));
        Self { broker, watcher, home, topic: "iot/d1/command" }
    }

    /// In the layout of IOT-Cloud.
    pub(crate) async fn iot_cloud(more: &str) -> Self {
        let mut story = Self::begin(more).await;
        story.watcher = Watcher::start(&story.broker, "iot-commands/response/#").await.unwrap();
        story.home = story.home.mqtt("layout: iot-cloud");
        story.topic = "iot-commands/d1";
        story
    }

    /// Connected, and subscribed.
    pub(crate) async fn online(&self) -> Process {
        self.home.online().await
    }

    pub(crate) async fn send(&self, payload: impl AsRef<[u8]>) {
        testkit::client::publish(&self.broker, self.topic, payload, 1, false).await.unwrap();
    }

    /// Runs a command under this id.
    pub(crate) async fn order(&self, id: &str, command: &str) {
        self.send(json!({ "execution_id": id, "command": command }).to_string()).await;
    }

    /// The same with further fields.
    pub(crate) async fn order_with(&self, id: &str, command: &str, more: Value) {
        let mut order = json!({ "execution_id": id, "command": command });
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(order.to_string()).await;
    }

    pub(crate) async fn cancel(&self, id: &str) {
        self.send(json!({ "execution_id": id, "cancel": true }).to_string()).await;
    }

    /// Waits for this status of an id.
    pub(crate) async fn status(&self, id: &str, status: &str) -> Value {
        self.wait(id, |said| said == status).await
    }

    /// Waits for the end of an id.
    pub(crate) async fn end(&self, id: &str) -> Value {
        self.wait(id, |said| FINAL.contains(&said)).await
    }

    async fn wait(&self, id: &str, wanted: impl Fn(&str) -> bool) -> Value {
        let matching = |message: &testkit::client::Message| {
            let said = message.json().unwrap_or_default();
            said["execution_id"] == id && said["status"].as_str().is_some_and(&wanted)
        };
        self.watcher.messages().find(matching, SOON).await.unwrap().json().unwrap()
    }

    /// Everything that was said of an id so far.
    pub(crate) fn said(&self, id: &str) -> Vec<Value> {
        let all = self.watcher.messages().matching(|message| message.mentions(id));
        let all = all.into_iter().filter_map(|message| message.json().ok());
        all.filter(|said| said["execution_id"] == id && said["status"].is_string()).collect()
    }

    /// The different ends that were told of an id, less what differs in copies of one.
    pub(crate) fn ends(&self, id: &str) -> Vec<Value> {
        let mut ends: Vec<Value> = Vec::new();
        for mut said in self.said(id) {
            said.as_object_mut().unwrap().remove("seq");
            if FINAL.contains(&said["status"].as_str().unwrap_or_default()) && !ends.contains(&said) {
                ends.push(said);
            }
        }
        ends
    }

    /// A file that commands may write to, not there yet.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Waits until it is there and has so many lines.
    pub(crate) async fn lines(&self, name: &str, wanted: usize) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.count(name) < wanted {
            assert!(tokio::time::Instant::now() < deadline, "{name} has {} lines", self.count(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        std::fs::read_to_string(self.file(name)).unwrap_or_default().lines().count()
    }
}
