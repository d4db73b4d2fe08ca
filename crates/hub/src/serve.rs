//! The hub at work: the broker where it is ours, one connection to it, and one task that handles every message.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use iot_agent::clock::{self, Clock};
use iot_agent::mqtt::transport::{Dial, Endpoint, Scheme, TlsFiles};
use iot_agent::mqtt::{
    self, Backoff, Connection, Credentials, Delivery, Inbound, Inbox, Message, Mqtt, Qos, Settings, Version,
};
use protocol::Timestamp;
use protocol::proof::Psk;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::broker::{Broker, MAX_PACKET};
use crate::control::{Control, Query};
use crate::hub::{Event, FILTERS, Hub};
use crate::store::Store;

/// Messages of one filter taken from the broker and not yet handled.
const INBOX: usize = 64;
/// Bytes of answers that wait for a broker that is away.
const QUEUE: usize = 4 << 20;
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(2);
/// None: a new session is sent every retained presence, which is how the hub learns what it missed. A request that
/// comes while the hub is away is lost, and its device asks again.
const SESSION_EXPIRY: Duration = Duration::ZERO;

/// Which broker.
pub enum Via {
    /// Our own, listening here.
    Embedded(SocketAddr),
    /// Another, running there.
    External(Endpoint),
}

/// What a hub is started with.
pub struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// The fleet's secret.
    pub psk: Psk,
    /// Its broker.
    pub via: Via,
    /// Where to tell what happens; told nothing while it is full.
    pub events: Option<mpsc::Sender<Event>>,
}

/// A hub at work.
pub struct Running {
    broker: Option<Broker>,
    mqtt: Mqtt,
    driver: JoinHandle<()>,
    control: Option<JoinHandle<()>>,
    hub: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    /// A part of it has ended by itself; what is left ends with the runtime.
    over: bool,
}

impl Running {
    /// Opens the database, starts the broker where it is ours, and connects; an external broker may be away.
    pub async fn start(options: Options) -> anyhow::Result<Running> {
        let Options { data, psk, via, events } = options;
        let store = Store::open(&data)?;
        let client_id = store.client_id(client_id)?;
        let hub = Hub::new(store, psk)?;
        let (queries, asked) = mpsc::channel(16);
        let control = listen(&data, queries);
        let (broker, endpoint) = match via {
            Via::External(endpoint) => (None, endpoint),
            Via::Embedded(address) => {
                let broker = Broker::start(address, &data.join("broker")).await?;
                let endpoint = local(broker.address());
                (Some(broker), endpoint)
            }
        };
        let clock = Clock::new(clock::built(), None);
        let (mqtt, driver) = mqtt::new(settings(endpoint, clock.clone(), client_id), ());
        let inboxes = FILTERS.map(|filter| mqtt.claim("hub", filter, Qos::AtLeastOnce, INBOX));
        let (stop, stopped) = oneshot::channel();
        let work = Work { hub, mqtt: mqtt.clone(), clock, events };
        let hub = tokio::spawn(work.run(inboxes, asked, stopped));
        let driver = tokio::spawn(driver.run());
        Ok(Running { broker, mqtt, driver, control, hub, stop, over: false })
    }

    /// Where the embedded broker listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.broker.as_ref().map(Broker::address)
    }

    /// The connection to the broker, to look at or to wait for.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.mqtt.connection()
    }

    /// Waits until a part of it ends by itself, which none should. Cancel-safe; not to be called again once it
    /// returned.
    pub async fn ended(&mut self) -> anyhow::Error {
        let broker = async {
            match &mut self.broker {
                Some(broker) => broker.ended().await,
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            error = broker => error,
            ended = &mut self.driver => panicked(ended, "the MQTT connection"),
            ended = &mut self.hub => panicked(ended, "the hub"),
        };
        self.over = true;
        error
    }

    /// Handles what has arrived, writes down what must last, and stops.
    pub async fn stop(self) -> anyhow::Result<()> {
        if self.over {
            return Ok(());
        }
        self.mqtt.stop(None, DRAIN);
        // Fails only where it has just ended by itself, which awaiting it tells.
        self.stop.send(()).ok();
        self.hub.await.context("stop the hub")?;
        self.driver.await.context("stop the MQTT connection")?;
        if let Some(control) = self.control {
            control.abort();
        }
        match self.broker {
            Some(broker) => broker.stop().await,
            None => Ok(()),
        }
    }
}

fn panicked(ended: Result<(), tokio::task::JoinError>, what: &str) -> anyhow::Error {
    match ended {
        Ok(()) => anyhow::anyhow!("{what} ended"),
        Err(error) => anyhow::Error::new(error).context(format!("{what} failed")),
    }
}

/// The one task through which every message and every question goes.
struct Work {
    hub: Hub,
    mqtt: Mqtt,
    clock: Clock,
    events: Option<mpsc::Sender<Event>>,
}

impl Work {
    async fn run(
        mut self,
        mut inboxes: [Inbox; FILTERS.len()],
        mut asked: mpsc::Receiver<Query>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut save = tokio::time::interval(SAVE_INTERVAL);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let [registration, flat_registration, status, heartbeat, flat_heartbeat] = &mut inboxes;
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(query) = asked.recv() => {
                    // Who asked may have gone.
                    query.send(self.hub.devices()).ok();
                }
                // Before the messages, which may never run out.
                _ = save.tick() => tokio::task::block_in_place(|| self.hub.save()),
                Some(message) = registration.recv() => self.handle(message),
                Some(message) = flat_registration.recv() => self.handle(message),
                // A birth before the heartbeats that follow it.
                Some(message) = status.recv() => self.handle(message),
                Some(message) = heartbeat.recv() => self.handle(message),
                Some(message) = flat_heartbeat.recv() => self.handle(message),
            }
        }
        tokio::task::block_in_place(|| self.hub.save());
    }

    fn handle(&mut self, message: Inbound) {
        let now = Timestamp::from_system_time(self.clock.now());
        let handled = tokio::task::block_in_place(|| {
            self.hub.handle(&message.topic, &message.payload, message.retain, now)
        });
        message.ack();
        if let Some((topic, payload)) = handled.reply {
            // Not awaited: the driver owns it, and a client that hears nothing asks again.
            drop(self.mqtt.publish(Message {
                topic,
                payload,
                qos: Qos::AtLeastOnce,
                retain: false,
                delivery: Delivery::Memory,
            }));
        }
        if let (Some(events), Some(event)) = (&self.events, handled.event) {
            // Whoever looks too slowly misses something; the hub does not wait for it.
            events.try_send(event).ok();
        }
    }
}

fn listen(data: &Path, queries: mpsc::Sender<Query>) -> Option<JoinHandle<()>> {
    match Control::bind(data) {
        Ok(control) => Some(tokio::spawn(control.run(queries))),
        Err(error) => {
            warn!(%error, "cannot listen on hub.sock: `iot-hub devices` will not work while the hub runs");
            None
        }
    }
}

fn client_id() -> String {
    let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
    format!("iot-hub-{random:016x}")
}

fn local(address: SocketAddr) -> Endpoint {
    // Whoever listens on all addresses also listens on loopback, of the same family.
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    Endpoint {
        scheme: Scheme::Mqtt,
        host: host.to_string(),
        port: address.port(),
        path: String::new(),
        tls: TlsFiles::default(),
        proxy: None,
    }
}

fn settings(endpoint: Endpoint, clock: Clock, client_id: String) -> Settings {
    Settings {
        dial: Dial::new(endpoint, clock),
        version: Version::Auto,
        client_id,
        credentials: Credentials::default(),
        keep_alive: Duration::from_secs(30),
        session_expiry: SESSION_EXPIRY,
        max_packet_size: u32::try_from(MAX_PACKET).unwrap_or(u32::MAX),
        reconnect: Backoff {
            min: Duration::from_millis(200),
            max: Duration::from_secs(30),
            reset_after: Duration::from_secs(60),
        },
        queue: QUEUE,
    }
}
