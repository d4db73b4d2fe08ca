//! Two devices with one client id: the broker lets each throw the other out. They say so, and stop fighting.

use std::time::Duration;

use testkit::{Mosquitto, Process};
use tokio::time::sleep;

use crate::support::{Home, SOON, packets::connections};

const CLIENT: &str = "story-twin";
const COMPLAINT: &str = "another device uses this client id";
/// `reconnect.max` of both.
const CAP: Duration = Duration::from_secs(1);

#[tokio::test]
async fn twins_say_so_and_try_rarely() {
    tokio::join!(twins("5"), twins("3.1.1"));
}

/// Both are real, so neither gives way on purpose.
async fn twins(version: &str) {
    let broker = Mosquitto::plain().await.unwrap();
    let twin = |device: &str| {
        Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()))
            .device(device)
            .mqtt(&format!("client_id: {CLIENT}"))
            .mqtt(&format!("version: {version}"))
            .reconnect("{min: 20ms, max: 1s, reset_after: 0}")
    };
    let homes = [twin("d1"), twin("d2")];
    let twins: [Process; 2] = homes.each_ref().map(Home::start);
    for twin in &twins {
        let complaint = twin.wait_line(COMPLAINT, SOON).await.unwrap();
        assert!(complaint.contains(CLIENT), "{complaint}");
        let wait = twin.wait_line("not connected", SOON).await.unwrap();
        assert!(wait.contains("\"retry_in_ms\":1000"), "{wait}");
    }
    let before = connections(&broker.log(), CLIENT).len();
    assert!(before <= 8, "three take-overs each, then both knew: {before} connections");
    // The time in which tries are counted.
    sleep(3 * CAP).await;
    let tries = connections(&broker.log(), CLIENT).len() - before;
    assert!((1..=8).contains(&tries), "one each in {CAP:?}, not {tries} in three times that");
}
