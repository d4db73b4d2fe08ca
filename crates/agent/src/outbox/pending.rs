//! Messages that are not on disk: not yet, or because it cannot be written.

use std::sync::Arc;

use super::{
    Record, Tally, format,
    log::{End, Log},
};

/// A message that is not on disk yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) record: Record,
    pub(super) seq: u64,
    pub(super) tally: Option<Arc<Tally>>,
    /// Its tally counts it as in memory.
    pub(super) in_memory: bool,
}

impl Pending {
    pub(super) fn size(&self) -> usize {
        format::size(&self.record)
    }

    fn tell_dropped(self) {
        if let Some(tally) = self.tally {
            tally.update(|counts| {
                counts.dropped += 1;
                counts.in_memory -= u64::from(self.in_memory);
            });
        }
    }
}

impl Log {
    pub(super) fn push_pending(&mut self, pending: Pending) {
        self.pending_bytes += pending.size() as u64;
        self.pending.push_back(pending);
    }

    /// Takes a message that is not on disk, nor in the plan.
    pub(super) fn pop_pending(&mut self) -> Option<Pending> {
        self.remove_pending(self.planned)
    }

    pub(super) fn remove_pending(&mut self, at: usize) -> Option<Pending> {
        let pending = self.pending.remove(at)?;
        self.pending_bytes -= pending.size() as u64;
        Some(pending)
    }

    /// Drops a message that is not on disk, nor in the plan.
    pub(super) fn drop_pending(&mut self, at: usize) {
        if let Some(pending) = self.remove_pending(at) {
            self.count(1, End::Dropped);
            pending.tell_dropped();
        }
    }

    /// A message that was taken from memory has met its end.
    pub(super) fn settle_held(&mut self, tally: Option<&Tally>, sent: bool) {
        self.held -= 1;
        self.count(1, if sent { End::Sent } else { End::Refused });
        if let Some(tally) = tally {
            tally.update(|counts| *(if sent { &mut counts.acknowledged } else { &mut counts.failed }) += 1);
        }
    }

    /// All that is not on disk waits in memory: its senders are told.
    pub(super) fn tell_in_memory(&mut self) {
        for pending in self.pending.iter_mut().filter(|pending| !pending.in_memory) {
            pending.in_memory = true;
            if let Some(tally) = &pending.tally {
                tally.update(|counts| counts.in_memory += 1);
            }
        }
    }
}
