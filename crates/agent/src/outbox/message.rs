//! A message on its way in, as it is kept, and on its way out.

use std::sync::Arc;

use super::{Class, Qos, Tally};

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

/// Whose a message is that has been taken to be sent; goes back by [`Outbox::settle`](super::Outbox::settle).
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
#[allow(missing_debug_implementations, reason = "it lives for one call")]
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
