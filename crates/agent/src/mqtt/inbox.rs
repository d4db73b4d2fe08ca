//! Messages from the broker, and the responsibility for them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Qos, Shared};

/// Messages of one claim, in the order of the broker.
#[derive(Debug)]
pub struct Inbox {
    pub(super) inbox: mpsc::Receiver<Inbound>,
}

impl Inbox {
    /// The next message; none when the driver is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Inbound> {
        self.inbox.recv().await
    }

    /// The next message, if it is there already.
    pub fn try_recv(&mut self) -> Option<Inbound> {
        self.inbox.try_recv().ok()
    }

    /// Fed by a test.
    #[cfg(test)]
    pub(crate) fn fed_by(inbox: mpsc::Receiver<Inbound>) -> Self {
        Self { inbox }
    }
}

/// A message from the broker. Dropped without [`Inbound::ack`] it stays unacknowledged: the connection is made
/// anew once all others are acknowledged, so that it comes again. Where the broker keeps no session it is lost.
#[derive(Debug)]
pub struct Inbound {
    /// Topic it was published to.
    pub topic: String,
    /// Payload as it came.
    pub payload: Vec<u8>,
    /// Quality of service it came with.
    pub qos: Qos,
    /// Sent because it was retained, not because it is new.
    pub retain: bool,
    /// The broker has sent it before.
    pub dup: bool,
    pub(super) ack: Option<Ack>,
}

impl Inbound {
    /// Responsibility is taken: the broker may forget it.
    pub fn ack(mut self) {
        self.settle(true);
    }

    /// Never handed over: the link knows by itself.
    pub(super) fn leave(mut self) {
        self.ack = None;
    }

    fn settle(&mut self, taken: bool) {
        let Some(ack) = self.ack.take() else { return };
        ack.shared.state().acks.push(Receipt { taken, ..ack.receipt });
        ack.shared.wake.notify_one();
    }

    /// A message without a broker, as tests of a service need it.
    #[cfg(test)]
    pub(crate) fn detached(topic: &str, payload: &[u8]) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos: Qos::AtLeastOnce,
            retain: false,
            dup: false,
            ack: None,
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.settle(false);
    }
}

#[derive(Debug)]
pub(super) struct Ack {
    pub(super) shared: Arc<Shared>,
    pub(super) receipt: Receipt,
}

/// Names a message that came in: packet identifiers mean something on their own connection only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receipt {
    pub(super) connection: u64,
    pub(super) id: u16,
    pub(super) qos: Qos,
    /// Somebody has taken responsibility.
    pub(super) taken: bool,
}
