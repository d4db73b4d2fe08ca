//! SIGHUP: a new configuration, or the old one and the reason.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    client::{self, Watcher},
    mosquitto::Mosquitto,
    process::{Process, Signal},
};

use super::support::{Home, SOON, log, stop};

/// The configuration with these sections for heartbeat and log.
fn write(home: &Home, broker: &str, heartbeat: &str, level: &str) {
    let dir = home.path().display();
    let text = format!(
        "mqtt: {{broker: {broker}, reconnect: {{min: 20ms, max: 200ms, reset_after: 0}}}}\n\
         paths: {{state: {dir}/state, run: {dir}/run}}\n\
         log: {{level: {level}}}\n\
         services:\n  registration: {{device_secret_file: psk}}\n  heartbeat: {heartbeat}\n  metrics: {{enabled: false}}\n"
    );
    home.file("config.yaml", &text, 0o600);
}

/// SIGHUP, and the line that says how it went.
async fn reload(agent: &Process) -> Value {
    agent.stderr.skip_to_end();
    agent.signal(Signal::HUP).unwrap();
    let line = agent.wait_line("configuration ", SOON).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

/// The time between two heartbeats, by their own account.
async fn rhythm(watcher: &Watcher) -> Duration {
    watcher.messages().skip_to_end();
    let first = watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    let second = watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    second.at - first.at
}

fn ask(home: &Home, arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_iot-agent"));
    command.args(arguments).arg("--config").arg(home.path().join("config.yaml")).output().unwrap()
}

fn status(home: &Home) -> Value {
    serde_json::from_slice(&ask(home, &["status", "--json"]).stdout).unwrap()
}

async fn wait(home: &Home, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let status = status(home);
        if wanted(&status) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_new_configuration_takes_effect_and_a_bad_one_does_not() {
    let broker = Mosquitto::plain().await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let watcher = Watcher::start(&broker, "iot/d1/#").await.unwrap();
    let home = Home::new(&url).device("d1");
    write(&home, &url, "{interval: 5m}", "info");
    let command = {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_iot-agent"));
        command.args(["run", "--config"]).arg(home.path().join("config.yaml"));
        command
    };
    let mut agent = Process::run(command.into()).unwrap();
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();

    // The interval: heartbeat alone is started anew.
    write(&home, &url, "{interval: 500ms}", "info");
    assert_eq!(reload(&agent).await["services"], "heartbeat");
    let quick = rhythm(&watcher).await;
    assert!((300..1_500).contains(&quick.as_millis()), "{quick:?}");
    assert_eq!(agent.stderr.count(|line| line.contains("\"stopped\"")), 1, "{:#?}", agent.stderr.all());
    assert!(agent.stderr.count(|line| line.contains("\"debug\"")) == 0);

    // Nothing new: nothing happens.
    assert_eq!(reload(&agent).await["services"], "");

    // A bad file: everything goes on, and the log says what is wrong where.
    write(&home, &url, "{intervall: 1s}", "info");
    let refused = reload(&agent).await;
    let error = refused["error"].as_str().unwrap();
    assert_eq!(refused["level"], "error");
    assert!(error.contains("config.yaml:6:15") && error.contains("interval"), "{error}");
    let quick = rhythm(&watcher).await;
    assert!((300..1_500).contains(&quick.as_millis()), "{quick:?}");

    // The log's level.
    write(&home, &url, "{interval: 500ms}", "debug");
    assert_eq!(reload(&agent).await["services"], "");
    write(&home, &url, "{interval: 600ms}", "debug");
    assert_eq!(reload(&agent).await["services"], "heartbeat");
    agent.find_line("\"debug\"", SOON).await.unwrap();

    // What a running agent cannot change it says.
    write(&home, "mqtt://localhost:1", "{interval: 600ms}", "info");
    assert_eq!(reload(&agent).await["services"], "");
    let line = agent.find_line("takes effect when iot-agent is restarted", SOON).await.unwrap();
    assert!(line.contains("\"section\":\"mqtt\""), "{line}");
    let now = status(&home);
    assert_eq!(now["connection"]["broker"], url);

    // Off, and on again.
    write(&home, &url, "{enabled: false}", "info");
    assert_eq!(reload(&agent).await["services"], "heartbeat");
    wait(&home, |status| status["services"]["heartbeat"]["state"] == "off").await;
    // Behind whatever was still on its way.
    client::publish(&broker, "iot/d1/mark", "x", 1, false).await.unwrap();
    watcher.next_on("iot/d1/mark", SOON).await.unwrap();
    let beat = watcher.next_on("iot/d1/heartbeat", Duration::from_secs(2)).await;
    assert!(beat.is_err(), "{beat:?}");
    write(&home, &url, "{interval: 500ms}", "info");
    assert_eq!(reload(&agent).await["services"], "heartbeat");
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();

    // All that on one connection, and registration never noticed.
    let end = status(&home);
    assert_eq!(end["connection"]["connects"], 1, "{end:#}");
    let running = json!({"state": "running", "restarts": 0});
    let off = json!({"state": "off", "restarts": 0});
    for (name, service) in end["services"].as_object().unwrap() {
        let on = matches!(name.as_str(), "heartbeat" | "registration");
        assert_eq!(service, if on { &running } else { &off }, "{name}");
    }
    assert!(
        end["services"]["heartbeat"].is_object() && end["services"]["registration"].is_object(),
        "{end:#}"
    );
    stop(&mut agent, "reloaded").await;
    let stopped = log(&agent);
    let stopped =
        stopped.iter().filter(|line| line["service"] == "registration" && line["message"] == "stopped");
    assert_eq!(stopped.count(), 1, "at the end");
}

#[test]
fn without_a_daemon_status_says_so() {
    let home = Home::new("mqtt://127.0.0.1:1");
    home.write();
    for arguments in [&["status"][..], &["status", "--json"]] {
        let output = ask(&home, arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("iot-agent.sock") && error.starts_with("iot-agent: "), "{error}");
    }
    // A socket that a dead one has left behind.
    let run = home.path().join("run");
    std::fs::create_dir(&run).unwrap();
    drop(std::os::unix::net::UnixListener::bind(run.join("iot-agent.sock")).unwrap());
    let output = ask(&home, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("iot-agent.sock"));
}
