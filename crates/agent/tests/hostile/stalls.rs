//! E4: a broker that stalls, at each stage, with and without TLS.

use std::{path::Path, time::Duration};

use testkit::{
    certs::Pki,
    client::Watcher,
    mosquitto::{Mosquitto, Tls},
    procfs,
    stalls::{Stage, Staller},
};
use tokio::task::JoinSet;

use super::support::{Home, SOON, proof, stop};

const PATIENCE: Duration = Duration::from_secs(30);
const MEMORY: u64 = 1 << 20;
/// How often the agent comes back to a broker that talks nonsense: here memory could pile up.
const VISITS: usize = 20;

/// Idle when connected, with a keep-alive that lets the wait for a PINGRESP begin in time.
fn home(port: u16, ca: Option<&Path>) -> Home {
    let scheme = if ca.is_some() { "mqtts" } else { "mqtt" };
    let home = Home::new(&format!("{scheme}://localhost:{port}"))
        .device("d1")
        .mqtt("keep_alive: 10s")
        .yaml("services: {registration: {device_secret_file: psk}, heartbeat: {interval: 5m}}");
    match ca {
        Some(ca) => home.mqtt(&format!("ca_certificate: {}", ca.display())),
        None => home,
    }
}

/// How much memory an agent takes that is connected and has nothing to complain of.
async fn usual(pki: &Pki, tls: bool) -> u64 {
    let server = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    let broker = Mosquitto::builder().tls(server).start().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/#").await.unwrap();
    let ca = pki.ca_file();
    let home = if tls { home(broker.tls_port(), Some(&ca)) } else { home(broker.port(), None) };
    let agent = home.start();
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    procfs::usage(agent.pid()).unwrap().rss
}

struct Left {
    stage: Stage,
    tls: bool,
    stayed: Duration,
    peak_rss: u64,
}

async fn endure(stage: Stage, staller: Staller, ca: Option<std::path::PathBuf>) -> Left {
    let tls = ca.is_some();
    let home = home(staller.port(), ca.as_deref());
    let mut agent = home.start();
    let mut stayed = staller.next_visit(PATIENCE + SOON).await.unwrap().stayed;
    for _ in 1..if stage == Stage::Garbage { VISITS } else { 1 } {
        stayed = stayed.max(staller.next_visit(PATIENCE).await.unwrap().stayed);
    }
    agent.find_line("not connected", SOON).await.unwrap();
    let peak_rss = procfs::usage(agent.pid()).unwrap().peak_rss;
    stop(&mut agent, &format!("{stage:?}")).await;
    Left { stage, tls, stayed, peak_rss }
}

#[tokio::test]
async fn prove_e4_a_stalling_broker_is_left() {
    let pki = Pki::new().unwrap();
    let mut agents = JoinSet::new();
    for stage in Stage::ALL {
        for identity in [None, Some(pki.server().unwrap())] {
            let staller = Staller::start(stage, identity.as_ref()).await.unwrap();
            let ca = identity.map(|_| pki.ca_file());
            agents.spawn(endure(stage, staller, ca));
        }
    }
    let usual = [usual(&pki, false).await, usual(&pki, true).await];
    let (mut stayed, mut grown) = (Duration::ZERO, 0);
    while let Some(left) = agents.join_next().await {
        let left = left.unwrap();
        let more = left.peak_rss.saturating_sub(usual[usize::from(left.tls)]);
        let Left { stage, tls, .. } = left;
        assert!(left.stayed <= PATIENCE, "{stage:?}, TLS {tls}: stayed {:?}", left.stayed);
        assert!(more <= MEMORY, "{stage:?}, TLS {tls}: {more} bytes more than usual");
        (stayed, grown) = (stayed.max(left.stayed), grown.max(more));
    }
    proof(
        "E4",
        &format!(
            "wanted=left_after_ms<=30000,rss_growth<=1MiB stages={} left_after_ms={} rss_growth={grown}",
            Stage::ALL.len() * 2,
            stayed.as_millis()
        ),
    );
}
