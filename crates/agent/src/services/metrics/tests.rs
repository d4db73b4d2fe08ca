use std::{fs, path::PathBuf, process::Command};

use protocol::metrics;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{fixture::Tree, *};
use crate::{config, harness::Harness, mqtt::Message};

/// A device with a machine of its own.
struct World {
    device: Harness,
    machine: Tree,
    settings: tempfile::TempDir,
    config: Config,
}

type Running = JoinHandle<anyhow::Result<()>>;

impl World {
    fn new(config: Value) -> Self {
        let world = Self {
            device: Harness::new(),
            machine: Tree::new(),
            settings: tempfile::tempdir().unwrap(),
            config: serde_json::from_value(config).unwrap(),
        };
        world.device.enrol("d1");
        world.busy(100);
        world.machine.file("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 600 kB\n");
        world
    }

    /// With a JSON file.
    fn with_file(config: Value, file: &str) -> Self {
        let mut world = Self::new(config);
        world.write(file);
        world.config.metrics_config_file = Some(world.file().into());
        world
    }

    fn file(&self) -> PathBuf {
        self.settings.path().join("metrics.json")
    }

    /// Another file in its place, as an editor leaves it.
    fn write(&self, content: &str) {
        let new = self.settings.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    /// So long was the processor at work, and as long idle beside 100.
    fn busy(&self, ticks: u64) {
        self.machine.file("proc/stat", format!("cpu {ticks} 0 0 {} 0 0 0 0 0 0\n", 100 + ticks));
    }

    fn start(&self) -> Running {
        self.device.start_with(|ctx| Metrics {
            root: self.machine.root(),
            ..Metrics::new(self.config.clone(), ctx).unwrap()
        })
    }

    async fn after(&self, seconds: u64) -> Vec<metrics::Metrics> {
        decoded(&self.device.after(Duration::from_secs(seconds)).await)
    }

    fn detail(&self) -> Option<String> {
        self.device.shared.board.all()["metrics"].detail.clone()
    }
}

fn decoded(messages: &[Message]) -> Vec<metrics::Metrics> {
    messages.iter().map(|message| serde_json::from_slice(&message.payload).unwrap()).collect()
}

fn seqs(samples: &[metrics::Metrics]) -> Vec<u64> {
    samples.iter().map(|sample| sample.seq).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_sample_has_rates_and_the_others_follow_at_the_interval() {
    let world = World::new(json!({"interval": "10s"}));
    world.device.mqtt.set_connected(true);
    let service = world.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(world.device.mqtt.take_published().is_empty(), "only one look yet");
    world.busy(150);
    let messages = world.device.after(Duration::from_secs(1)).await;
    assert_eq!(
        (messages.len(), messages[0].topic.as_str(), messages[0].retain),
        (1, "iot/d1/metrics", false)
    );
    let first = decoded(&messages).remove(0);
    assert_eq!((first.device_id.as_str(), first.cpu_usage, first.memory), ("d1", Some(50.0), Some(40.0)));
    assert!(first.metrics.unwrap().contains_key("agent.outbox_messages"));
    assert_eq!(seqs(&world.after(30).await), [2, 3, 4]);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(seqs(&world.after(1).await), [5], "missed ticks are skipped");
    assert_eq!(world.detail(), None);
    world.device.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn samples_taken_offline_wait_in_their_order() {
    let world = World::new(json!({"interval": "10s"}));
    let service = world.start();
    tokio::time::sleep(Duration::from_secs(35)).await;
    world.device.commit();
    assert_eq!(world.device.mqtt.with_outbox(|outbox| outbox.total().messages), Some(4));
    world.device.mqtt.set_connected(true);
    let samples = world.after(10).await;
    assert_eq!(seqs(&samples), [1, 2, 3, 4, 5]);
    assert!(samples.is_sorted_by_key(|sample| sample.timestamp), "each with the time it was taken at");
    world.device.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn live_ones_are_not_taken_while_offline() {
    let world = World::new(json!({"interval": "10s", "delivery": "live"}));
    let service = world.start();
    assert!(world.after(60).await.is_empty());
    world.device.mqtt.set_connected(true);
    assert_eq!(seqs(&world.after(15).await), [1, 2]);
    world.device.mqtt.set_connected(false);
    assert!(world.after(60).await.is_empty());
    world.device.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn only_changes_are_sent_and_everything_after_a_reconnect() {
    let world =
        World::new(json!({"interval": "10s", "monitor_goroutines": false, "on_change": {"enabled": true}}));
    world.device.mqtt.set_connected(true);
    let service = world.start();
    let first = world.after(55).await;
    let full = |sample: &metrics::Metrics| sample.metrics.as_ref().map_or(0, |metrics| metrics.len());
    assert!(seqs(&first) == [1] && full(&first[0]) > 1, "{first:?}");
    world.machine.file("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 200 kB\n");
    let second = world.after(60).await;
    assert_eq!((seqs(&second), second[0].memory), (vec![2], Some(80.0)));
    assert!(full(&second[0]) < full(&first[0]), "{second:?}");
    world.device.mqtt.set_connected(false);
    assert!(world.after(60).await.is_empty());
    world.device.mqtt.set_connected(true);
    let third = world.after(60).await;
    assert_eq!((seqs(&third), full(&third[0])), (vec![3], full(&first[0])));
    world.device.stop(service).await;
}

/// As the Go agent's sample has it, tabs and all.
const GO: &str = "{\n\t\"monitor_cpu\": true,\n\t\"monitor_memory\": true,\n\t\"monitor_disk\": false,\n\
    \t\"monitor_network\": true,\n\t\"process_names\": [\"nginx\", \"mosquitto\"],\n\t\"monitor_proc_cpu\": true,\n\
    \t\"monitor_proc_mem\": true,\n\t\"monitor_proc_iops\": false,\n\t\"monitor_goroutines\": true\n}\n";

#[test]
fn the_file_of_the_go_agent_is_read_unchanged() {
    let world = World::with_file(json!({"monitor_cpu": false, "interval": 7}), GO);
    let config = world.config.with_file().unwrap();
    assert_eq!(config.interval.get(), Duration::from_secs(7), "not in the file");
    assert_eq!((config.monitor_cpu, config.monitor_disk, config.monitor_proc_iops), (true, false, false));
    let keys: Vec<_> = config.selectors().unwrap().iter().map(|selector| selector.key().to_owned()).collect();
    assert_eq!(keys, ["nginx", "mosquitto"]);
}

#[test]
fn what_is_wrong_in_the_file_has_its_place() {
    for (content, expected) in [
        ("{\n\t\"process_nmes\": []\n}", ":2:2: process_nmes: unknown key; did you mean `process_names`?"),
        ("{\"monitor_cpu\": 1}", ":1:17: monitor_cpu: expected true or false, found the integer 1"),
        (
            "{\"process_names\": \"nginx\"}",
            ":1:19: process_names: expected a list, found the string \"nginx\"",
        ),
        (
            "{\"monitor_cpu\": true, \"monitor_cpu\": false}",
            "the key `monitor_cpu` is here twice, first in line 1",
        ),
        ("{\"monitor_cpu\": true,}", ":1:22: not JSON: key must be a string"),
        ("monitor_cpu: true", ":1:1: not JSON: expected value"),
        ("[]", ":1:1: expected a map of keys and values, found a list"),
        ("{\"processes\": [{\"name\": \"a\", \"as\": \"x\"}, {\"name\": \"b\", \"as\": \"x\"}]}", "x"),
    ] {
        let world = World::with_file(json!({}), content);
        let error = format!("{:#}", world.config.with_file().unwrap_err());
        assert!(
            error.ends_with(expected) || expected == "x" && error.contains("\"x\""),
            "{content}: {error}"
        );
    }
    // The same name in both places.
    let world = World::with_file(
        json!({"process_names": ["nginx"]}),
        r#"{"processes": [{"unit": "web", "as": "nginx"}]}"#,
    );
    assert!(format!("{:#}", world.config.with_file().unwrap_err()).contains("set `as`"));
    // It may come later.
    let world = World::with_file(json!({}), "{}");
    fs::remove_file(world.file()).unwrap();
    assert!(world.config.with_file().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing() {
    let world = World::with_file(json!({"interval": "10s"}), "{\"monitor_memory\": false}");
    world.device.mqtt.set_connected(true);
    let service = world.start();
    let memory = |samples: &[metrics::Metrics]| samples.last().unwrap().memory.is_some();
    assert!(!memory(&world.after(15).await));
    world.write("{\"monitor_memory\": true}");
    assert!(memory(&world.after(15).await));
    world.write("{\"monitor_memory\": flase}");
    assert!(memory(&world.after(15).await));
    let why = world.detail().unwrap();
    assert!(why.contains("metrics.json:1:21: not JSON"), "{why}");
    fs::remove_file(world.file()).unwrap();
    assert!(memory(&world.after(15).await));
    assert!(world.detail().unwrap().contains("cannot be read"));
    world.write("{\"monitor_memory\": false}");
    assert!(!memory(&world.after(15).await));
    assert_eq!(world.detail(), None);
    world.device.stop(service).await;
}

/// Started with a file that cannot be used: the device would be lost with its agent.
#[tokio::test(start_paused = true)]
async fn a_broken_file_does_not_keep_it_from_starting() {
    let world = World::with_file(json!({"interval": "10s"}), "{");
    world.device.mqtt.set_connected(true);
    let service = world.start();
    assert_eq!(seqs(&world.after(15).await), [1, 2]);
    assert!(world.detail().unwrap().contains("metrics.json:1:1: not JSON"), "{:?}", world.detail());
    world.device.stop(service).await;
}

/// Whoever opens a pipe that nobody writes to hangs as on a dead file system.
#[tokio::test]
async fn what_hangs_holds_up_nothing_else() {
    let world = World::new(json!({"interval": "50ms", "timeout": "100ms"}));
    world.device.mqtt.set_connected(true);
    world.machine.remove("proc/stat");
    let stat = world.machine.root().path("proc/stat");
    assert!(Command::new("mkfifo").arg(&stat).status().unwrap().success());
    let service = world.start();
    let mut samples = Vec::new();
    while samples.len() < 5 {
        samples.extend(decoded(&world.device.after(Duration::from_millis(20)).await));
    }
    assert!(samples.iter().all(|sample| sample.memory.is_none() && sample.metrics.is_none()), "{samples:?}");
    assert_eq!(world.detail().unwrap(), "the look at the machine takes longer than 100ms");
    // Somebody writes: it goes on where it was.
    drop(fs::OpenOptions::new().write(true).open(&stat).unwrap());
    fs::remove_file(&stat).unwrap();
    while world.detail().is_some() {
        samples = decoded(&world.device.after(Duration::from_millis(20)).await);
    }
    while samples.is_empty() {
        samples = decoded(&world.device.after(Duration::from_millis(20)).await);
    }
    assert_eq!(samples.last().unwrap().memory, Some(40.0));
    world.device.stop(service).await;
}

#[test]
fn two_processes_cannot_have_one_name() {
    let selectors = |config: Value| serde_json::from_value::<Config>(config).unwrap().selectors();
    let other = json!({"process_names": ["a"], "processes": [{"name": "b", "as": "a"}]});
    assert_eq!(selectors(other).unwrap_err(), "\"a\" is in process_names, too; set `as`");
    assert_eq!(selectors(json!({"process_names": ["a"], "processes": ["a", "b"]})).unwrap().len(), 2);
}

/// The sample configuration says what holds without it.
#[test]
fn the_sample_has_the_defaults() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/config.yaml").into();
    let sources = config::Sources { file, sets: vec!["mqtt.broker=unix:///b".to_owned()], env: Vec::new() };
    let loaded = config::load(&sources, &crate::services::schemas()).unwrap();
    let sample: Config = loaded.config.services.section(Metrics::NAME).unwrap().parse().unwrap();
    let json = |config: &Config| serde_json::to_value(config).unwrap();
    assert_eq!(json(&sample), json(&Config::default()));
}
