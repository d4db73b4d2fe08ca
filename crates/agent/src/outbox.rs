//! Messages that must not be lost: kept on disk until the broker has acknowledged them.
//!
//! A log per [`Class`], each a row of append-only segments of which only the last grows. Nothing is sent before it is
//! on disk, so that no number is given twice; except while the disk cannot be written, when messages wait in memory,
//! bounded, and [`Outbox::degraded`] says why.
//!
//! This type does no writing but that of its cursor, and never waits: [`Outbox::plan`] says what to write,
//! [`Plan::execute`] does it on any thread, [`Outbox::committed`] takes the result. Memory stays flat however much
//! waits.

mod class;
mod cursor;
mod disk;
#[cfg(test)]
pub(crate) mod faulty;
mod followers;
mod format;
mod log;
mod message;
#[cfg(test)]
mod model;
mod open;
mod pending;
mod plan;
mod refused;
mod segment;
mod stats;
mod streams;
mod tally;

use std::{collections::VecDeque, io, sync::Arc};

use protocol::Timestamp;
use tracing::{error, info, warn};

use crate::clock::Clock;
pub use crate::config::Qos;
pub use class::Class;
pub(crate) use disk::apart;
pub use disk::{Disk, Folder};
pub use message::{Draft, Fate, Key, Record};
pub use plan::Plan;
pub use refused::FILES as REFUSED;
pub use stats::Stats;
pub use tally::{Counts, Tally};

use log::{End, Log};
use pending::Pending;
use refused::Refused;
use segment::{Reader, Source};
use streams::Streams;

/// Most bytes that wait to be written, or for a disk that can be written: twice the longest line that is published.
const PENDING: u64 = 2 << 20;
/// Most bytes that are listed at once, beside the last message.
const LISTED: usize = 512 << 10;
/// The outbox is said to be full once, and again after it was this much of its size.
const ROOMY: f64 = 0.5;

/// The outbox.
#[derive(Debug)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    cap: u64,
    clock: Clock,
    logs: [Log; Class::ALL.len()],
    streams: Streams,
    refused: Refused,
    /// Files kept to be looked at, with their sizes, the oldest first.
    aside: VecDeque<(String, u64)>,
    /// A plan is being executed.
    executing: bool,
    /// What is on disk is known.
    open: bool,
    /// The lengths of all files are known.
    measured: bool,
    /// What is in the folder, as it was seen last, survives a power cut.
    names_safe: bool,
    degraded: Option<String>,
    /// Told to be full.
    full: bool,
}

impl Outbox {
    /// Opens what is on `disk`, at most `cap` bytes of it. Never fails: while the disk cannot be used, messages wait in
    /// memory.
    pub fn open(disk: Arc<dyn Disk>, cap: u64, clock: Clock) -> Self {
        let mut outbox = Self {
            disk,
            cap,
            clock,
            logs: Class::ALL.map(Log::empty),
            streams: Streams::default(),
            refused: Refused::default(),
            aside: VecDeque::new(),
            executing: false,
            open: false,
            measured: true,
            names_safe: false,
            degraded: None,
            full: false,
        };
        outbox.is_open();
        outbox
    }

    /// Whether one more topic can have numbers, where this one has none yet: 4096 can, and none is ever forgotten.
    /// [`Outbox::push`] does not ask, so whoever lets others name topics has to.
    pub fn has_room_for_topic(&self, topic: &str) -> bool {
        self.streams.has_room_for(topic)
    }

    /// Whether the last attempt to read what waits has failed.
    pub fn is_unreadable(&self) -> bool {
        self.logs.iter().any(|log| log.unreadable)
    }

    /// Takes a message, dropping what is less important and older where there is no room; itself where all else is
    /// more important. It is on disk after the next commit; `tally` counts what becomes of it.
    pub fn push(&mut self, draft: Draft<'_>, tally: Option<&Arc<Tally>>) {
        let Draft { class, topic, qos, retain, payload } = draft;
        let seq = self.streams.next(&topic);
        let payload = payload(seq);
        self.add(class, Record { topic, payload, qos, retain }, seq, tally);
    }

    /// As [`Outbox::push`], for a message without a number.
    pub fn push_plain(&mut self, class: Class, record: Record, tally: Option<&Arc<Tally>>) {
        self.add(class, record, 0, tally);
    }

    fn add(&mut self, class: Class, record: Record, seq: u64, tally: Option<&Arc<Tally>>) {
        let in_memory = self.degraded.is_some();
        if let Some(tally) = tally {
            tally.update(|counts| {
                counts.taken += 1;
                counts.in_memory += u64::from(in_memory);
            });
        }
        let pending = Pending { record, seq, tally: tally.cloned(), in_memory };
        let too_large = pending.size() as u64 > self.largest() || pending.record.topic.len() > 0xffff;
        let log = &mut self.logs[class as usize];
        log.push_pending(pending);
        if too_large {
            error!(%class, "a message is too large for the outbox, and dropped; see outbox.max_size");
            log.drop_pending(log.pending.len() - 1);
        }
        while self.pending() > PENDING.min(self.cap) {
            let unplanned = |class: &Class| {
                let log = &self.logs[*class as usize];
                log.pending.len() > log.planned
            };
            let Some(class) = Class::ALL.into_iter().rev().find(unplanned) else { break };
            let log = &mut self.logs[class as usize];
            log.drop_pending(log.planned);
            self.tell_full();
        }
    }

    /// Bytes that wait to be written.
    fn pending(&self) -> u64 {
        self.logs.iter().map(|log| log.pending_bytes).sum()
    }

    /// Most bytes of one record.
    fn largest(&self) -> u64 {
        (self.cap / 4).min(PENDING)
    }

    /// Most bytes (topic and payload) of a message that can ever be taken.
    pub fn largest_message(&self) -> usize {
        usize::try_from(self.largest()).unwrap_or(usize::MAX) - format::HEAD
    }

    /// Whether a message of so many bytes (topic and payload) can ever be taken.
    pub fn takes(&self, size: usize) -> bool {
        (size + format::HEAD) as u64 <= self.largest()
    }

    /// A segment ends at this size: each is a small part of what may be there, since it goes as a whole.
    fn segment_size(&self) -> u64 {
        (self.cap / 64).clamp(4 << 10, 4 << 20)
    }

    /// A file of refused messages ends at this size.
    fn refused_size(&self) -> u64 {
        (self.cap / 32).clamp(4 << 10, 4 << 20)
    }

    /// Whether a message of so many bytes (topic and payload) has room without anything being dropped.
    pub fn has_room(&self, size: usize) -> bool {
        let more = self.pending() + (size + format::HEAD) as u64;
        if more > PENDING.min(self.cap) || self.degraded.is_some() {
            return more <= PENDING.min(self.cap);
        }
        // Whatever is in the files that hold nothing that waits can go.
        let idle = self.logs.iter().filter(|log| log.waiting() == 0).flat_map(|log| &log.segments);
        let idle: u64 = idle.map(|segment| plan::pages(segment.size)).sum();
        // Each class may begin a segment.
        self.used() - idle + plan::pages(more) + plan::pages(1) * Class::ALL.len() as u64 <= self.cap
    }

    /// The next message of this class that has not been taken. It stays until it is settled.
    pub fn take(&mut self, class: Class) -> Option<(Key, Record)> {
        let log = &mut self.logs[class as usize];
        match log.take(&*self.disk) {
            Ok(Some((index, record))) => return Some((Key::Disk { class, index }, record)),
            Ok(None) => {}
            Err(_) => return None,
        }
        // What is being written may be on disk in a moment, and goes before what has come since.
        if self.degraded.is_none() || log.has_more() || log.planned > 0 {
            return None;
        }
        let Pending { record, tally, .. } = log.pop_pending()?;
        log.held += 1;
        Some((Key::Memory { class, tally }, record))
    }

    /// Tells what became of a message that was taken.
    pub fn settle(&mut self, key: Key, fate: Fate) {
        let (class, index) = match &key {
            Key::Disk { class, index } => (*class, Some(*index)),
            Key::Memory { class, .. } => (*class, None),
        };
        let log = &mut self.logs[class as usize];
        if let Key::Memory { tally, .. } = key {
            log.settle_held(tally.as_deref(), matches!(fate, Fate::Sent));
        }
        match fate {
            Fate::Sent => {
                if let Some(index) = index {
                    log.settle(index, End::Sent);
                }
            }
            Fate::Refused { record, reason } => {
                let time = Timestamp::from_system_time(self.clock.now());
                let most = self.refused_size() as usize;
                let text = refused::line(class, &record, &reason, time, most);
                for gone in self.refused.push(refused::Line { class, index, text }) {
                    self.settle_refused(&gone);
                }
            }
        }
    }

    /// A refused message is set aside, or can't be.
    fn settle_refused(&mut self, line: &refused::Line) {
        if let Some(index) = line.index {
            self.logs[line.class as usize].settle(index, End::Refused);
        }
    }

    /// Writes down how far the broker has acknowledged, where that has changed. Once for many acknowledgements: what
    /// is not written down is sent again by the next process.
    pub fn note(&mut self) {
        if self.open
            && let Err(error) = self.try_note()
        {
            tracing::debug!(%error, "cannot write down what the broker has acknowledged");
        }
    }

    fn try_note(&mut self) -> io::Result<()> {
        self.logs.iter_mut().try_for_each(|log| log.note(&*self.disk))
    }

    /// The plan has been executed.
    pub fn committed(&mut self, plan: Plan, result: io::Result<()>) {
        drop(plan);
        self.executing = false;
        let lines: Vec<_> = match &result {
            Ok(()) => self.refused.lines.drain(..self.refused.planned).collect(),
            Err(_) => Vec::new(),
        };
        self.refused.planned = 0;
        match result {
            Ok(()) => {
                self.names_safe = true;
                self.logs.iter_mut().for_each(Log::committed);
                lines.iter().for_each(|line| self.settle_refused(line));
                if self.degraded.take().is_some() {
                    info!("the outbox is on disk again");
                }
                self.full &= self.used() as f64 > self.cap as f64 * ROOMY;
            }
            Err(error) => {
                self.logs.iter_mut().for_each(Log::failed);
                self.refused.purge |= self.refused.purging;
                self.degrade(&error);
                (self.measured, self.names_safe) = (false, false);
            }
        }
        self.note();
    }

    fn degrade(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.degraded.is_none() {
            error!(error = why, "the outbox cannot be written: messages wait in memory");
            self.logs.iter_mut().for_each(Log::tell_in_memory);
        }
        self.degraded = Some(why);
        self.logs.iter_mut().for_each(Log::doubt);
        // They must not block what stands behind them.
        for line in std::mem::take(&mut self.refused.lines) {
            self.settle_refused(&line);
            self.refused.lines.push_back(refused::Line { index: None, ..line });
        }
    }

    fn tell_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            warn!("the outbox is full: the least important and oldest messages are dropped");
        }
    }

    /// Why messages wait in memory instead of on disk.
    pub fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// What waits of each class.
    pub fn stats(&self, class: Class) -> Stats {
        self.logs[class as usize].stats()
    }

    /// What waits in all.
    pub fn total(&self) -> Stats {
        self.logs.iter().map(Log::stats).fold(Stats::default(), |sum, stats| sum + stats)
    }

    /// Most bytes on disk.
    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// Messages on disk of a class that wait, from index `from` on, oldest first, at most `limit`; fewer where they are
    /// large.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn list(&self, class: Class, from: u64, limit: usize) -> io::Result<Vec<(u64, Record)>> {
        let log = &self.logs[class as usize];
        let (mut listed, mut bytes) = (Vec::new(), 0);
        for segment in log.segments.iter().filter(|segment| segment.next > from) {
            let source = Source::new(&*self.disk, class, segment);
            let mut reader = Reader::default();
            reader.open(segment.generation, &source)?;
            while let Some(found) = reader.next(&source)? {
                let index = found.head.index;
                if listed.len() == limit || bytes > LISTED {
                    return Ok(listed);
                }
                let wanted = index >= from && !log.has_met_end(index);
                if let Some(record) = found.record.filter(|_| wanted) {
                    bytes += format::size(&record);
                    listed.push((index, record));
                }
            }
        }
        Ok(listed)
    }

    /// Forgets what waits of these classes, counted as dropped; tells how many.
    pub fn purge(&mut self, classes: &[Class]) -> u64 {
        let mut purged = 0;
        for class in classes {
            let log = &mut self.logs[*class as usize];
            purged += log.forget(log.next());
            while log.pending.len() > log.planned {
                log.drop_pending(log.planned);
                purged += 1;
            }
        }
        self.note();
        purged
    }

    /// Forgets the messages that were set aside, with the next plan.
    pub fn purge_refused(&mut self) {
        self.refused.purge = true;
    }
}

#[cfg(test)]
mod tests;
