//! Presence: birth, will, goodbye and heartbeat of a real agent, on a real broker.

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Process, client::Watcher, mosquitto::Mosquitto, publish};

use crate::support::{Home, SOON, backend::Backend};

/// Online, alive, offline on SIGTERM with exit 0; offline by the will on SIGKILL.
#[tokio::test]
async fn a_life_and_a_death() {
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/#").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port())).device("d1");

    let mut agent = home.start();
    let birth = watcher.next_on("iot/d1/status", SOON).await.unwrap().json().unwrap();
    assert_eq!((&birth["state"], &birth["device_id"]), (&Value::from("online"), &Value::from("d1")));
    let beat = watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap().json().unwrap();
    assert_eq!((&beat["status"], &beat["seq"]), (&Value::from("1"), &Value::from(1)));
    assert_eq!(beat["run_id"], birth["run_id"]);
    agent.terminate().unwrap();
    assert!(agent.wait_exit(SOON).await.unwrap().success());
    let goodbye = watcher.next_on("iot/d1/status", SOON).await.unwrap().json().unwrap();
    assert_eq!((&goodbye["state"], &goodbye["reason"]), (&Value::from("offline"), &Value::from("shutdown")));

    let agent = home.start();
    let again = watcher.next_on("iot/d1/status", SOON).await.unwrap().json().unwrap();
    assert_eq!(again["state"], "online");
    assert_ne!(again["run_id"], birth["run_id"]);
    agent.signal(Signal::KILL).unwrap();
    let will = watcher.next_on("iot/d1/status", SOON).await.unwrap().json().unwrap();
    assert_eq!((&will["state"], &will["reason"]), (&Value::from("offline"), &Value::from("connection_lost")));
    assert_eq!(will["run_id"], again["run_id"]);
}

/// The flat topics of IOT-Cloud are for what its backend reads; presence is where it always is.
#[tokio::test]
async fn in_the_layout_of_iot_cloud() {
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "#").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()))
        .device("d1")
        .mqtt("layout: iot-cloud")
        .mqtt("client_id: story-cloud");
    let mut agent = home.start();
    let birth = watcher.next(|_| true, SOON).await.unwrap();
    assert_eq!((birth.topic.as_str(), birth.retain), ("iot/d1/status", true));
    let beat = watcher.next(|_| true, SOON).await.unwrap();
    assert_eq!((beat.topic.as_str(), beat.retain), ("iot-heartbeat", false));
    let beat = beat.json().unwrap();
    assert_eq!((&beat["device_id"], &beat["status"]), (&Value::from("d1"), &Value::from("1")));
    broker.wait_log("1 iot-registration/response/story-cloud", SOON).await.unwrap();
    agent.terminate().unwrap();
    assert!(agent.wait_exit(SOON).await.unwrap().success());
    let goodbye = watcher.next_on("iot/d1/status", SOON).await.unwrap().json().unwrap();
    assert_eq!(goodbye["reason"], "shutdown");
}

/// `iot-agent register` is no daemon: an "online" of it would outlive it.
#[tokio::test]
async fn registering_by_hand_says_nothing_of_presence() {
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "#").await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port())).device("d1");
    let mut register = Process::run(home.command(&["register", "--force"]).into()).unwrap();
    backend.enrol("d1").await;
    assert!(register.wait_exit(SOON).await.unwrap().success(), "{:#?}", register.stderr.all());
    publish(&broker, "marker", "", 1, false).await.unwrap();
    watcher.next_on("marker", SOON).await.unwrap();
    let topics: Vec<_> = watcher.all().into_iter().map(|message| message.topic).collect();
    assert!(
        topics.iter().all(|topic| topic == "marker" || topic.starts_with("iot/registration/")),
        "{topics:?}"
    );
}
