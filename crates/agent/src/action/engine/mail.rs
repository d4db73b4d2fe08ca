//! The orders that have come and not had their turn.

use std::{collections::VecDeque, pin::pin};

use super::BATCH;
use crate::mqtt::{Inbound, Inbox};

/// Bytes of messages that are taken while something is written.
const TAKEN: usize = 4 << 20;

/// Messages that have come. Taken out of the inbox also while a turn is written: brokers that do not keep to Receive
/// Maximum (mosquitto 2.0.11) would fill it, and the connection be made anew to have the rest sent again.
pub(super) struct Mail {
    inbox: Inbox,
    taken: VecDeque<Inbound>,
    bytes: usize,
}

impl Mail {
    /// None so far.
    pub(super) fn new(inbox: Inbox) -> Self {
        Self { inbox, taken: VecDeque::new(), bytes: 0 }
    }

    /// The next one; none when the driver is gone. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<Inbound> {
        match self.pop() {
            Some(message) => Some(message),
            None => self.inbox.recv().await,
        }
    }

    /// As many as a turn takes, after those.
    pub(super) fn batch(&mut self, mut messages: Vec<Inbound>) -> Vec<Inbound> {
        while messages.len() < BATCH
            && let Some(message) = self.pop().or_else(|| self.inbox.try_recv())
        {
            messages.push(message);
        }
        messages
    }

    fn pop(&mut self) -> Option<Inbound> {
        let message = self.taken.pop_front()?;
        self.bytes -= size(&message);
        Some(message)
    }

    /// Does `work`, and takes what comes meanwhile.
    pub(super) async fn take_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(message) = self.inbox.recv(), if self.bytes < TAKEN => {
                    self.bytes += size(&message);
                    self.taken.push_back(message);
                }
            }
        }
    }
}

/// Bytes it takes in memory.
fn size(message: &Inbound) -> usize {
    size_of::<Inbound>() + message.topic.len() + message.payload.len()
}
