//! What the machine and its programs are doing, as a backend gets it through a real mosquitto.

use std::{fs, time::Duration};

use protocol::metrics::Metrics;
use serde_json::Value;
use testkit::{Mosquitto, Process, Proxy, Watcher, client::Message};

use crate::support::{
    Home, SOON,
    command::{begin, end},
    wait_status,
};

const TOPIC: &str = "iot/d1/metrics";

/// An enrolled agent with these settings, that reaches its broker through a proxy.
struct Story {
    _broker: Mosquitto,
    proxy: Proxy,
    watcher: Watcher,
    home: Home,
}

impl Story {
    async fn begin(metrics: &str) -> Self {
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let watcher = Watcher::start(&broker, TOPIC).await.unwrap();
        let services = format!("services:\n  registration: {{enabled: false}}\n  metrics: {metrics}");
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", proxy.port())).device("d1").yaml(&services);
        Self { _broker: broker, proxy, watcher, home }
    }

    async fn next(&self) -> Metrics {
        decoded(&self.watcher.next_on(TOPIC, SOON).await.unwrap())
    }

    /// The next sample that is as `wanted`.
    async fn find(&self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        let found = self.watcher.messages().find(|message: &Message| wanted(&decoded(message)), SOON).await;
        decoded(&found.unwrap())
    }
}

fn decoded(message: &Message) -> Metrics {
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

/// A program of ours with a name of its own.
fn program(home: &Home, name: &str) -> Process {
    let path = home.path().join(name);
    fs::copy("/bin/sleep", &path).unwrap();
    let mut command = std::process::Command::new(path);
    command.arg("600");
    Process::run(command.into()).unwrap()
}

#[tokio::test]
async fn a_sample_tells_of_the_machine_and_of_the_programs_asked_for() {
    let story = Story::begin(
        "{interval: 1s, process_names: [m-present, m-absent], processes: [{glob: 'm-pre*', as: some}]}",
    )
    .await;
    let mut programs = vec![program(&story.home, "m-present")];
    let mut agent = story.home.start();
    let sample =
        story.find(|sample| sample.processes.get("m-present").is_some_and(|found| found.count == 1)).await;
    assert_eq!(sample.device_id.as_str(), "d1");
    for percent in [sample.cpu_usage, sample.memory, sample.disk].map(Option::unwrap) {
        assert!((0.0..=100.0).contains(&percent), "{sample:?}");
    }
    let names: Vec<&str> = sample.processes.keys().map(String::as_str).collect();
    assert_eq!(names, ["m-absent", "m-present", "some"]);
    let present = &sample.processes["m-present"];
    assert_eq!(sample.processes["m-absent"], protocol::metrics::Process::default());
    assert!(present.memory.unwrap() > 4096 && present.threads == Some(1), "{present:?}");
    assert_eq!(sample.processes["some"].count, 1);
    let metrics = sample.metrics.as_ref().unwrap();
    for (name, unit) in [("agent.threads", "1"), ("agent.outbox_messages", "1"), ("fs./.used", "%")] {
        assert_eq!(
            metrics.get(name).unwrap_or_else(|| panic!("no {name} in {metrics:#?}")).unit,
            unit,
            "{name}"
        );
    }
    // Arguments may be secrets.
    assert!(!story.watcher.all().iter().any(|message| message.text().contains("600\"")));
    drop(programs.pop());
    story.find(|sample| sample.processes["m-present"].count == 0).await;
    crate::support::stop(&mut agent, "sampling").await;
}

/// As it was on the device, with its tabs.
const GO: &str = "{\n\t\"monitor_cpu\": true,\n\t\"monitor_memory\": true,\n\t\"monitor_disk\": false,\n\
    \t\"monitor_network\": false,\n\t\"process_names\": [\"iot-agent\"],\n\t\"monitor_proc_cpu\": true,\n\
    \t\"monitor_proc_mem\": true,\n\t\"monitor_proc_iops\": true,\n\t\"monitor_goroutines\": false\n}\n";

#[tokio::test]
async fn the_file_of_the_go_agent_is_read_and_read_again() {
    let story = Story::begin("{interval: 200ms, metrics_config_file: metrics.json}").await;
    story.home.file("metrics.json", GO, 0o644);
    let mut agent = story.home.start();
    let first = story.next().await;
    assert!(first.cpu_usage.is_some() && first.memory.is_some(), "{first:?}");
    assert!(first.disk.is_none() && first.network.is_none(), "{first:?}");
    assert!(first.processes["iot-agent"].count >= 1, "{first:?}");
    story.home.file("metrics.json", &GO.replace("\"monitor_disk\": false", "\"monitor_disk\": true"), 0o644);
    story.find(|sample| sample.disk.is_some()).await;
    // A broken one changes nothing, and is told.
    story.home.file("metrics.json", "{\n  \"monitor_dsk\": true\n}", 0o644);
    let degraded =
        wait_status(&story.home, |status| status["services"]["metrics"]["state"] == "degraded").await;
    let why = degraded["services"]["metrics"]["detail"].as_str().unwrap();
    assert!(
        why.ends_with("metrics.json:2:3: monitor_dsk: unknown key; did you mean `monitor_disk`?"),
        "{why}"
    );
    story.watcher.messages().skip_to_end();
    assert!(story.next().await.disk.is_some());
    let checked = end(begin(&story.home, &["config", "check"])).await;
    checked.assert(78, "");
    checked.assert_said("metrics.json:2:3: monitor_dsk: unknown key; did you mean `monitor_disk`?");
    story.home.file("metrics.json", "{}", 0o644);
    wait_status(&story.home, |status| status["services"]["metrics"]["state"] == "running").await;
    end(begin(&story.home, &["config", "check"]))
        .await
        .assert(0, &format!("{}: ok\n", story.home.write().display()));
    crate::support::stop(&mut agent, "reloaded").await;
}

#[tokio::test]
async fn samples_taken_offline_arrive_in_their_order() {
    let story = Story::begin("{interval: 100ms}").await;
    story.proxy.refuse().await;
    let mut agent = story.home.start();
    let taken = |status: &Value| status["outbox"]["messages"].as_u64() >= Some(10);
    wait_status(&story.home, taken).await;
    agent.signal(rustix::process::Signal::KILL).unwrap();
    agent.wait_exit(SOON).await.unwrap();
    let mut agent = story.home.start();
    wait_status(&story.home, |status| status["outbox"]["messages"].as_u64() >= Some(20)).await;
    story.proxy.accept().await;
    story.find(|sample| sample.seq >= 25).await;
    let mut samples: Vec<Metrics> = story.watcher.all().iter().map(decoded).collect();
    assert!(samples.is_sorted_by_key(|sample| sample.timestamp), "each has the time it was taken at");
    samples.dedup_by_key(|sample| sample.seq);
    let seqs: Vec<u64> = samples.iter().map(|sample| sample.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    crate::support::stop(&mut agent, "online again").await;
}

/// Six looks at ten seconds each make a minute, here of 1.2 s: silence, then the one thing that has changed.
#[tokio::test]
async fn a_quiet_minute_is_next_to_nothing() {
    let story = Story::begin(
        "{interval: 200ms, process_names: [m-quiet], on_change: {enabled: true, max_silence: 1h, full_every: 1h, \
         deadband: {'*': 1.0e+18, processes.m-quiet.count: 0}}}",
    )
    .await;
    let mut agent = story.home.start();
    let first = story.next().await;
    assert!(first.metrics.is_some() && first.processes["m-quiet"].count == 0);
    let second = story.watcher.next_on(TOPIC, Duration::from_millis(1200)).await;
    // It was not connected yet when it took the first; then everything is sent once more.
    let sent = story.watcher.all().len();
    assert!(sent <= 2, "{sent}: {second:?}");
    story.watcher.messages().skip_to_end();
    let _program = program(&story.home, "m-quiet");
    story.find(|sample| sample.processes["m-quiet"].count == 1).await;
    let later = &story.watcher.all()[sent..];
    assert_eq!(later.len(), 1, "{later:?}");
    let (bytes, sample) = (later[0].payload.len(), decoded(&later[0]));
    assert!(bytes <= 400, "{bytes} bytes: {}", later[0].text());
    // Seen for the first time, or beyond its deadband: nothing else.
    assert!(sample.metrics.is_none_or(|metrics| metrics.len() < 3));
    crate::support::stop(&mut agent, "quiet").await;
}

#[tokio::test]
async fn a_sample_can_be_looked_at_without_daemon_and_broker() {
    let home = Home::new("mqtt://127.0.0.1:1").yaml("services:\n  metrics: {process_names: [m-nobody]}");
    let shown = end(begin(&home, &["metrics", "once", "--json"])).await;
    assert_eq!((shown.code, shown.errors.as_str()), (0, ""));
    let sample: Value = serde_json::from_str(&shown.out).unwrap();
    assert!(sample["cpu_usage"].is_number() && sample["timestamp"].is_string(), "{sample:#}");
    assert_eq!(sample["processes"]["m-nobody"]["count"], 0);
    assert!(sample.get("device_id").is_none() && sample.get("seq").is_none(), "{sample:#}");
    let shown = end(begin(&home, &["metrics", "once"])).await;
    let line = |name: &str| shown.out.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert!(line("memory ").is_some_and(|value| value.ends_with('%')), "{}", shown.out);
    assert_eq!(line("processes.m-nobody.count"), Some("0"));
}
