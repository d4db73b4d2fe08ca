//! What is fresh does not wait behind what is old.

use std::time::Duration;

use serde_json::Value;
use testkit::{
    Recorder,
    recorder::{Entry, Event, Mood, Published},
};

use super::{
    RECONNECT,
    arrivals::Arrivals,
    publisher::Publisher,
    support::{Home, SOON, proof, stop, tier},
};

const LONG: Duration = Duration::from_secs(600);
const STATUS: &str = "iot/d1/status";
const HEARTBEAT: &str = "iot/d1/heartbeat";
const INTERVAL: Duration = Duration::from_millis(250);

/// The birth comes before anything else, heartbeats keep their pace, whatever waits.
#[tokio::test]
async fn prove_presence_and_heartbeats_pass_an_outbox_that_drains() {
    let (lines, delay): (u64, u64) = if tier() > 1 { (500_000, 2) } else { (20_000, 8) };
    let mut recorder = Recorder::start().await.unwrap();
    // 64 are in flight for so long: the few of the small proof take a while, too.
    recorder.mood(Mood { delay: Duration::from_millis(delay), ..Mood::default() }).await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", recorder.port()))
        .device("d1")
        .reconnect(RECONNECT)
        .yaml("outbox: {max_size: 512MiB}\nservices:\n  heartbeat: {interval: 250ms}");
    let mut agent = home.start();
    agent.find_line("connected", SOON).await.unwrap();
    recorder.kill().await.unwrap();
    agent.find_line("not connected", SOON).await.unwrap();
    let mut publisher = Publisher::start(&home, "old");
    for from in (1..=lines).step_by(1000) {
        assert!(publisher.feed(from..from + 1000).await);
    }
    publisher.end_well(lines).await;
    let before = recorder.entries().unwrap().len();
    recorder.start_again().await.unwrap();
    let mut arrivals = Arrivals::default();
    assert!(arrivals.reach(&recorder, lines, LONG).await, "{} of {lines}", arrivals.count(&recorder));

    let entries = recorder.entries_after(before).unwrap();
    let connected = entries.iter().position(|entry| matches!(entry.event, Event::Connected { .. })).unwrap();
    let (began, entries) = (entries[connected].at, &entries[connected..]);
    let messages: Vec<(Duration, &Published)> =
        entries.iter().filter_map(|entry| Some((entry.at - began, published(entry)?))).collect();
    let (birth, first) = messages[0];
    assert_eq!((first.topic.as_str(), &first.json()["state"]), (STATUS, &Value::from("online")));
    let last =
        messages.iter().filter(|(_, message)| message.topic.contains("/data/")).map(|(at, _)| *at).max();
    let beats: Vec<Duration> =
        messages.iter().filter(|(_, message)| message.topic == HEARTBEAT).map(|(at, _)| *at).collect();
    let during = beats.iter().filter(|at| **at < last.unwrap()).count();
    let longest = beats.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    proof(
        "presence-first",
        &format!(
            "wanted=birth_ms<1000,longest_pause_ms<1000 outbox={lines} birth_ms={} first_beat_ms={} beats_meanwhile={during} longest_pause_ms={} drained_ms={}",
            birth.as_millis(),
            beats[0].as_millis(),
            longest.as_millis(),
            last.unwrap().as_millis()
        ),
    );
    assert!(birth < Duration::from_secs(1), "the birth {birth:?} after the connection");
    assert!(beats[0] < INTERVAL + Duration::from_secs(1), "the first heartbeat after {:?}", beats[0]);
    assert!(during >= 2, "{during} heartbeats while it drains");
    assert!(longest < 4 * INTERVAL, "{longest:?} between two heartbeats");
    let waiting = |(_, message): &(Duration, &Published)| message.json()["outbox"]["messages"].as_u64();
    let beat = |(_, message): &&(Duration, &Published)| message.topic == HEARTBEAT;
    let waiting: Vec<u64> = messages.iter().filter(beat).filter_map(waiting).collect();
    assert_eq!(waiting.len(), beats.len(), "each says what waits");
    assert!(waiting[0] > *waiting.last().unwrap() && waiting[0] <= lines, "{waiting:?}");
    stop(&mut agent, "after all has been sent").await;
    arrivals.count(&recorder);
    arrivals.figures(&["old"], lines).assert_sound();
    arrivals.assert_each_line_once();
}

fn published(entry: &Entry) -> Option<&Published> {
    match &entry.event {
        Event::Published(published) => Some(published),
        _ => None,
    }
}
