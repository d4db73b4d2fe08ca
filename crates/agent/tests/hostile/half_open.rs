//! E3: a link that dies without a word.

use std::time::Duration;

use testkit::{
    client::Watcher,
    mosquitto::Mosquitto,
    proxy::{Faults, Link, Proxy},
};
use tokio::time::Instant;

use super::support::{Home, SOON, proof, stop, wait_status};

const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// How long a dead link goes unnoticed while heartbeats are due at this interval; then the link is healed.
async fn unnoticed(interval: &str) -> Duration {
    let broker = Mosquitto::plain().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let watcher = Watcher::start(&broker, "iot/#").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", proxy.port()))
        .device("d1")
        .mqtt(&format!("keep_alive: {}", KEEP_ALIVE.as_secs()))
        .yaml(&format!(
            "services: {{registration: {{device_secret_file: psk}}, heartbeat: {{interval: {interval}}}}}"
        ));
    let mut agent = home.start();
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    let before = proxy.stats().connections;
    proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
    let died = Instant::now();
    let limit = KEEP_ALIVE * 3 / 2 + Duration::from_secs(5);
    proxy.wait(|stats| stats.connections > before, limit).await.unwrap();
    let noticed = died.elapsed();
    agent.find_line("no answer in time: PINGRESP", SOON).await.unwrap();

    watcher.messages().skip_to_end();
    proxy.heal();
    watcher.next(|message| message.text().contains("\"online\""), SOON).await.unwrap();
    wait_status(&home, |status| status["connection"]["state"] == "connected").await;
    stop(&mut agent, "healed").await;
    noticed
}

#[tokio::test]
async fn prove_e3_a_half_open_link_is_noticed() {
    let (idle, beating) = tokio::join!(unnoticed("5m"), unnoticed("500ms"));
    proof(
        "E3",
        &format!(
            "wanted=noticed_ms<=8000 keep_alive_ms={} idle_ms={} beating_ms={}",
            KEEP_ALIVE.as_millis(),
            idle.as_millis(),
            beating.as_millis()
        ),
    );
}
