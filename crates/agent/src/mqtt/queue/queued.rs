//! One message on its way, and who is to be told what becomes of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::oneshot, time::Instant};

use super::super::{Delivery, Message, Outcome};
use crate::outbox::{Class, Fate, Key, Record};

/// A message and whoever waits for its outcome.
#[derive(Debug)]
pub(in super::super) struct Queued {
    pub(in super::super) message: Message,
    pub(in super::super) class: Class,
    /// When it left the queue first, among all others; 0 before.
    pub(super) order: u64,
    /// How often the broker refused it, but not for good, and since when.
    pub(in super::super) nacks: Option<(u32, Instant)>,
    /// How often in a row the broker ended the connection on it, and since when.
    pub(in super::super) strikes: Option<(u32, Instant)>,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Sender(oneshot::Sender<Outcome>),
    Outbox(Key, Settled),
}

impl Queued {
    /// A message that is nowhere but here.
    pub(in super::super) fn new(message: Message, class: Class, done: oneshot::Sender<Outcome>) -> Self {
        Self { message, class, order: 0, nacks: None, strikes: None, owner: Owner::Sender(done) }
    }

    /// A message whose outcome nobody waits for.
    pub(in super::super) fn unawaited(message: Message) -> Self {
        Self::new(message, Class::Metrics, oneshot::channel().0)
    }

    pub(super) fn stored(message: Message, class: Class, key: Key, settled: Settled) -> Self {
        Self { message, class, order: 0, nacks: None, strikes: None, owner: Owner::Outbox(key, settled) }
    }

    /// Tells the outcome to whoever waits; nobody has to.
    pub(in super::super) fn finish(self, outcome: Outcome) {
        match (self.owner, outcome) {
            (Owner::Sender(done), outcome) => drop(done.send(outcome)),
            (Owner::Outbox(key, settled), Outcome::Sent) => settled.push(key, Fate::Sent),
            (Owner::Outbox(key, settled), Outcome::Refused(reason)) => {
                let Message { topic, payload, qos, retain, .. } = self.message;
                settled.push(key, Fate::Refused { record: Record { topic, payload, qos, retain }, reason });
            }
            // It stays in the outbox.
            (Owner::Outbox(..), Outcome::Offline | Outcome::Dropped) => {}
        }
    }

    /// The outbox has it as well.
    pub(in super::super) fn is_stored(&self) -> bool {
        matches!(self.owner, Owner::Outbox(..))
    }

    pub(in super::super) fn is_live(&self) -> bool {
        self.message.delivery == Delivery::Live
    }

    pub(in super::super) fn size(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }
}

/// What became of messages of the outbox, until the queue tells it.
#[derive(Debug, Clone, Default)]
pub(super) struct Settled(Arc<Mutex<Vec<(Key, Fate)>>>);

impl Settled {
    fn push(&self, key: Key, fate: Fate) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((key, fate));
    }

    pub(super) fn take(&self) -> Vec<(Key, Fate)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
