//! What waits, and what was counted.

use std::ops::Add;

use serde::Serialize;

/// What waits, of one class or of all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages not acknowledged yet.
    pub messages: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Acknowledged by the broker since the outbox was made.
    pub sent: u64,
    /// Dropped since the outbox was made because it was full.
    pub dropped: u64,
    /// Set aside because the broker will never take them.
    pub refused: u64,
    /// Lost to a damaged disk.
    pub damaged: u64,
}

impl Add for Stats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            bytes: self.bytes + other.bytes,
            sent: self.sent + other.sent,
            dropped: self.dropped + other.dropped,
            refused: self.refused + other.refused,
            damaged: self.damaged + other.damaged,
        }
    }
}
