//! E8: many agents after a restart of their broker.

use std::time::Duration;

use testkit::{
    Process, Recorder,
    recorder::{Entry, Event},
};
use tokio::time::sleep;

use super::{
    CAP, RECONNECT,
    support::{Home, proof, tier},
};

/// How finely a herd is looked for.
const BEAT: Duration = Duration::from_millis(100);
/// Long enough that all wait as long as they may: then they are spread over the cap.
const OUTAGE: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(180);

/// After an outage 95 of 100 are back within twice the cap, and no tenth of a second sees more than a share of all.
/// Waits are drawn evenly from 50 ms to 1 s, so of those that wait at some moment a fifth end within the next tenth of
/// a second (0.1 over the mean of 0.525), and fewer later. What counts is what the broker accepts.
#[tokio::test]
async fn prove_e8_a_fleet_comes_back_without_trampling() {
    let (agents, most) = if tier() > 1 { (1000, 0.3) } else { (40, 0.5) };
    let mut recorder = Recorder::start().await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", recorder.port());
    let homes: Vec<Home> = (0..agents).map(|number| home(&url, number)).collect();
    let mut fleet: Vec<Process> = Vec::new();
    for home in &homes {
        fleet.push(home.start());
        // One after the other, or a thousand starting at once would have the machine to themselves.
        connected(&recorder, 0, fleet.len()).await;
    }
    recorder.kill().await.unwrap();
    sleep(OUTAGE).await;
    let before = recorder.entries().unwrap().len();
    recorder.start_again().await.unwrap();
    connected(&recorder, before, agents).await;

    let entries = recorder.entries_after(before).unwrap();
    let began = entries.iter().find(|entry| matches!(entry.event, Event::Started { .. })).unwrap().at;
    let back: Vec<Duration> =
        entries.iter().filter(|entry| is_connected(entry)).map(|entry| entry.at - began).collect();
    let soon = back.iter().filter(|after| **after <= 2 * CAP).count();
    let p95 = back[(agents * 95).div_ceil(100) - 1];
    let accepted = entries.iter().filter(|entry| matches!(entry.event, Event::Accepted { .. }));
    let herd = densest(&accepted.map(|entry| entry.at - began).collect::<Vec<_>>());
    let share = herd as f64 / agents as f64;
    proof(
        "E8",
        &format!(
            "wanted=back>=0.95,p95_ms<={},herd<={most} agents={agents} back={} p95_ms={} herd={share:.2}",
            2 * CAP.as_millis(),
            soon as f64 / agents as f64,
            p95.as_millis(),
        ),
    );
    assert!(soon * 100 >= agents * 95, "{soon} of {agents} are back within {:?}", 2 * CAP);
    assert!(share <= most, "{herd} of {agents} within {BEAT:?}");
    for agent in &mut fleet {
        assert!(agent.is_running().unwrap(), "{:#?}", agent.stderr.all());
    }
}

fn home(url: &str, number: usize) -> Home {
    Home::new(url)
        .device(&format!("d{number}"))
        .reconnect(RECONNECT)
        .mqtt(&format!("client_id: fleet-{number}"))
        .yaml("services:\n  heartbeat: {interval: 10m}\n  metrics: {enabled: false}")
}

fn is_connected(entry: &Entry) -> bool {
    matches!(entry.event, Event::Connected { .. })
}

/// Waits until so many have connected, not counting the first `before` entries.
async fn connected(recorder: &Recorder, before: usize, agents: usize) {
    let mut count = 0;
    let mut skipped = 0;
    let all = |entry: &Entry| {
        skipped += 1;
        count += usize::from(skipped > before && is_connected(entry));
        count == agents
    };
    recorder.wait(all, LONG).await.unwrap();
}

/// Most moments within any one beat.
fn densest(moments: &[Duration]) -> usize {
    let within = |from: &Duration| moments.iter().filter(|at| **at >= *from && **at < *from + BEAT).count();
    moments.iter().map(within).max().unwrap_or(0)
}
