//! A whole life of a real agent over every way to a broker, in both versions of MQTT: enrolment, birth, will,
//! heartbeats, a broker that comes back with and without its session, the goodbye.

#![allow(clippy::print_stdout, reason = "figures, for who runs it with --nocapture")]

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::{
    Mosquitto, Process, Watcher,
    certs::{Identity, Pki},
    mosquitto::{Builder, Tls},
    publish,
};

use crate::support::{
    Home, SOON,
    backend::Backend,
    packets::{Connection, connections, wait_birth},
};

const DEVICE: &str = "d1";
const STATUS: &str = "iot/d1/status";
const HEARTBEAT: &str = "iot/d1/heartbeat";
/// From CONNACK to the birth.
const PROMPT: Duration = Duration::from_secs(1);
/// From SIGTERM to the exit.
const STOP: Duration = Duration::from_secs(5);

#[tokio::test]
async fn over_plain_tcp() {
    both_versions(Mosquitto::builder(), |broker| Home::new(&format!("mqtt://127.0.0.1:{}", broker.port())))
        .await;
}

#[tokio::test]
async fn over_tls_with_a_client_certificate() {
    let pki = Pki::new().unwrap();
    let client = pki.client("agent").unwrap();
    both_versions(Mosquitto::builder().tls(tls(&pki)), |broker| {
        trusting(Home::new(&format!("mqtts://127.0.0.1:{}", broker.tls_port())), &pki, &client)
    })
    .await;
}

#[tokio::test]
async fn over_websockets() {
    both_versions(Mosquitto::builder().websockets(), |broker| {
        Home::new(&format!("ws://127.0.0.1:{}", broker.ws_port()))
    })
    .await;
}

#[tokio::test]
async fn over_websockets_and_tls() {
    let pki = Pki::new().unwrap();
    let client = pki.client("agent").unwrap();
    both_versions(Mosquitto::builder().tls(tls(&pki)).secure_websockets(), |broker| {
        trusting(Home::new(&format!("wss://127.0.0.1:{}/mqtt", broker.wss_port())), &pki, &client)
    })
    .await;
}

#[tokio::test]
async fn over_a_unix_socket() {
    both_versions(Mosquitto::builder().unix_socket(), |broker| {
        Home::new(&format!("unix://{}", broker.socket_path().display()))
    })
    .await;
}

fn tls(pki: &Pki) -> Tls {
    Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: true,
        only_version: None,
    }
}

fn trusting(home: Home, pki: &Pki, client: &Identity) -> Home {
    home.mqtt(&format!("ca_certificate: {}", pki.ca_file().display()))
        .mqtt(&format!("client_certificate: {}", client.cert.display()))
        .mqtt(&format!("client_key: {}", client.key.display()))
}

/// Lives the life twice at the same time, each with a broker of its own.
async fn both_versions(broker: Builder, home: impl Fn(&Mosquitto) -> Home) {
    let live = async |version: &str, level: &str| {
        let broker = broker.clone().persistence().start().await.unwrap();
        let home = home(&broker).mqtt(&format!("version: {version}")).yaml(
            "services:\n  registration: {device_secret_file: psk, response_timeout: 5s}\n  \
             heartbeat: {interval: 200ms}",
        );
        Life::begin(broker, home, level).await.live().await;
    };
    tokio::join!(live("5", "p5"), live("3.1.1", "p2"));
}

struct Life {
    broker: Mosquitto,
    watcher: Watcher,
    backend: Backend,
    home: Home,
    level: String,
}

impl Life {
    async fn begin(broker: Mosquitto, home: Home, level: &str) -> Self {
        // With a session, so that it misses nothing while the broker is away.
        let watcher = Watcher::with_session(&broker, "iot/#", "watcher").await.unwrap();
        let backend = Backend::start(&broker).await;
        Self { broker, watcher, backend, home, level: level.to_owned() }
    }

    async fn live(mut self) {
        let (client_id, first) = self.enrol_and_die().await;
        let agent = self.home.start();
        let birth = self.birth().await;
        assert_ne!(birth["run_id"], first, "another process");
        let lives = self.connections(&client_id);
        assert_eq!(lives.len(), 3, "the same client id, and no enrolment in between: {lives:#?}");
        self.beats(&birth["run_id"]).await;

        self.back(&client_id, 3, true).await;
        self.back(&client_id, 4, false).await;
        self.hears(&client_id).await;
        self.say_goodbye(agent, &birth["run_id"]).await;

        assert_eq!(self.backend.requests(), 1, "enrolled once");
        for connection in &self.connections(&client_id)[1..] {
            assert!(connection.will, "{connection:#?}");
            connection.assert_order(STATUS);
        }
    }

    /// Nothing is said of a device before it has its id; from then on its birth is the first thing, and a will
    /// stands behind it. Tells the client id and the run that was killed.
    async fn enrol_and_die(&self) -> (String, Value) {
        let agent = self.home.start();
        let client_id = self.backend.enrol(DEVICE).await;
        let first = self.watcher.next(|message| message.topic.starts_with("iot/d1/"), SOON).await.unwrap();
        assert_eq!((first.topic.as_str(), first.retain), (STATUS, true), "{first:?}");
        let birth = first.json().unwrap();
        assert_eq!((&birth["state"], &birth["device_id"]), (&"online".into(), &DEVICE.into()));
        self.beats(&birth["run_id"]).await;
        let connections = self.connections(&client_id);
        let wills: Vec<_> = connections.iter().map(|connection| connection.will).collect();
        assert_eq!(wills, [false, true], "{connections:#?}");

        agent.signal(Signal::KILL).unwrap();
        let will = self.watcher.next_on(STATUS, SOON).await.unwrap();
        assert!(will.retain);
        let will = will.json().unwrap();
        assert_eq!((&will["state"], &will["reason"]), (&"offline".into(), &"connection_lost".into()));
        assert_eq!(will["run_id"], birth["run_id"]);
        (client_id, birth["run_id"].clone())
    }

    async fn birth(&self) -> Value {
        let birth = self.watcher.next_on(STATUS, SOON).await.unwrap();
        assert!(birth.retain);
        let birth = birth.json().unwrap();
        assert_eq!((&birth["state"], &birth["device_id"]), (&"online".into(), &DEVICE.into()));
        birth
    }

    /// The first heartbeats of a run.
    async fn beats(&self, run_id: &Value) {
        for seq in 1..=3 {
            let beat = self.watcher.next_on(HEARTBEAT, SOON).await.unwrap().json().unwrap();
            assert_eq!((&beat["seq"], &beat["run_id"]), (&seq.into(), run_id));
        }
    }

    /// Makes the broker come back, with or without its session: present again in time.
    async fn back(&mut self, client_id: &str, index: usize, session_present: bool) {
        if session_present {
            self.broker.stop().await.unwrap();
            self.broker.start().await.unwrap();
        } else {
            self.broker.kill().await.unwrap();
            self.broker.start_without_session().await.unwrap();
        }
        let delay = wait_birth(&self.broker, client_id, STATUS, index).await;
        assert!(delay < PROMPT, "{delay:?} from CONNACK to the birth");
        println!("{}: birth {} ms after CONNACK", self.level, delay.as_millis());
        let connections = self.connections(client_id);
        let connection = &connections[index];
        assert_eq!(connection.session_present, Some(session_present), "{connection:#?}");
        let fresh = Watcher::start(&self.broker, STATUS).await.unwrap();
        let retained = fresh.next(|_| true, SOON).await.unwrap().json().unwrap();
        assert_eq!(retained["state"], "online");
    }

    /// A message for the agent reaches it.
    async fn hears(&self, client_id: &str) {
        let topic = format!("iot/registration/{client_id}/reply");
        publish(&self.broker, &topic, "{}", 1, false).await.unwrap();
        self.broker.wait_log(&format!("Received PUBACK from {client_id}"), SOON).await.unwrap();
    }

    async fn say_goodbye(&self, mut agent: Process, run_id: &Value) {
        agent.terminate().unwrap();
        let status = agent.wait_exit(STOP).await.unwrap();
        assert!(status.success(), "{status}: {:#?}", agent.stderr.all());
        let fresh = Watcher::start(&self.broker, STATUS).await.unwrap();
        let retained = fresh.next(|_| true, SOON).await.unwrap().json().unwrap();
        assert_eq!((&retained["state"], &retained["reason"]), (&"offline".into(), &"shutdown".into()));
        assert_eq!(&retained["run_id"], run_id);
    }

    fn connections(&self, client_id: &str) -> Vec<Connection> {
        let connections = connections(&self.broker.log(), client_id);
        assert!(connections.iter().all(|connection| connection.version == self.level), "{connections:#?}");
        connections
    }
}
