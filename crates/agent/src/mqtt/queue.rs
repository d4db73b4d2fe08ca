//! What waits for the broker, and what of it goes next: live messages, then class by class what a lost session gave
//! back, what waits in memory, and what waits on disk.
//!
//! A message leaves it only to be in flight; one whose session is lost comes back, in order. What waits in memory is
//! bounded by bytes: the least important class goes first, of that the oldest, and is counted.

mod queued;

use std::collections::VecDeque;

use tokio::time::{Duration, Instant};

use super::{Counters, Delivery, Message, Outcome};
use crate::outbox::{Class, Outbox, Stats};
pub(super) use queued::Queued;
use queued::Settled;

/// The first pause after a broker had no room for a message; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    live: VecDeque<Queued>,
    live_bytes: usize,
    lanes: [Lane; Class::ALL.len()],
    /// Of all lanes, in memory only.
    bytes: usize,
    cap: usize,
    outbox: Option<Outbox>,
    settled: Settled,
    launched: u64,
    /// Nothing but live messages goes out before.
    paused: Option<Instant>,
    pauses: u32,
}

/// What waits of one class, beside what is on disk.
#[derive(Debug, Default)]
struct Lane {
    /// In the order of their first launch; what is on disk as well among what is not.
    returned: VecDeque<Queued>,
    memory: VecDeque<Queued>,
    dropped: u64,
    refused: u64,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.returned.is_empty() && self.memory.is_empty()
    }

    /// The oldest that is nowhere but here.
    fn oldest(&mut self) -> Option<Queued> {
        match self.returned.iter().position(|queued| !queued.is_stored()) {
            Some(index) => self.returned.remove(index),
            None => self.memory.pop_front(),
        }
    }

    fn next(&mut self) -> Option<Queued> {
        let next = self.returned.pop_front().or_else(|| self.memory.pop_front());
        if self.is_empty() {
            self.returned.shrink_to(16);
            self.memory.shrink_to(16);
        }
        next
    }
}

impl Queue {
    /// A queue that holds at most `cap` bytes of live messages, and as many of others, beside what is on disk.
    pub(super) fn new(cap: usize, outbox: Option<Outbox>) -> Self {
        Self {
            live: VecDeque::new(),
            live_bytes: 0,
            lanes: Default::default(),
            bytes: 0,
            cap,
            outbox,
            settled: Settled::default(),
            launched: 0,
            paused: None,
            pauses: 0,
        }
    }

    /// Appends a message to what waits in memory, making room where there is none; it is dropped itself where there
    /// never can be any.
    pub(super) fn push(&mut self, queued: Queued) {
        let size = queued.size();
        if size > self.cap {
            return self.drop_full(queued);
        }
        if queued.is_live() {
            self.live_bytes += size;
            self.live.push_back(queued);
        } else {
            self.bytes += size;
            self.lane(queued.class).memory.push_back(queued);
        }
        self.trim();
    }

    /// The outbox, where there is one.
    pub(super) fn outbox(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_mut()
    }

    /// Tells the outbox what became of its messages; whether there was something to tell.
    pub(super) fn settle(&mut self) -> bool {
        let Some(outbox) = &mut self.outbox else { return false };
        let settled = self.settled.take();
        if settled.is_empty() {
            return false;
        }
        for (key, fate) in settled {
            outbox.settle(key, fate);
        }
        outbox.note();
        true
    }

    /// Puts messages that were in flight back before the others of their class, in the order of their first time.
    pub(super) fn give_back(&mut self, flights: Vec<Queued>) {
        for queued in flights {
            if !queued.is_stored() {
                self.bytes += queued.size();
            }
            let returned = &mut self.lane(queued.class).returned;
            let place = returned.partition_point(|other| other.order < queued.order);
            returned.insert(place, queued);
        }
        self.trim();
    }

    /// The connection is gone: live messages are not for the next one.
    pub(super) fn drop_live(&mut self) {
        self.live_bytes = 0;
        std::mem::take(&mut self.live).into_iter().for_each(|queued| queued.finish(Outcome::Offline));
    }

    /// The next message to send, of at most `room` bytes.
    pub(super) fn pop(&mut self, room: usize) -> Option<Queued> {
        if !self.live.is_empty() {
            return self.pop_live(room);
        }
        if self.pause().is_some() {
            return None;
        }
        let mut next = Class::ALL.into_iter().find_map(|class| self.next(class))?;
        if next.order == 0 {
            self.launched += 1;
            next.order = self.launched;
        }
        if next.size() > room {
            self.give_back(vec![next]);
            return None;
        }
        Some(next)
    }

    /// The next live message to send, of at most `room` bytes.
    pub(super) fn pop_live(&mut self, room: usize) -> Option<Queued> {
        let live = self.live.pop_front_if(|live| live.size() <= room)?;
        self.live_bytes -= live.size();
        Some(live)
    }

    fn next(&mut self, class: Class) -> Option<Queued> {
        if let Some(next) = self.lane(class).next() {
            if !next.is_stored() {
                self.bytes -= next.size();
            }
            return Some(next);
        }
        let (key, record) = self.outbox.as_mut()?.take(class)?;
        let message = Message {
            topic: record.topic,
            payload: record.payload,
            qos: record.qos,
            retain: record.retain,
            delivery: Delivery::Durable,
        };
        Some(Queued::stored(message, class, key, self.settled.clone()))
    }

    /// The broker has no room now: only live messages go out for a while. One pause for all that it says so of at once.
    pub(super) fn busy(&mut self, longest: Duration) {
        if self.pause().is_none() {
            let pause = PAUSE.saturating_mul(2u32.saturating_pow(self.pauses)).min(longest);
            self.pauses = self.pauses.saturating_add(1);
            self.paused = Some(Instant::now() + pause);
        }
    }

    /// The broker has taken a message: the next pause is a short one again. A pause that has begun goes on.
    pub(super) fn relieved(&mut self) {
        self.pauses = 0;
    }

    /// Until when nothing but live messages goes out.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.paused.filter(|until| *until > Instant::now())
    }

    /// The broker will never take it.
    pub(super) fn refuse(&mut self, queued: Queued, reason: String) {
        if !queued.is_stored() {
            self.lane(queued.class).refused += 1;
        }
        queued.finish(Outcome::Refused(reason));
    }

    /// Nothing waits, neither here nor on disk.
    pub(super) fn is_empty(&self) -> bool {
        let stored = self.outbox.as_ref().map_or(0, |outbox| outbox.total().messages);
        self.live.is_empty() && stored == 0 && self.lanes.iter().all(Lane::is_empty)
    }

    /// Adds what waits and what was lost, of each class and in all.
    pub(super) fn count(&self, counters: &mut Counters) {
        for (class, lane) in Class::ALL.into_iter().zip(&self.lanes) {
            let stored = self.outbox.as_ref().map_or_else(Stats::default, |outbox| outbox.stats(class));
            let here = || lane.returned.iter().chain(&lane.memory).filter(|queued| !queued.is_stored());
            let live = || self.live.iter().filter(|queued| queued.class == class);
            let bytes = here().chain(live()).map(Queued::size).sum::<usize>() as u64;
            let messages = (here().count() + live().count()) as u64;
            let (dropped, refused) = (lane.dropped, lane.refused);
            let stats = stored + Stats { messages, bytes, dropped, refused, ..Stats::default() };
            counters.queued += stats.messages;
            counters.queued_bytes += stats.bytes;
            counters.dropped += stats.dropped;
            counters.refused += stats.refused;
            counters.damaged += stats.damaged;
            counters.classes[class as usize] = stats;
        }
        counters.degraded = self.outbox.as_ref().and_then(Outbox::degraded).map(str::to_owned);
    }

    fn lane(&mut self, class: Class) -> &mut Lane {
        &mut self.lanes[class as usize]
    }

    fn trim(&mut self) {
        while self.live_bytes > self.cap
            && let Some(oldest) = self.pop_live(usize::MAX)
        {
            self.drop_full(oldest);
        }
        while self.bytes > self.cap
            && let Some(least) = self.lanes.iter_mut().rev().find_map(Lane::oldest)
        {
            self.bytes -= least.size();
            self.drop_full(least);
        }
    }

    fn drop_full(&mut self, queued: Queued) {
        self.lane(queued.class).dropped += 1;
        queued.finish(Outcome::Dropped);
    }
}

#[cfg(test)]
mod tests;
