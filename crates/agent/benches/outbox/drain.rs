//! What waits goes to a mosquitto, beside `mosquitto_pub -l` that sends as many.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use iot_agent::{
    clock::{self, Clock},
    mqtt::{self, Connection, Mqtt},
    outbox::{Class, Counts, Draft, Folder, Outbox, Qos, Tally},
};
use testkit::Mosquitto;
use tokio::time::timeout;

use crate::{
    direct::settings,
    table::{Table, median},
};

const MESSAGES: usize = 100_000;
const PAYLOAD: usize = 200;
const ROUNDS: usize = 3;
/// Handed over before they are waited for.
const BURST: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Needs mosquitto and its clients.
pub(crate) fn measure(table: &mut Table) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(runtime.block_on(drain()));
        theirs.push(runtime.block_on(mosquitto_pub()));
    }
    let (us, them) = (median(ours), median(theirs));
    let ratio = us / them;
    table.figure("draining to mosquitto, messages a second", us, format!("mosquitto_pub -l {them:.0}"));
    table.at_least("draining, as a share of mosquitto_pub -l", 0.25, ratio, "");
}

/// Messages a second, from the connection on.
async fn drain() -> f64 {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Folder::new(dir.path().join("outbox")));
    let outbox = Outbox::open(Arc::clone(&disk) as _, 1 << 30, Clock::new(clock::built(), None));
    let (mqtt, driver, committer) = mqtt::durable(settings(broker.port(), "drain"), (), outbox, disk);
    let committer = tokio::spawn(committer.run());
    let tally = fill(&mqtt).await;
    let driver = tokio::spawn(driver.run());
    let mut connection = mqtt.connection();
    let up = connection.wait_for(|connection| matches!(connection, Connection::Connected { .. }));
    timeout(PATIENCE, up).await.expect("connects").unwrap();
    let began = Instant::now();
    let settled = timeout(PATIENCE, tally.wait(Counts::is_settled)).await.expect("drains");
    let took = began.elapsed();
    assert_eq!(settled.acknowledged, MESSAGES as u64);
    mqtt.stop(None, Duration::from_secs(1));
    mqtt.close();
    timeout(PATIENCE, driver).await.expect("stops").unwrap();
    timeout(PATIENCE, committer).await.expect("stops").unwrap();
    MESSAGES as f64 / took.as_secs_f64()
}

async fn fill(mqtt: &Mqtt) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    for _ in 0..MESSAGES / BURST {
        for _ in 0..BURST {
            let payload = &mut |seq: u64| format!("{seq:0PAYLOAD$}").into_bytes();
            let (class, topic, qos) = (Class::Metrics, "up/x".to_owned(), Qos::AtLeastOnce);
            mqtt.store(Draft { class, topic, qos, retain: false, payload }, Some(&tally));
        }
        timeout(PATIENCE, tally.wait(Counts::is_stored)).await.expect("is written");
    }
    tally
}

async fn mosquitto_pub() -> f64 {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let lines = format!("{}\n", "x".repeat(PAYLOAD)).repeat(MESSAGES);
    let began = Instant::now();
    let mut child = Command::new("mosquitto_pub")
        .args(["-p", &broker.port().to_string(), "-t", "up/x", "-q", "1", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub is installed");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}
