//! MQTT as services see it: publish with a [`Delivery`], claim a topic and get an [`Inbox`], watch the
//! [`Connection`].
//!
//! One [`Driver`] owns the connection. Every message that comes in is acknowledged by hand, by whoever has
//! taken responsibility for it; every message that goes out is owned here until the broker acknowledges it.
//! Nothing here names the client library: `codec.rs` alone does.

mod codec;
mod committer;
mod driver;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inbox;
mod link;
mod pending;
mod queue;
mod router;
mod session;
mod settings;
pub mod transport;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

pub use crate::config::{Delivery, Qos, Version};
pub use committer::Committer;
pub use driver::Driver;
use inbox::{Ack, Receipt};
pub use inbox::{Inbound, Inbox};
pub use pending::{Outcome, Pending};
use queue::{Queue, Queued};
use router::Router;
pub use settings::{Backoff, Credentials, Settings};

use crate::outbox::{Class, Disk, Outbox, Record, Stats, Tally};

/// Bytes of a PUBLISH besides topic and payload, at most.
const AROUND: usize = 16;

/// A message on its way up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name, no wildcards.
    pub topic: String,
    /// Encoded payload.
    pub payload: Vec<u8>,
    /// Quality of service.
    pub qos: Qos,
    /// Kept by the broker for those who subscribe later.
    pub retain: bool,
    /// What happens to it while offline.
    pub delivery: Delivery,
}

/// The broker connection as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// Dialling, or waiting for CONNACK and the subscriptions.
    Connecting,
    /// Connected, subscribed, birth sent.
    Connected {
        /// "5" or "3.1.1".
        version: &'static str,
        /// The broker still had our session.
        session_present: bool,
    },
    /// Waiting before the next try.
    Waiting {
        /// Why the last try or connection ended, as a chain.
        error: String,
        /// How long this wait is.
        delay: Duration,
    },
    /// The driver has stopped.
    Stopped,
}

/// What the driver says of us by itself: the birth after each CONNACK and the will in each CONNECT.
pub trait Presence: Send + Sync + 'static {
    /// Published after the subscriptions and before anything else; nothing before enrolment.
    fn birth(&self) -> Option<Message>;
    /// What the broker publishes when the connection breaks; nothing before enrolment.
    fn will(&self) -> Option<Message>;
}

/// Says nothing of itself.
impl Presence for () {
    fn birth(&self) -> Option<Message> {
        None
    }

    fn will(&self) -> Option<Message> {
        None
    }
}

/// How often what happened, since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Connections that reached CONNACK.
    pub connects: u64,
    /// Messages for which no inbox had room; left unacknowledged (QoS 0, or no session: lost).
    pub overflowed: u64,
    /// Messages nobody had claimed; acknowledged and dropped.
    pub unclaimed: u64,
    /// Messages over `max_packet_size`; discarded while they came in, acknowledged.
    pub oversized: u64,
    /// Messages waiting, on disk until they are acknowledged.
    pub queued: u64,
    /// Bytes they take.
    pub queued_bytes: u64,
    /// Messages dropped since there was no room.
    pub dropped: u64,
    /// Messages the broker refused for good.
    pub refused: u64,
    /// Messages lost to a damaged disk.
    pub damaged: u64,
    /// The same of each class, in the order of [`Class::ALL`].
    pub classes: [Stats; Class::ALL.len()],
    /// Why durable messages wait in memory instead of on disk.
    pub degraded: Option<String>,
}

/// Handle to the driver; cheap to clone.
#[derive(Debug, Clone)]
pub struct Mqtt {
    shared: Arc<Shared>,
    class: Class,
    /// The way to the broker; none without a driver.
    reach: Option<transport::Reach>,
}

/// The driver that connects by `settings`, and the handle to it. Without an outbox: what is durable waits in memory.
pub fn new(settings: Settings, presence: impl Presence) -> (Mqtt, Driver) {
    of(Shared::with(settings.queue, None), settings, presence)
}

/// The same with an outbox on `disk`, and what writes it there.
pub fn durable(
    settings: Settings,
    presence: impl Presence,
    outbox: Outbox,
    disk: Arc<dyn Disk>,
) -> (Mqtt, Driver, Committer) {
    let shared = Shared::with(settings.queue, Some(outbox));
    let committer = Committer::new(Arc::clone(&shared), disk);
    let (mqtt, driver) = of(shared, settings, presence);
    (mqtt, driver, committer)
}

fn of(shared: Arc<Shared>, settings: Settings, presence: impl Presence) -> (Mqtt, Driver) {
    let reach = Some(settings.dial.reach());
    let driver = Driver::new(Arc::clone(&shared), settings, Box::new(presence));
    (Mqtt { shared, class: Class::Metrics, reach }, driver)
}

impl Mqtt {
    /// A handle without a driver: claims are taken, nothing is ever sent. For checking a configuration.
    pub fn disconnected(queue: usize) -> Self {
        Self { shared: Shared::with(queue, None), class: Class::Metrics, reach: None }
    }

    /// A handle whose messages are of this class.
    pub fn in_class(&self, class: Class) -> Self {
        Self { class, ..self.clone() }
    }

    /// Hands a message over. It is on its way whether or not the [`Pending`] outcome is awaited; a durable one is
    /// safe only after it has been written.
    pub fn publish(&self, message: Message) -> Pending {
        let mut state = self.shared.state();
        if message.delivery == Delivery::Durable && state.queue.outbox().is_some() {
            drop(state);
            return self.publish_durable(message);
        }
        let (done, outcome) = oneshot::channel();
        let queued = Queued::new(message, self.class, done);
        if queued.is_live() && !state.up {
            queued.finish(Outcome::Offline);
        } else {
            state.queue.push(queued);
        }
        drop(state);
        self.shared.wake.notify_one();
        Pending::queued(outcome)
    }

    fn publish_durable(&self, message: Message) -> Pending {
        let Message { topic, payload, qos, retain, .. } = message;
        let record = Record { topic, payload, qos: qos.max(Qos::AtLeastOnce), retain };
        let tally = Arc::new(Tally::default());
        self.shared.push(|outbox| outbox.push_plain(self.class, record, Some(&tally)));
        Pending::stored(tally)
    }

    /// Claims a topic filter; with `{device_id}` in it, from [`Mqtt::bind`] on. `capacity` bounds the messages taken
    /// and not yet acknowledged. The subscription outlives the inbox, for `owner` to claim again: [`Mqtt::release`].
    pub fn claim(&self, owner: &'static str, filter: &str, qos: Qos, capacity: usize) -> Inbox {
        let inbox = self.shared.state().router.claim(owner, filter, qos, capacity);
        self.shared.wake.notify_one();
        Inbox { inbox }
    }

    /// Leaves what is not claimed here with the broker, for whoever the session belongs to; before any claim.
    pub(crate) fn visit(&self) {
        self.shared.state().router.visit();
    }

    /// `owner` does not come back for the inboxes it has dropped: their topics are unsubscribed.
    pub fn release(&self, owner: &str) {
        self.shared.state().router.release(owner);
        self.shared.wake.notify_one();
    }

    /// From now on the device id is known: waiting claims are subscribed, and the connection is made anew to have a
    /// will; it counts as down until its birth. The same id again changes nothing.
    pub fn bind(&self, device_id: &str) {
        let mut state = self.shared.state();
        if !state.router.bind(device_id) {
            return;
        }
        state.reconnect = true;
        let was_up = std::mem::take(&mut state.up);
        drop(state);
        if was_up {
            self.shared.connection.send_replace(Connection::Connecting);
        }
        self.shared.wake.notify_one();
    }

    /// The connection, to look at or to wait for.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.connection.subscribe()
    }

    /// Why there is no connection, as a chain: how the last try or connection ended. None while connected.
    pub fn lost(&self) -> Option<String> {
        self.shared.state().lost.clone()
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        let state = self.shared.state();
        let mut counters = state.counters.clone();
        state.queue.count(&mut counters);
        counters
    }

    /// Ends the driver: what waits is sent until `drain` has passed, then `goodbye`, then DISCONNECT.
    pub fn stop(&self, goodbye: Option<Message>, drain: Duration) {
        let mut state = self.shared.state();
        if state.stop.is_none() {
            state.stop = Some(Stop { goodbye, by: Instant::now() + drain });
        }
        drop(state);
        self.shared.wake.notify_one();
    }
}

/// The driver's part, played by tests of a service.
#[cfg(test)]
impl Mqtt {
    /// A handle without a driver, and what is durable goes to `outbox`.
    pub(crate) fn with_driver_played(outbox: Outbox) -> Self {
        Self { shared: Shared::with(1 << 20, Some(outbox)), class: Class::Metrics, reach: None }
    }

    /// Connected from now on, or not.
    pub(crate) fn set_connected(&self, up: bool) {
        self.shared.state().up = up;
        let connected = Connection::Connected { version: "5", session_present: false };
        self.shared.connection.send_replace(if up { connected } else { Connection::Connecting });
    }

    /// Takes what has been published since the last time, as the broker would.
    pub(crate) fn take_published(&self) -> Vec<Message> {
        let mut published = Vec::new();
        while let Some(queued) = self.next_published() {
            published.push(queued.message.clone());
            queued.finish(Outcome::Sent);
        }
        self.shared.settle();
        published
    }

    /// Takes what has been published, and breaks the connection before any of it has arrived.
    pub(crate) fn lose_published(&self) -> Vec<Message> {
        self.set_connected(false);
        let mut lost = Vec::new();
        while let Some(queued) = self.next_published() {
            lost.push(queued.message.clone());
            queued.finish(Outcome::Offline);
        }
        lost
    }

    fn next_published(&self) -> Option<Queued> {
        self.shared.state().queue.pop(usize::MAX)
    }

    /// Somebody has claimed it, or may come back for it.
    pub(crate) fn has_claim(&self, topic: &str) -> bool {
        self.shared.state().router.route(Inbound::detached(topic, b"")) != router::Routed::Unclaimed
    }

    /// Hands a message to whoever claimed its topic; false where nobody could take it.
    pub(crate) fn deliver(&self, topic: &str, payload: &[u8]) -> bool {
        self.shared.state().router.route(Inbound::detached(topic, payload)) == router::Routed::Delivered
    }
}

/// What the handles and the driver share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    /// The outbox may have something to write.
    dirty: Notify,
    /// There may be room in the outbox, or it has been written.
    freed: Notify,
    connection: watch::Sender<Connection>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    router: Router,
    acks: Vec<Receipt>,
    /// Connected, subscribed, birth sent.
    up: bool,
    /// When the broker accepted this connection.
    accepted: Option<Instant>,
    /// End this connection and make another at once.
    reconnect: bool,
    stop: Option<Stop>,
    /// The committer ends once everything is written.
    closing: bool,
    /// How the last try or connection ended; none while connected.
    lost: Option<String>,
    /// The longest packet that the broker of the latest connection takes.
    largest: Option<u32>,
    counters: Counters,
}

#[derive(Debug)]
struct Stop {
    goodbye: Option<Message>,
    by: Instant,
}

impl Shared {
    fn with(queue: usize, outbox: Option<Outbox>) -> Arc<Self> {
        let state = State {
            queue: Queue::new(queue, outbox),
            router: Router::default(),
            acks: Vec::new(),
            up: false,
            accepted: None,
            reconnect: false,
            stop: None,
            closing: false,
            lost: None,
            largest: None,
            counters: Counters::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            dirty: Notify::new(),
            freed: Notify::new(),
            connection: watch::Sender::new(Connection::Connecting),
        })
    }

    /// Tells the outbox what became of its messages.
    fn settle(&self) {
        let mut state = self.state();
        let settled = state.queue.settle();
        let unreadable = state.queue.outbox().is_some_and(|outbox| outbox.is_unreadable());
        drop(state);
        if settled || unreadable {
            self.dirty.notify_one();
            self.freed.notify_waiters();
        }
    }

    /// No code panics while it holds the lock, and a poisoned queue is still a queue.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
