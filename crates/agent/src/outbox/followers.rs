//! Who is told what becomes of which record.

use std::{collections::VecDeque, sync::Arc};

use super::{Tally, log::End};

/// Records of one sender that wait for their end: a bit for each index, so that senders who take turns cost little.
#[derive(Debug)]
struct Follower {
    tally: Arc<Tally>,
    /// The index of the first bit.
    first: u64,
    bits: VecDeque<u64>,
}

impl Follower {
    /// Where the bit of this index is.
    fn place(&self, index: u64) -> Option<(usize, u64)> {
        let ahead = index.checked_sub(self.first)?;
        Some((usize::try_from(ahead / 64).ok()?, 1 << (ahead % 64)))
    }

    fn add(&mut self, index: u64) {
        let Some((word, bit)) = self.place(index) else { return };
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= bit;
    }

    /// Whether it was there.
    fn remove(&mut self, index: u64) -> bool {
        let Some((word, bit)) = self.place(index) else { return false };
        let Some(bits) = self.bits.get_mut(word).filter(|bits| **bits & bit != 0) else { return false };
        *bits &= !bit;
        while self.bits.pop_front_if(|bits| *bits == 0).is_some() {
            self.first += 64;
        }
        true
    }
}

/// Senders whose records wait.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Follower>);

impl Followers {
    /// From now on `tally` is told of the record at `index`, the highest so far.
    pub(super) fn follow(&mut self, index: u64, tally: Arc<Tally>) {
        if let Some(known) = self.0.iter_mut().rfind(|follower| Arc::ptr_eq(&follower.tally, &tally)) {
            return known.add(index);
        }
        // Whose sender is gone is told to nobody.
        self.0.retain(|follower| Arc::strong_count(&follower.tally) > 1);
        self.0.push(Follower { tally, first: index, bits: VecDeque::from([1]) });
    }

    /// Tells whoever follows this record how it ended.
    pub(super) fn tell(&mut self, index: u64, end: End) {
        let Some(at) = self.0.iter_mut().position(|follower| follower.remove(index)) else { return };
        self.0[at].tally.update(|counts| match end {
            End::Sent => counts.acknowledged += 1,
            End::Refused | End::Dropped | End::Damaged => counts.failed += 1,
        });
        if self.0[at].bits.is_empty() {
            self.0.remove(at);
        }
    }
}
