//! A device that ran the Go agent: its configuration and files, unchanged, over TLS, and its backend's reading of what
//! is sent. IOT-Cloud is played here by decoders as strict as it is.

use std::{
    collections::HashMap, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Mosquitto, Process, Watcher,
    certs::Pki,
    client::{Endpoint, Message},
    mosquitto::Tls,
    publish,
};

/// Long enough on a loaded machine, short enough for a failing test.
const SOON: Duration = Duration::from_secs(15);
const SECRET: &str = "s3cret";

/// As the Go agent's own sample has it, at the end of 2024.
const CONFIG: &str = r#"mqtt:
  broker: "ssl://localhost:PORT"
  client_id: "iot_agent-"
  ca_certificate: "certs/ca.pem"

identity:
  device_file: "configs/device.json"

services:
  registration:
    topic: "iot-registration"
    enabled: true
    device_secret_file: "secrets/device_secret.txt"
    qos: 2
    max_backoff_seconds: 60
  heartbeat:
    topic: "iot-heartbeat"
    enabled: true
    interval: 10
    qos: 1
  metrics:
    topic: "iot-metrics"
    enabled: true
    metrics_config_file: ""
    interval: 30
    timeout: 5
    qos: 1
  command_service:
    topic: "iot-commands"
    enabled: true
    output_size_limit: 1024
    max_execution_time: 10
    qos: 0
  ssh:
    topic: "iot-ssh"
    enabled: true
    qos: 0
    backend_host: "ssh.example"
    backend_port: 22
    ssh_user: "ubuntu"
    private_key_path: ""
    max_listeners: 2
    connection_timeout: 30s
  location_service:
    topic: "iot-location"
    enabled: false
    interval: 15
    sensor_based: true
    maps_api_key: ""
    gps_device_baud_rate: 9600
    gps_device_port: "/dev/ttyACM0"
    qos: 1
  update_service:
    topic: "iot-updates"
    enabled: true
    qos: 1
    update_file_path: "update.bin"
    state_file: "state.json"
"#;

/// A registration as IOT-Cloud decodes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    client_id: String,
    device_secret: String,
}

/// What it takes of a sample.
#[derive(Debug, Deserialize)]
struct Sample {
    device_id: String,
    cpu_usage: f64,
    memory: f64,
    disk: f64,
    processes: HashMap<String, HashMap<String, f64>>,
}

/// The device's folder.
struct Device(TempDir);

impl Device {
    fn new(broker: &Mosquitto, pki: &Pki) -> Self {
        let device = Self(tempfile::tempdir().unwrap());
        device.file("config.yaml", &CONFIG.replace("PORT", &broker.tls_port().to_string()), 0o644);
        device.file("certs/ca.pem", &fs::read_to_string(pki.ca_file()).unwrap(), 0o644);
        device.file("secrets/device_secret.txt", &format!("{SECRET}\n"), 0o600);
        fs::create_dir(device.path().join("configs")).unwrap();
        device
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, content: &str, mode: u32) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Only what would need root, or half a minute, is set from outside.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iot-agent"));
        command.arg(name).arg("--config").arg(self.path().join("config.yaml"));
        for setting in ["paths.state", "paths.run"] {
            command.arg("--set").arg(format!("{setting}={}/{setting}", self.path().display()));
        }
        command.args(["--set", "services.registration.response_timeout=1s"]);
        command
    }

    fn start(&self) -> Process {
        Process::run(self.command("run").into()).unwrap()
    }

    fn status(&self) -> Value {
        let output = self.command("status").arg("--json").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn device_file(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("configs/device.json")).unwrap()).unwrap()
    }
}

async fn broker(pki: &Pki) -> Mosquitto {
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).start().await.unwrap()
}

fn cloud(broker: &Mosquitto, pki: &Pki) -> Endpoint {
    Endpoint::tcp("localhost", broker.tls_port()).tls(pki.ca_file(), None)
}

/// Whatever is asked or told, by anyone, on any topic.
async fn watch(endpoint: &Endpoint) -> Watcher {
    Watcher::start(endpoint, "#").await.unwrap()
}

fn request(message: &Message) -> Request {
    assert_eq!((message.topic.as_str(), message.qos, message.retain), ("iot-registration", 2, false));
    serde_json::from_slice(&message.payload).unwrap()
}

/// A heartbeat as IOT-Cloud reads it: a map from which it takes three strings.
fn beat(message: &Message) -> (String, String) {
    let map: HashMap<String, Value> = serde_json::from_slice(&message.payload).unwrap();
    let text = |key: &str| map[key].as_str().unwrap_or_else(|| panic!("{key}: {map:?}")).to_owned();
    assert_eq!(text("status"), "1");
    (text("device_id"), text("timestamp"))
}

#[tokio::test]
async fn it_enrols_and_lives_under_iot_cloud() {
    let pki = Pki::new().unwrap();
    let broker = broker(&pki).await;
    let cloud = cloud(&broker, &pki);
    let watcher = watch(&cloud).await;
    let device = Device::new(&broker, &pki);
    let mut agent = device.start();
    agent.find_line("layout: iot-cloud", SOON).await.unwrap();

    // Once per second, for ever, whatever is said but an id.
    let mut asked = Vec::new();
    for n in 0..3 {
        let message = watcher.next_on("iot-registration", SOON).await.unwrap();
        let Request { client_id, device_secret } = request(&message);
        assert_eq!(device_secret, SECRET);
        let reply = format!("iot-registration/response/{client_id}");
        for bad in
            [r#"{"error": "replay"}"#, r#"{"error": "clock", "server_time": "2031-01-01T00:00:00Z"}"#, "no"]
        {
            publish(&cloud, &reply, bad, 1, false).await.unwrap();
        }
        asked.push((message.at, client_id));
        if n > 0 {
            let since = asked[n].0 - asked[n - 1].0;
            assert!(since > Duration::from_millis(900), "asked again after {since:?}");
        }
    }
    let client_id = asked[0].1.clone();
    let digits = client_id.strip_prefix("iot_agent-").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{client_id}");
    assert!(asked.iter().all(|(_, id)| *id == client_id), "{asked:?}");
    assert!(broker.log().contains(&format!(" as {client_id} ")), "it is the MQTT client id too");

    // The first id wins.
    let reply = format!("iot-registration/response/{client_id}");
    for device_id in ["cloud-1", "cloud-2"] {
        publish(&cloud, &reply, json!({"device_id": device_id}).to_string(), 1, false).await.unwrap();
    }
    let message = watcher.next_on("iot-heartbeat", SOON).await.unwrap();
    let (device_id, timestamp) = beat(&message);
    assert_eq!(device_id, "cloud-1");
    timestamp.parse::<protocol::Timestamp>().unwrap();
    assert_eq!(message.qos, 1);
    let sample = watcher.next_on("iot-metrics", SOON).await.unwrap();
    let read: Sample =
        serde_json::from_slice(&sample.payload).unwrap_or_else(|e| panic!("{e}: {}", sample.text()));
    assert!(read.device_id == "cloud-1" && read.processes.is_empty() && sample.qos == 1, "{read:?}");
    for percent in [read.cpu_usage, read.memory, read.disk] {
        assert!((0.0..=100.0).contains(&percent), "{read:?}");
    }
    assert_eq!(device.device_file()["device_id"], "cloud-1");
    assert_eq!(device.status()["identity"]["device_id"], "cloud-1");
    let topics = watcher.all().into_iter().map(|message| message.topic);
    let known = ["iot-registration", "iot-heartbeat", "iot-metrics", "iot/cloud-1/status", &reply];
    topics.for_each(|topic| assert!(known.contains(&topic.as_str()), "{topic}"));

    agent.terminate().unwrap();
    assert!(agent.wait_exit(SOON).await.unwrap().success());
    // Nothing of the secret has gone anywhere but into the request.
    assert!(!agent.stderr.all().iter().any(|line| line.contains(SECRET)));
}

/// The Go agent's own device.json, with the spelling it had.
#[tokio::test]
async fn its_device_file_is_taken_over() {
    let pki = Pki::new().unwrap();
    let broker = broker(&pki).await;
    let watcher = watch(&cloud(&broker, &pki)).await;
    let device = Device::new(&broker, &pki);
    let had = json!({"deviceID": "go-7", "device_name": "pump", "org_id": "", "metadata": {"a": 1}});
    device.file("configs/device.json", &had.to_string(), 0o644);
    for _ in 0..2 {
        let mut agent = device.start();
        let (device_id, _) = beat(&watcher.next_on("iot-heartbeat", SOON).await.unwrap());
        assert_eq!(device_id, "go-7");
        agent.terminate().unwrap();
        assert!(agent.wait_exit(SOON).await.unwrap().success());
    }
    assert!(watcher.all().iter().all(|message| message.topic != "iot-registration"));
    assert_eq!(device.device_file(), had);
}

/// Loaded as it stands, except for the one thing that is not negotiable.
#[tokio::test]
async fn its_secret_has_to_be_private() {
    let pki = Pki::new().unwrap();
    let broker = broker(&pki).await;
    let device = Device::new(&broker, &pki);
    device.file("secrets/device_secret.txt", SECRET, 0o644);
    let mut agent = device.start();
    assert_eq!(agent.wait_exit(SOON).await.unwrap().code(), Some(78));
    agent.find_line("chmod 600", SOON).await.unwrap();
}

/// Another authority than the one in the file: nothing is told to such a broker, least of all the secret.
#[tokio::test]
async fn an_impostor_learns_nothing() {
    let (pki, other) = (Pki::new().unwrap(), Pki::new().unwrap());
    let broker = broker(&other).await;
    let watcher = watch(&cloud(&broker, &other)).await;
    let device = Device::new(&broker, &pki);
    let agent = device.start();
    agent.find_line("not connected", SOON).await.unwrap();
    let line = agent.find_line("not connected", SOON).await.unwrap();
    assert!(line.contains("certificate"), "{line}");
    assert!(watcher.all().is_empty());
    assert!(device.status()["identity"]["device_id"].is_null());
}
