//! E1: a clock that starts in 1970, and jumps.

use std::{ops::RangeInclusive, time::Duration};

use testkit::{
    client::Watcher,
    mosquitto::Mosquitto,
    process::{Process, libfaketime},
};

use super::support::{Home, SOON, proof, stop, wait_status};

const INTERVAL: Duration = Duration::from_millis(250);
const BEATS: u32 = 4;
/// In the words of libfaketime, and what year heartbeats then carry: never one before the agent was built.
const CLOCKS: [(&str, RangeInclusive<u32>); 7] = [
    ("@1970-01-01 00:00:30", 2026..=2035),
    ("@2038-01-19 03:14:06", 2038..=2038),
    ("@1970-01-01 00:00:30", 2026..=2035),
    ("+10y", 2036..=2099),
    ("-1d", 2026..=2099),
    ("@2106-02-07 06:28:14", 2106..=2106),
    ("+0", 2026..=2099),
];

#[tokio::test]
async fn prove_e1_a_jumping_clock_changes_no_rhythm() {
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/d1/heartbeat").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()))
        .device("d1")
        .yaml("services: {registration: {device_secret_file: psk}, heartbeat: {interval: 250ms}}");
    let clock = home.file("clock", CLOCKS[0].0, 0o600);
    let mut command = home.command(&["run"]);
    command
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut agent = Process::run(command.into()).unwrap();
    let mut last = 0;
    let mut worst = Duration::ZERO;
    for (shown, years) in CLOCKS {
        home.file("clock", shown, 0o600);
        watcher.messages().skip_to_end();
        // One may have been on its way.
        watcher.next(|_| true, SOON).await.unwrap();
        let first = watcher.next(|_| true, SOON).await.unwrap().at;
        let mut after = first;
        for _ in 0..BEATS {
            let beat = watcher.next(|_| true, SOON).await.unwrap();
            after = beat.at;
            let beat = beat.json().unwrap();
            let year = beat["timestamp"].as_str().unwrap()[..4].parse().unwrap();
            assert!(years.contains(&year), "{shown}: {beat:#}");
            last = beat["seq"].as_u64().unwrap();
        }
        let off = (after - first).abs_diff(INTERVAL * BEATS);
        assert!(off < INTERVAL * 3, "{shown}: {BEATS} beats in {:?}", after - first);
        worst = worst.max(off);
    }
    assert_eq!(watcher.messages().count(|_| true) as u64, last, "none missed, none twice");
    assert!(agent.stderr.count(|line| line.contains("\"1970-01-01")) == 0, "{:#?}", agent.stderr.all());
    assert!(agent.stderr.count(|line| line.contains("no sign of progress")) == 0);
    wait_status(&home, |status| status["connection"]["connects"] == 1).await;
    stop(&mut agent, "its clock has jumped").await;
    let wanted = format!("0-missed,0-burst,off_ms<{}", (INTERVAL * 3).as_millis());
    let (jumps, off) = (CLOCKS.len() - 1, worst.as_millis());
    proof("E1", &format!("wanted={wanted} jumps={jumps} beats={last} off_ms={off}"));
}
