//! Messages waiting for the broker, in memory and bounded by bytes; the oldest goes first and is counted.
//!
//! A message leaves it only to be in flight; one whose session is lost comes back, in order.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Delivery, Message, Outcome};

/// A message and whoever waits for its outcome.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Message,
    pub(super) done: oneshot::Sender<Outcome>,
}

impl Queued {
    /// Tells the outcome to whoever waits; nobody has to.
    pub(super) fn finish(self, outcome: Outcome) {
        drop(self.done.send(outcome));
    }

    fn size(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Queued>,
    bytes: usize,
    cap: usize,
    dropped: u64,
}

impl Outbox {
    pub(super) fn new(cap: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, cap, dropped: 0 }
    }

    /// Appends a message, dropping the oldest where there is no room, or itself where there never can be.
    pub(super) fn push(&mut self, queued: Queued) {
        if queued.size() > self.cap {
            self.dropped += 1;
            return queued.finish(Outcome::Dropped);
        }
        self.bytes += queued.size();
        self.queue.push_back(queued);
        self.trim();
    }

    /// Puts messages that were in flight back before all others, in their order.
    pub(super) fn restore(&mut self, flights: Vec<Queued>) {
        for queued in flights.into_iter().rev() {
            self.bytes += queued.size();
            self.queue.push_front(queued);
        }
        self.trim();
    }

    /// The connection is gone: live messages are not for the next one.
    pub(super) fn drop_live(&mut self) {
        let (live, kept): (VecDeque<_>, _) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|queued| queued.message.delivery == Delivery::Live);
        self.queue = kept;
        for queued in live {
            self.bytes -= queued.size();
            queued.finish(Outcome::Offline);
        }
    }

    fn trim(&mut self) {
        while self.bytes > self.cap
            && let Some(oldest) = self.pop()
        {
            self.dropped += 1;
            oldest.finish(Outcome::Dropped);
        }
    }

    /// The next message to send.
    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.size();
        if self.queue.is_empty() {
            self.queue.shrink_to(16);
        }
        Some(queued)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages, bytes, and how many were dropped since the start.
    pub(super) fn stats(&self) -> (u64, u64, u64) {
        (self.queue.len() as u64, self.bytes as u64, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::Qos;

    fn queued(payload: &str) -> (Queued, oneshot::Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        let message = Message {
            topic: "t".into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            delivery: Delivery::Memory,
        };
        (Queued { message, done }, outcome)
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts_it() {
        let mut outbox = Outbox::new(8);
        let mut outcomes: Vec<_> = ["111", "222", "333"]
            .into_iter()
            .map(|payload| {
                let (queued, outcome) = queued(payload);
                outbox.push(queued);
                outcome
            })
            .collect();
        assert_eq!(outcomes[0].try_recv(), Ok(Outcome::Dropped));
        assert_eq!(outbox.stats(), (2, 8, 1));
        assert_eq!(outbox.pop().unwrap().message.payload, b"222");
    }

    #[test]
    fn one_that_can_never_fit_takes_no_other_with_it() {
        let mut outbox = Outbox::new(8);
        outbox.push(queued("111").0);
        let (large, mut outcome) = queued("12345678");
        outbox.push(large);
        assert_eq!(outcome.try_recv(), Ok(Outcome::Dropped));
        assert_eq!(outbox.stats(), (1, 4, 1));
    }

    #[test]
    fn live_messages_go_with_the_connection_and_the_others_stay() {
        let mut outbox = Outbox::new(100);
        outbox.push(queued("1").0);
        let (mut live, mut outcome) = queued("2");
        live.message.delivery = Delivery::Live;
        outbox.push(live);
        outbox.push(queued("3").0);
        outbox.drop_live();
        assert_eq!(outcome.try_recv(), Ok(Outcome::Offline));
        assert_eq!(outbox.stats(), (2, 4, 0));
        let order: Vec<_> =
            std::iter::from_fn(|| outbox.pop()).map(|queued| queued.message.payload).collect();
        assert_eq!(order, [b"1", b"3"]);
    }

    #[test]
    fn what_was_in_flight_comes_back_first_and_in_order() {
        let mut outbox = Outbox::new(100);
        outbox.push(queued("3").0);
        outbox.restore(vec![queued("1").0, queued("2").0]);
        let order: Vec<_> =
            std::iter::from_fn(|| outbox.pop()).map(|queued| queued.message.payload).collect();
        assert_eq!(order, [b"1", b"2", b"3"]);
        assert_eq!(outbox.stats(), (0, 0, 0));
    }
}
