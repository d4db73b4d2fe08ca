//! MQTT as services see it: publish with a [`Delivery`], claim a topic and get an [`Inbox`], watch the
//! [`Connection`].
//!
//! One [`Driver`] owns the connection. Every message that comes in is acknowledged by hand, by whoever has
//! taken responsibility for it; every message that goes out is owned here until the broker acknowledges it.
//! Nothing here names the client library: `codec.rs` alone does.

mod codec;
mod driver;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inbox;
mod link;
mod outbox;
mod router;
mod session;
mod settings;
pub mod transport;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

pub use crate::config::{Delivery, Qos, Version};
pub use driver::Driver;
use inbox::{Ack, Receipt};
pub use inbox::{Inbound, Inbox};
use outbox::{Outbox, Queued};
use router::Router;
pub use settings::{Backoff, Credentials, Settings};

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

/// What became of a published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by the broker (QoS 0: written to the connection).
    Sent,
    /// Not sent, or not known to have arrived: there was no connection and the message was live.
    Offline,
    /// Dropped from a full queue, or the agent stopped first.
    Dropped,
    /// The broker refused it for good, with its reason.
    Refused(String),
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
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Connections that reached CONNACK.
    pub connects: u64,
    /// Messages for which no inbox had room; left unacknowledged (QoS 0, or no session: lost).
    pub overflowed: u64,
    /// Messages nobody had claimed; acknowledged and dropped.
    pub unclaimed: u64,
    /// Messages over `max_packet_size`; discarded while they came in, acknowledged.
    pub oversized: u64,
    /// Messages the broker refused for good.
    pub refused: u64,
    /// Messages waiting.
    pub queued: u64,
    /// Bytes waiting.
    pub queued_bytes: u64,
    /// Messages dropped from the full queue.
    pub dropped: u64,
}

/// Handle to the driver; cheap to clone.
#[derive(Debug, Clone)]
pub struct Mqtt {
    shared: Arc<Shared>,
}

/// The driver that connects by `settings`, and the handle to it.
pub fn new(settings: Settings, presence: impl Presence) -> (Mqtt, Driver) {
    let shared = Shared::new(settings.queue);
    let driver = Driver::new(Arc::clone(&shared), settings, Box::new(presence));
    (Mqtt { shared }, driver)
}

impl Mqtt {
    /// A handle without a driver: claims are taken, nothing is ever sent. For checking a configuration.
    pub fn disconnected(queue: usize) -> Self {
        Self { shared: Shared::new(queue) }
    }

    /// Hands a message over. It is on its way whether or not the [`Pending`] outcome is awaited.
    pub fn publish(&self, message: Message) -> Pending {
        let (done, outcome) = oneshot::channel();
        let queued = Queued { message, done };
        let mut state = self.shared.state();
        if queued.message.delivery == Delivery::Live && !state.up {
            queued.finish(Outcome::Offline);
        } else {
            state.outbox.push(queued);
        }
        drop(state);
        self.shared.wake.notify_one();
        Pending { outcome }
    }

    /// Claims a topic filter. `{device_id}` in it is filled in by [`Mqtt::bind`]; until then it waits.
    /// `capacity` bounds the messages taken and not yet acknowledged. When the inbox is dropped the subscription
    /// stays, for `owner` to claim it again; see [`Mqtt::release`].
    pub fn claim(&self, owner: &'static str, filter: &str, qos: Qos, capacity: usize) -> Inbox {
        let inbox = self.shared.state().router.claim(owner, filter, qos, capacity);
        self.shared.wake.notify_one();
        Inbox { inbox }
    }

    /// `owner` does not come back for the inboxes it has dropped: their topics are unsubscribed.
    pub fn release(&self, owner: &str) {
        self.shared.state().router.release(owner);
        self.shared.wake.notify_one();
    }

    /// From now on the device id is known: waiting claims are subscribed, and the connection is made anew so
    /// that it has a will. From this moment on it counts as down: nothing is said of the device before its birth.
    /// The same id again changes nothing.
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
        let (queued, queued_bytes, dropped) = state.outbox.stats();
        Counters { queued, queued_bytes, dropped, ..state.counters }
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
    /// Connected from now on, or not.
    pub(crate) fn set_connected(&self, up: bool) {
        self.shared.state().up = up;
        let connected = Connection::Connected { version: "5", session_present: false };
        self.shared.connection.send_replace(if up { connected } else { Connection::Connecting });
    }

    /// Takes what has been published since the last time, as the broker would.
    pub(crate) fn take_published(&self) -> Vec<Message> {
        let mut published = Vec::new();
        while let Some(queued) = self.shared.state().outbox.pop() {
            published.push(queued.message.clone());
            queued.finish(Outcome::Sent);
        }
        published
    }

    /// Takes what has been published, and breaks the connection before any of it has arrived.
    pub(crate) fn lose_published(&self) -> Vec<Message> {
        self.set_connected(false);
        let mut lost = Vec::new();
        while let Some(queued) = self.shared.state().outbox.pop() {
            lost.push(queued.message.clone());
            queued.finish(Outcome::Offline);
        }
        lost
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

/// The outcome of a published message, to await or to drop.
#[derive(Debug)]
pub struct Pending {
    outcome: oneshot::Receiver<Outcome>,
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| outcome.unwrap_or(Outcome::Dropped))
    }
}

/// What the handles and the driver share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    connection: watch::Sender<Connection>,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    router: Router,
    acks: Vec<Receipt>,
    /// Connected, subscribed, birth sent.
    up: bool,
    /// When the broker accepted this connection.
    accepted: Option<Instant>,
    /// End this connection and make another at once.
    reconnect: bool,
    stop: Option<Stop>,
    /// How the last try or connection ended; none while connected.
    lost: Option<String>,
    counters: Counters,
}

#[derive(Debug)]
struct Stop {
    goodbye: Option<Message>,
    by: Instant,
}

impl Shared {
    fn new(queue: usize) -> Arc<Self> {
        let state = State {
            outbox: Outbox::new(queue),
            router: Router::default(),
            acks: Vec::new(),
            up: false,
            accepted: None,
            reconnect: false,
            stop: None,
            lost: None,
            counters: Counters::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            connection: watch::Sender::new(Connection::Connecting),
        })
    }

    /// No code panics while it holds the lock, and a poisoned queue is still a queue.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
