//! `iot-hub serve` as a child: enrolment across kills and restarts, both kinds of broker, presence, the CLI.

use std::ffi::OsString;

use serde_json::{Value, json};
use testkit::{Mosquitto, Process, Watcher, publish};

use crate::support::{PATIENCE, Place, ask, id, presence, run, signed, write};

#[tokio::test]
async fn an_id_outlives_the_hub_and_a_replay_does_not() {
    let place = Place::new();
    let mut hub = place.hub().await;
    let request = signed("c1", 1);
    let device_id = id(&ask(hub.broker, "c1", &request, 1).await);
    hub.process.kill().await.unwrap();

    let hub = place.hub().await;
    assert_eq!(ask(hub.broker, "c1", &request, 1).await.error.as_deref(), Some("replay"));
    assert_eq!(id(&ask(hub.broker, "c1", &signed("c1", 2), 2).await), device_id);
    assert_ne!(id(&ask(hub.broker, "c2", &signed("c2", 3), 3).await), device_id);
    assert_eq!(place.devices().await.len(), 2);
    hub.stop().await;
    assert_eq!(place.devices().await.len(), 2);
}

/// Requests sent, and the hub killed at whatever point it has reached with them.
#[tokio::test]
async fn a_hub_killed_between_request_and_reply_gives_one_id() {
    let broker = Mosquitto::plain().await.unwrap();
    let place = Place::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut hub = place.hub_at(broker.addr()).await;
        publish(broker.addr(), "iot/registration/c1", signed("c1", 2 * n), 1, false).await.unwrap();
        hub.process.kill().await.unwrap();
        let hub = place.hub_at(broker.addr()).await;
        ids.push(id(&ask(broker.addr(), "c1", &signed("c1", 2 * n + 1), 2 * n + 1).await));
        hub.stop().await;
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(place.devices().await.len(), 1);
}

#[tokio::test]
async fn an_external_broker_may_go_and_come_back() {
    let mut broker = Mosquitto::plain().await.unwrap();
    let place = Place::new();
    let hub = place.hub_at(broker.addr()).await;
    let device_id = id(&ask(broker.addr(), "c1", &signed("c1", 1), 1).await);
    hub.process.wait_line("\"connected\"", PATIENCE).await.unwrap();
    broker.stop().await.unwrap();
    assert_eq!(place.devices().await[0]["device_id"], device_id.as_str());
    broker.start_without_session().await.unwrap();
    hub.process.wait_line("\"connected\"", PATIENCE).await.unwrap();
    assert_eq!(id(&ask(broker.addr(), "c1", &signed("c1", 2), 2).await), device_id);
    hub.stop().await;
}

#[tokio::test]
async fn iot_cloud_s_devices_are_served_as_they_expect() {
    let place = Place::new();
    let hub = place.hub().await;
    let replies = Watcher::start(hub.broker, "iot-registration/response/c1").await.unwrap();
    let request = json!({"client_id": "c1", "device_secret": "a fleet secret of ample length"});
    publish(hub.broker, "iot-registration", request.to_string(), 1, false).await.unwrap();
    let reply = replies.next(|_| true, PATIENCE).await.unwrap().json().unwrap();
    let device_id = reply["device_id"].as_str().unwrap();
    assert_eq!(reply, json!({"device_id": device_id}));
    let beat = json!({"device_id": device_id, "timestamp": "2026-01-31T12:00:00Z", "status": "1"});
    publish(hub.broker, "iot-heartbeat", beat.to_string(), 1, false).await.unwrap();
    let devices = place.devices_until(|devices| devices[0]["last_heartbeat"].is_object()).await;
    assert_eq!(devices[0]["client_id"], "c1");
    hub.stop().await;
}

#[tokio::test]
async fn presence_is_followed_kept_and_told_while_the_hub_runs_and_after() {
    let place = Place::new();
    let hub = place.hub().await;
    let state = |devices: &[Value]| devices.first().map(|d| d["state"].clone());
    let say = async |text: String| publish(hub.broker, "iot/d1/status", text, 1, true).await.unwrap();
    say(presence("d1", "online", "r1")).await;
    place.devices_until(|devices| state(devices) == Some("online".into())).await;
    say(presence("d1", "online", "r2")).await;
    place.devices_until(|devices| devices[0]["run_id"] == "r2").await;
    // A late will of the first run, then a heartbeat to know that the will has been seen.
    say(presence("d1", "offline", "r1")).await;
    let beat = json!({"device_id": "d1", "seq": 1, "run_id": "r2"}).to_string();
    publish(hub.broker, "iot/d1/heartbeat", beat, 1, false).await.unwrap();
    let devices = place.devices_until(|devices| devices[0]["last_heartbeat"]["seq"] == 1).await;
    assert_eq!(devices[0]["state"], "online");
    hub.stop().await;

    let after = place.devices().await;
    assert_eq!((&after[0]["state"], &after[0]["run_id"]), (&json!("online"), &json!("r2")));
    let table = run(["devices".into(), "--data".into(), place.data().into()]).await;
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("DEVICE ID") && table.contains("\nd1 "), "{table}");
}

/// What the embedded broker keeps across a kill of the hub: retained messages, and a session with its queue once it
/// has been written.
#[tokio::test]
async fn the_embedded_broker_keeps_what_is_retained() {
    let place = Place::new();
    let mut hub = place.hub().await;
    publish(hub.broker, "iot/d1/status", presence("d1", "online", "r1"), 1, true).await.unwrap();
    hub.process.kill().await.unwrap();
    let hub = place.hub().await;
    let kept = Watcher::start(hub.broker, "iot/d1/status").await.unwrap();
    assert_eq!(kept.next(|_| true, PATIENCE).await.unwrap().text(), presence("d1", "online", "r1"));
    place.devices_until(|devices| devices.first().is_some_and(|d| d["state"] == "online")).await;
    hub.stop().await;
}

#[tokio::test]
async fn two_hubs_never_share_a_folder() {
    let place = Place::new();
    let hub = place.hub().await;
    let mut second =
        Process::spawn(crate::support::HUB, place.arguments("serve", &["--listen", "127.0.0.1:0"])).unwrap();
    assert_eq!(second.wait_exit(PATIENCE).await.unwrap().code(), Some(1));
    second.find_line("is in use: a hub is running", PATIENCE).await.unwrap();
    // The first still answers: the second has not taken its socket away.
    assert_eq!(place.devices().await, Vec::<Value>::new());
    hub.stop().await;
}

#[tokio::test]
async fn exit_codes_and_what_they_say() {
    let place = Place::new();
    let serve = |more: &[&str]| place.arguments("serve", more);
    let expect = async |arguments: Vec<OsString>, code: i32, says: &str| {
        let output = run(arguments.clone()).await;
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(says), "{arguments:?}: {text}");
    };
    expect(vec!["--help".into()], 0, "iot-hub demo").await;
    expect(vec!["--version".into()], 0, env!("CARGO_PKG_VERSION")).await;
    expect(vec![], 2, "Usage").await;
    expect(vec!["serve".into()], 2, "--psk-file").await;
    expect(serve(&["--broker", "mqtt://localhost", "--listen", "127.0.0.1:0"]), 2, "cannot be used with")
        .await;
    expect(serve(&["--listen", "nowhere"]), 2, "nowhere").await;
    expect(serve(&["--broker", "mqtt://broker.example"]), 78, "mqtts://").await;
    expect(serve(&["--broker", "http://broker.example"]), 78, "http").await;
    expect(
        vec!["devices".into(), "--data".into(), place.path().join("none").into()],
        78,
        "no hub's database",
    )
    .await;
    write(&place.path().join("short"), b"too short\n", 0o600);
    write(&place.path().join("open"), b"a secret that everyone can read\n", 0o644);
    for (file, says) in [("short", "at least 16"), ("open", "chmod 600"), ("none", "cannot read")] {
        let psk_file = place.path().join(file);
        let arguments =
            ["serve".into(), "--data".into(), place.data().into(), "--psk-file".into(), psk_file.into()];
        expect(arguments.into(), 78, says).await;
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    expect(serve(&["--listen", &address]), 1, &address).await;
}
