//! The real hub as a child, and a device's side of registration.

#![allow(dead_code, reason = "each test program uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use iot_agent::clock::{self, Clock};
use protocol::proof::Psk;
use protocol::registration::{Nonce, Reply, Request, open_reply};
use protocol::{ClientId, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Process, Watcher, publish};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Far longer than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const HUB: &str = env!("CARGO_BIN_EXE_iot-hub");
const SECRET: &[u8] = b"a fleet secret of ample length\n";

/// A folder with the hub's data and secret; it survives the hub.
pub(crate) struct Place {
    folder: TempDir,
}

/// A hub at work there.
pub(crate) struct Hub {
    pub(crate) process: Process,
    /// Where its embedded broker listens, or the external one does.
    pub(crate) broker: SocketAddr,
}

impl Place {
    pub(crate) fn new() -> Place {
        let place = Place { folder: TempDir::new().unwrap() };
        write(&place.psk_file(), SECRET, 0o600);
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn psk_file(&self) -> PathBuf {
        self.path().join("fleet.psk")
    }

    pub(crate) fn arguments(&self, command: &str, more: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![command.into(), "--data".into(), self.data().into()];
        arguments.extend(["--psk-file".into(), self.psk_file().into()]);
        arguments.extend(more.iter().map(OsString::from));
        arguments
    }

    /// Starts a hub with its own broker on a free port, subscribed when it returns.
    pub(crate) async fn hub(&self) -> Hub {
        let process = Process::spawn(HUB, self.arguments("serve", &["--listen", "127.0.0.1:0"])).unwrap();
        let line = process.find_line("the embedded broker listens", PATIENCE).await.unwrap();
        let log: Value = serde_json::from_str(&line).unwrap();
        let broker = log["fields"]["address"].as_str().unwrap().parse().unwrap();
        process.find_line("\"connected\"", PATIENCE).await.unwrap();
        Hub { process, broker }
    }

    /// Starts a hub at another's broker, subscribed when it returns.
    pub(crate) async fn hub_at(&self, broker: SocketAddr) -> Hub {
        let url = format!("mqtt://{broker}");
        let process = Process::spawn(HUB, self.arguments("serve", &["--broker", &url])).unwrap();
        process.find_line("\"connected\"", PATIENCE).await.unwrap();
        Hub { process, broker }
    }

    /// Starts a hub with its own broker on this port, subscribed when it returns.
    pub(crate) async fn hub_on(&self, port: u16) -> Hub {
        let broker = SocketAddr::from(([127, 0, 0, 1], port));
        let process =
            Process::spawn(HUB, self.arguments("serve", &["--listen", &broker.to_string()])).unwrap();
        process.find_line("\"connected\"", PATIENCE).await.unwrap();
        Hub { process, broker }
    }

    /// What `iot-hub devices --json` prints.
    pub(crate) async fn devices(&self) -> Vec<Value> {
        let data = self.data();
        let output = run(["devices".into(), "--json".into(), "--data".into(), data.into()]).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Waits until the list of devices is as it should be.
    pub(crate) async fn devices_until(&self, right: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let asking = async {
            loop {
                let devices = self.devices().await;
                if right(&devices) {
                    return devices;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(devices) => devices,
            Err(_) => panic!("the devices are not as they should be: {:#?}", self.devices().await),
        }
    }
}

impl Hub {
    /// SIGTERM, and exit 0.
    pub(crate) async fn stop(mut self) {
        self.process.terminate().unwrap();
        let status = self.process.wait_exit(PATIENCE).await.unwrap();
        assert!(status.success(), "{status}: {:#?}", self.process.stderr.all());
    }
}

/// The real agent, built with the same profile as the hub under test.
pub(crate) async fn agent() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let path = Path::new(HUB).with_file_name("iot-agent");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--package", "iot-agent"]);
        // What cargo tells us of our own package would make some build scripts run anew.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_")
                || name.to_string_lossy().starts_with("CARGO_MANIFEST_")
            {
                cargo.env_remove(name);
            }
        }
        if path.components().any(|part| part.as_os_str() == "release") {
            cargo.arg("--release");
        }
        let status = cargo.status().await.unwrap();
        assert!(status.success() && path.is_file(), "{status}: {}", path.display());
        path
    };
    BUILT.get_or_init(build).await.clone()
}

/// Runs the hub to its end.
pub(crate) async fn run(arguments: impl IntoIterator<Item = OsString>) -> Output {
    let mut command = Command::new(HUB);
    command.args(arguments).kill_on_drop(true);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
}

pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

pub(crate) fn psk() -> Psk {
    Psk::from_file_bytes(SECRET).unwrap()
}

pub(crate) fn nonce(n: u32) -> Nonce {
    format!("{n:032x}").try_into().unwrap()
}

/// A signed request as a device sends it now.
pub(crate) fn signed(client: &str, n: u32) -> Vec<u8> {
    let request = json!({"client_id": client, "agent_version": "0.1.0"});
    let now = Timestamp::from_system_time(Clock::new(clock::built(), None).now());
    serde_json::from_value::<Request>(request).unwrap().signed(&psk(), nonce(n), now)
}

/// Sends a request and returns the authentic reply to it.
pub(crate) async fn ask(broker: SocketAddr, client: &str, payload: &[u8], n: u32) -> Reply {
    let topic = format!("iot/registration/{client}");
    let replies = Watcher::start(broker, &format!("{topic}/reply")).await.unwrap();
    publish(broker, &topic, payload, 1, false).await.unwrap();
    let client: ClientId = client.parse().unwrap();
    let reply = replies.next(|_| true, PATIENCE).await.unwrap();
    open_reply(&psk(), &client, &nonce(n), &reply.payload).unwrap_or_else(|e| panic!("{e}: {}", reply.text()))
}

pub(crate) fn id(reply: &Reply) -> String {
    reply.device_id.as_ref().unwrap_or_else(|| panic!("no id: {reply:?}")).to_string()
}

pub(crate) fn presence(device_id: &str, state: &str, run_id: &str) -> String {
    json!({"device_id": device_id, "state": state, "timestamp": "2026-01-31T12:00:00.000Z", "boot_id": "b",
        "run_id": run_id, "agent_version": "0.1.0", "os": "linux", "arch": "x86_64", "services": {}, "schema": 1})
    .to_string()
}
