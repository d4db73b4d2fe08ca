//! Counts what becomes of the messages of one sender.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many messages of one sender came how far. `taken` is the sum of `on_disk`, `in_memory`, `dropped` and those
/// that are still being written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Handed over.
    pub taken: u64,
    /// Written and synced.
    pub on_disk: u64,
    /// Waiting in memory, since the disk could not be written; also those that were sent from there.
    pub in_memory: u64,
    /// Dropped before they were written, since there was no room.
    pub dropped: u64,
    /// Acknowledged by the broker.
    pub acknowledged: u64,
    /// Refused by the broker for good, or dropped later to make room.
    pub failed: u64,
}

impl Counts {
    /// Every one has been written, or never will be.
    pub fn is_stored(&self) -> bool {
        self.taken == self.on_disk + self.in_memory + self.dropped
    }

    /// Every one has met its end.
    pub fn is_settled(&self) -> bool {
        self.taken == self.acknowledged + self.failed + self.dropped
    }
}

/// Follows the messages of one sender. Costs memory for what is being written, and a bit for each message that waits.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<Counts>,
    changed: Notify,
}

impl Tally {
    /// How many came how far.
    pub fn counts(&self) -> Counts {
        *self.lock()
    }

    /// Waits until the counts are as wanted.
    pub async fn wait(&self, mut wanted: impl FnMut(&Counts) -> bool) -> Counts {
        loop {
            let changed = self.changed.notified();
            let counts = self.counts();
            if wanted(&counts) {
                return counts;
            }
            changed.await;
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
