//! What a service sends as durable, through the end of the agent and of the broker: heartbeats, since their numbers
//! tell each gap.

use std::collections::BTreeMap;

use serde_json::Value;
use testkit::{
    client::{Message, Watcher},
    mosquitto::Mosquitto,
    process::Process,
    proxy::{Cut, Proxy},
};

use crate::support::{Home, SOON, log, stop, wait_status};

const SERVICES: &str = "services:\n  registration: {enabled: false}\n  \
                        heartbeat: {interval: 100ms, delivery: durable}\n";

fn waiting(status: &Value) -> u64 {
    status["outbox"]["messages"].as_u64().unwrap()
}

/// Waits for a heartbeat of this process, and for all before it.
async fn caught_up(watcher: &Watcher, home: &Home) {
    let status = wait_status(home, |status| status["identity"]["run_id"].is_string()).await;
    let run_id = &status["identity"]["run_id"];
    watcher.next(|seen| seen.json().is_ok_and(|beat| beat["run_id"] == *run_id), SOON).await.unwrap();
}

/// Each number once or more, none missing, and a number is never another heartbeat's.
fn assert_no_gap(watcher: &Watcher) {
    let mut seen = BTreeMap::new();
    for message in watcher.all() {
        let seq = message.json().unwrap()["seq"].as_u64().unwrap();
        let first = seen.entry(seq).or_insert_with(|| message.payload.clone());
        assert_eq!(*first, message.payload, "two heartbeats with the number {seq}");
    }
    let (first, last) = (*seen.keys().next().unwrap(), *seen.keys().last().unwrap());
    assert_eq!((first, last), (1, seen.len() as u64), "gaps: {:?}", seen.keys());
}

async fn end(agent: &mut Process, kill: bool) {
    if kill {
        agent.kill().await.unwrap();
    } else {
        stop(agent, "with messages waiting").await;
    }
}

/// Offline it goes on, and what it has written down is there after SIGTERM and after SIGKILL.
#[tokio::test]
async fn nothing_is_lost_while_agent_and_connection_come_and_go() {
    let broker = Mosquitto::plain().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", proxy.port())).device("d1").yaml(SERVICES);
    let watcher = Watcher::start(&broker, "iot/d1/heartbeat").await.unwrap();
    let mut agent = home.start();
    for kill in [false, true] {
        caught_up(&watcher, &home).await;
        proxy.refuse().await;
        proxy.cut_all(Cut::Fin);
        let status = wait_status(&home, |status| waiting(status) >= 10).await;
        assert_eq!(status["outbox"]["max_size"], 64 << 20);
        assert_eq!(status["outbox"]["classes"]["metrics"]["messages"], waiting(&status));
        // By then those ten are on disk; SIGKILL may cost the one that is being written, SIGTERM none.
        let later = wait_status(&home, |status| waiting(status) >= 20).await;
        end(&mut agent, kill).await;
        agent = home.start();
        let again = wait_status(&home, |status| status["connection"]["state"] == "waiting").await;
        let least = if kill { waiting(&status) } else { waiting(&later) };
        assert!(waiting(&again) >= least, "{again} after {later}");
        proxy.accept().await;
    }
    caught_up(&watcher, &home).await;
    stop(&mut agent, "online").await;
    assert_no_gap(&watcher);
}

/// The state folder cannot be written for a while: it says so, goes on in memory, and is well again by itself.
#[tokio::test]
async fn a_disk_that_cannot_be_written_is_told_and_got_over() {
    let broker = Mosquitto::plain().await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port())).device("d1").yaml(SERVICES);
    let watcher = Watcher::start(&broker, "iot/d1/heartbeat").await.unwrap();
    // In the way of the folder, and no right helps: tests may run as root.
    let in_the_way = home.file("state/outbox", "no folder", 0o600);
    let mut agent = home.start();
    let status = wait_status(&home, |status| status["outbox"]["degraded"].is_string()).await;
    let why = &status["outbox"]["degraded"];
    let beat = watcher.next(|seen| seen.json().is_ok_and(|beat| beat["seq"] == 3), SOON).await.unwrap();
    assert_eq!(beat.json().unwrap()["outbox"]["degraded"], *why);
    std::fs::remove_file(in_the_way).unwrap();
    wait_status(&home, |status| status["outbox"].get("degraded").is_none()).await;
    let well = |seen: &Message| seen.json().is_ok_and(|beat| beat["outbox"].get("degraded").is_none());
    watcher.next(well, SOON).await.unwrap();
    stop(&mut agent, "well again").await;
    assert_no_gap(&watcher);
    let lines = log(&agent);
    let told =
        |text: &str| lines.iter().filter(|line| line["message"].as_str().unwrap().contains(text)).count();
    assert_eq!([told("messages wait in memory"), told("on disk again")], [1, 1], "{lines:#?}");
}
