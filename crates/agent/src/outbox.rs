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
mod disk;
#[cfg(test)]
mod faulty;
mod tally;

use std::{io, sync::Arc};

pub use crate::config::Qos;
pub use class::Class;
pub use disk::{Disk, Folder};
pub use tally::{Counts, Tally};

/// A message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic name.
    pub topic: String,
    /// Payload, byte for byte what is sent each time.
    pub payload: Vec<u8>,
    /// At least once, or exactly once.
    pub qos: Qos,
    /// Kept by the broker.
    pub retain: bool,
}

/// Whose a message is that has been taken to be sent; goes back by [`Outbox::settle`].
#[derive(Debug)]
pub enum Key {
    /// It stays on disk until settled.
    Disk {
        /// Its log.
        class: Class,
        /// Its place there.
        index: u64,
    },
    /// It could not be written: this copy is all there is.
    Memory {
        /// Its class.
        class: Class,
        /// Who counts what becomes of it.
        tally: Option<Arc<Tally>>,
    },
}

/// What became of a message that was taken.
#[derive(Debug)]
pub enum Fate {
    /// The broker has it.
    Sent,
    /// The broker will never take it: set aside.
    Refused {
        /// The message.
        record: Record,
        /// The broker's, or our, reason.
        reason: String,
    },
}

/// A message on its way into the outbox.
pub struct Draft<'a> {
    /// How important it is.
    pub class: Class,
    /// Where it goes. Numbers count by topic.
    pub topic: String,
    /// At least once, or exactly once.
    pub qos: Qos,
    /// Kept by the broker.
    pub retain: bool,
    /// Makes the payload from the message's number: from 1 for each topic, without gaps, across restarts.
    pub payload: &'a mut dyn FnMut(u64) -> Vec<u8>,
}

/// What waits, of one class or of all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Messages not acknowledged yet.
    pub messages: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Dropped since the outbox was made because it was full.
    pub dropped: u64,
    /// Set aside because the broker will never take them.
    pub refused: u64,
    /// Lost to a damaged disk.
    pub damaged: u64,
}

/// The outbox.
#[derive(Debug)]
pub struct Outbox {}

/// What is to be written next.
#[derive(Debug)]
pub struct Plan {}

impl Plan {
    /// Writes. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// The first thing that could not be done; nothing of the plan counts as written then.
    pub fn execute(&self, _disk: &dyn Disk) -> io::Result<()> {
        todo!()
    }
}

impl Outbox {
    /// Opens what is on `disk`, at most `cap` bytes of it. Never fails: what cannot be used is degraded to memory.
    pub fn open(_disk: Arc<dyn Disk>, _cap: u64) -> Self {
        todo!()
    }

    /// Takes a message, dropping what is less important and older where there is no room; itself where all else is
    /// more important. It is on disk after the next commit; `tally` counts what becomes of it.
    pub fn push(&mut self, _draft: Draft<'_>, _tally: Option<&Arc<Tally>>) {
        todo!()
    }

    /// Whether a message of so many bytes (topic and payload) has room without anything being dropped.
    pub fn has_room(&self, _size: usize) -> bool {
        todo!()
    }

    /// The next message of this class that has not been taken. It stays until it is settled.
    pub fn take(&mut self, _class: Class) -> Option<(Key, Record)> {
        todo!()
    }

    /// Something may be taken.
    pub fn is_drained(&self) -> bool {
        todo!()
    }

    /// Tells what became of a message that was taken.
    pub fn settle(&mut self, _key: Key, _fate: Fate) {
        todo!()
    }

    /// Writes down how far the broker has acknowledged, where that has changed. Once for many acknowledgements: what
    /// is not written down is sent again by the next process.
    pub fn note(&mut self) {
        todo!()
    }

    /// What is to be written; none when nothing is, or while a plan is being executed.
    pub fn plan(&mut self) -> Option<Plan> {
        todo!()
    }

    /// The plan has been executed.
    pub fn committed(&mut self, _plan: Plan, _result: io::Result<()>) {
        todo!()
    }

    /// Why messages wait in memory instead of on disk.
    pub fn degraded(&self) -> Option<&str> {
        todo!()
    }

    /// What waits of each class.
    pub fn stats(&self, _class: Class) -> Stats {
        todo!()
    }

    /// What waits in all.
    pub fn total(&self) -> Stats {
        todo!()
    }

    /// Most bytes on disk.
    pub fn cap(&self) -> u64 {
        todo!()
    }

    /// Waiting messages of a class from `index` on, oldest first, at most `limit`: their index, record and number.
    pub fn list(&self, _class: Class, _from: u64, _limit: usize) -> Vec<(u64, Record)> {
        todo!()
    }

    /// Forgets what waits of these classes, counted as dropped; tells how many.
    pub fn purge(&mut self, _classes: &[Class]) -> u64 {
        todo!()
    }
}
