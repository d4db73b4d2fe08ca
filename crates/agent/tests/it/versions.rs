//! `mqtt.version: auto`, the default: MQTT 5 where the broker speaks it, 3.1.1 where it does not, and no
//! downgrade for good by a bad network.

use testkit::{
    Mosquitto, Proxy, Watcher,
    oldbroker::{OldBroker, Refusal},
};
use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

use crate::support::{
    Home, SOON,
    packets::{connections, wait_birth},
};

const STATUS: &str = "iot/d1/status";
const HEARTBEAT: &str = "iot/d1/heartbeat";
const CLIENT: &str = "story-versions";

fn home(port: u16) -> Home {
    Home::new(&format!("mqtt://127.0.0.1:{port}")).device("d1").mqtt(&format!("client_id: {CLIENT}"))
}

fn versions(broker: &Mosquitto) -> Vec<String> {
    connections(&broker.log(), CLIENT).into_iter().map(|connection| connection.version).collect()
}

#[tokio::test]
async fn a_broker_of_today_is_spoken_to_in_mqtt_5() {
    let broker = Mosquitto::plain().await.unwrap();
    let home = home(broker.port());
    let _agent = home.start();
    wait_birth(&broker, CLIENT, STATUS, 0).await;
    assert_eq!(versions(&broker), ["p5"]);
}

/// Whichever way it refuses, also after it was away.
#[tokio::test]
async fn an_old_broker_is_spoken_to_in_mqtt_3() {
    for refusal in [Refusal::Code1, Refusal::Close] {
        let mut broker = Mosquitto::plain().await.unwrap();
        let old = OldBroker::start(broker.addr(), refusal).await.unwrap();
        let home = home(old.port());
        let mut agent = home.start();
        wait_birth(&broker, CLIENT, STATUS, 0).await;
        assert_eq!((old.counts().refused, old.counts().accepted), (1, 1), "{refusal:?}");
        broker.kill().await.unwrap();
        broker.start().await.unwrap();
        wait_birth(&broker, CLIENT, STATUS, 1).await;
        let watcher = Watcher::start(&broker, HEARTBEAT).await.unwrap();
        watcher.next(|_| true, SOON).await.unwrap();
        assert_eq!(versions(&broker), ["p2", "p2"], "{refusal:?}");
        let status = home.status().unwrap();
        assert_eq!(status["connection"]["mqtt_version"], "3.1.1", "{status:#}");
        agent.terminate().unwrap();
        assert!(agent.wait_exit(SOON).await.unwrap().success());
    }
}

/// Once it looks as if the broker were an old one that just closes. It was the network.
#[tokio::test]
async fn one_broken_connection_costs_mqtt_5_for_one_connection_only() {
    let broker = Mosquitto::plain().await.unwrap();
    let closer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(closer.local_addr().unwrap()).await.unwrap();
    let home = home(proxy.port());
    let _agent = home.start();
    let (mut first, _) = timeout(SOON, closer.accept()).await.unwrap().unwrap();
    timeout(SOON, first.read_u8()).await.unwrap().unwrap();
    proxy.retarget(broker.addr());
    drop(first);
    wait_birth(&broker, CLIENT, STATUS, 0).await;
    proxy.reset_all();
    wait_birth(&broker, CLIENT, STATUS, 1).await;
    assert_eq!(versions(&broker), ["p2", "p5"]);
}
