//! D4: days without a broker.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use serde_json::Value;
use testkit::{Process, Recorder, procfs::usage};
use tokio::time::sleep;

use super::{
    RECONNECT,
    arrivals::Arrivals,
    publisher::Publisher,
    support::{Home, SOON, proof, stop, tier, wait_status},
};

const LONG: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
const STREAM: &str = "old";

/// More than fits, then more still that does: memory and disk are bounded, and what is dropped is counted exactly and is
/// the oldest.
#[tokio::test]
async fn prove_d4_days_offline_are_bounded_and_counted() {
    let sizes = if tier() > 1 { [(500_000, 64), (1_000_000, 1024)] } else { [(20_000, 1), (40_000, 64)] };
    let mut recorder = Recorder::start().await.unwrap();
    recorder.kill().await.unwrap();
    for (lines, cap) in sizes {
        offline(&mut recorder, lines, cap).await;
    }
}

async fn offline(recorder: &mut Recorder, lines: u64, cap_mib: u64) {
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", recorder.port()))
        .device("d1")
        .reconnect(RECONNECT)
        .yaml(&format!("outbox: {{max_size: {cap_mib}MiB}}\nservices:\n  heartbeat: {{interval: 1m}}"));
    let mut agent = home.start();
    agent.find_line("not connected", SOON).await.unwrap();
    wait_status(&home, |_| true).await;
    let before = usage(agent.pid()).unwrap().rss;
    let disk = fill(&home, lines).await;
    let outbox = wait_status(&home, |_| true).await["outbox"].clone();
    let (waiting, dropped) = (number(&outbox, "messages"), number(&outbox, "dropped"));
    recorder.start_again().await.unwrap();
    let drained = wait_drained(&home, waiting).await;
    let rss = peak(&agent).saturating_sub(before);
    stop(&mut agent, "after all has been sent").await;
    recorder.kill().await.unwrap();
    proof(
        "D4",
        &format!(
            "wanted=rss_growth<=8MiB,disk<=cap,0-uncounted lines={lines} cap={} waiting={waiting} dropped={dropped} \
             uncounted={} rss_growth={rss} disk={disk}",
            cap_mib * MIB,
            lines - waiting - dropped,
        ),
    );
    assert_eq!(waiting + dropped, lines, "{outbox:#}");
    assert_eq!(number(&drained, "sent"), waiting, "{drained:#}");
    assert_eq!(number(&drained, "dropped"), dropped, "{drained:#}");
    assert!(disk <= cap_mib * MIB, "{disk} bytes on disk");
    assert!(rss <= 8 * MIB, "RSS + {rss}");
    if dropped > 0 {
        assert_newest(recorder, dropped + 1, lines).await;
    }
}

/// Publishes so many lines; the most that the outbox took on disk meanwhile.
async fn fill(home: &Home, lines: u64) -> u64 {
    let mut publisher = Publisher::start(home, STREAM);
    let mut most = 0;
    for from in (1..=lines).step_by(1000) {
        assert!(publisher.feed(from..from + 1000).await);
        most = most.max(on_disk(&home.path().join("state/outbox")));
    }
    publisher.end_well(lines).await;
    most.max(on_disk(&home.path().join("state/outbox")))
}

/// Bytes in whole blocks, the folder's own included. A file may go while it is looked at.
fn on_disk(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    let blocks: u64 = files.map(|found| found.blocks()).sum();
    (blocks + fs::metadata(folder).unwrap().blocks()) * 512
}

async fn wait_drained(home: &Home, waiting: u64) -> Value {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let outbox = wait_status(home, |_| true).await["outbox"].clone();
        if number(&outbox, "messages") == 0 {
            return outbox;
        }
        assert!(tokio::time::Instant::now() < deadline, "of {waiting}: {outbox:#}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn assert_newest(recorder: &Recorder, first: u64, last: u64) {
    let mut arrivals = Arrivals::default();
    arrivals.count(recorder);
    let mut numbers: Vec<u64> = arrivals.numbers().collect();
    numbers.sort_unstable();
    assert_eq!((numbers.first(), numbers.last()), (Some(&first), Some(&last)));
    assert_eq!(numbers.len() as u64, last - first + 1);
    arrivals.assert_each_line_once();
}

fn number(outbox: &Value, key: &str) -> u64 {
    outbox[key].as_u64().unwrap()
}

fn peak(agent: &Process) -> u64 {
    usage(agent.pid()).unwrap().peak_rss
}
