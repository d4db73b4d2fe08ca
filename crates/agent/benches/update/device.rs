//! The device that is updated.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Mosquitto, Watcher};

use crate::goods::Goods;

const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(20);

/// The program to measure.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("IOT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_iot-agent").into()).into()
}

/// An agent with a folder that it finds empty the first time; ended when dropped.
pub(crate) struct Device {
    folder: PathBuf,
    child: Child,
    broker: u16,
}

/// Memory of a process and all below it, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Of all of them, what several share divided among them.
    pub(crate) pss: u64,
    /// Of the agent itself.
    pub(crate) rss: u64,
}

impl Device {
    /// Starts it in a folder, which has the key `release.pub`.
    pub(crate) fn start(folder: &Path, broker: &Mosquitto) -> Self {
        let state = folder.join("state");
        if !state.exists() {
            fs::create_dir(&state).unwrap();
            fs::write(state.join("device.json"), r#"{"device_id": "d1"}"#).unwrap();
        }
        let config = format!(
            "mqtt: {{broker: \"mqtt://127.0.0.1:{}\", reconnect: {{min: 20ms, max: 200ms, reset_after: 0}}}}\n\
             paths: {{state: {1}/state, run: {1}/run}}\nservices:\n  metrics: {{enabled: false}}\n  \
             update: {{enabled: true, trusted_keys: [release.pub]}}\n",
            broker.port(),
            folder.display()
        );
        fs::write(folder.join("config.yaml"), config).unwrap();
        let mut command = Command::new(program());
        command.arg("run").arg("--config").arg(folder.join("config.yaml"));
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let device = Self { folder: folder.to_owned(), child, broker: broker.port() };
        device.wait("it is connected", || device.log().contains("\"connected\""));
        device
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Waits until it holds; the longest wait there is.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: {}", self.log());
            thread::sleep(LOOK);
        }
    }

    /// Asks for an update.
    pub(crate) async fn ask(&self, id: &str, goods: &Goods, url: &str) {
        let request = json!({
            "update_id": id, "version": "1.0.0", "update_url": url, "sha256": goods.sha256, "size": goods.size,
        });
        let broker = testkit::Endpoint::tcp("127.0.0.1", self.broker);
        testkit::publish(broker, "iot/d1/update", request.to_string(), 1, false).await.unwrap();
    }

    /// Waits until it has succeeded.
    pub(crate) async fn end(&self, id: &str, watcher: &Watcher) {
        let ended = |said: &Value| {
            said["update_id"] == id
                && ["success", "failed", "rolled_back"].iter().any(|end| said["state"] == *end)
        };
        let said =
            watcher.messages().find(|message| message.json().is_ok_and(|said| ended(&said)), PATIENCE).await;
        let said = said.unwrap_or_else(|error| panic!("{error}: {}", self.log())).json().unwrap();
        assert_eq!(said["state"], "success", "{said}: {}", self.log());
    }

    /// The states of an id and when each was said.
    pub(crate) fn course(id: &str, watcher: &Watcher) -> Vec<String> {
        let said = watcher.all().into_iter().filter_map(|message| message.json().ok());
        let mut course: Vec<(String, String)> = said
            .filter(|said| said["update_id"] == id)
            .map(|said| {
                (
                    said["state"].as_str().unwrap().to_owned(),
                    said["timestamp"].as_str().unwrap()[17..23].to_owned(),
                )
            })
            .collect();
        course.dedup_by(|late, early| late.0 == early.0);
        course.into_iter().map(|(state, at)| format!("{state} {at}")).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As power would, but for what the kernel has.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a process and all below it have now. Who has just ended has nothing.
pub(crate) fn memory(pid: u32) -> Memory {
    let Ok(own) = testkit::procfs::usage(pid) else { return Memory::default() };
    let below = testkit::procfs::children(pid).unwrap_or_default();
    let below: u64 = below.into_iter().map(|child| memory(child).pss).sum();
    Memory { pss: own.pss + below, rss: own.rss }
}
