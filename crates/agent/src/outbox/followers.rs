//! Who is told what becomes of which record.

use std::{ops::Range, sync::Arc};

use super::{Tally, log::End};

/// Records of one sender that wait for their end.
#[derive(Debug)]
struct Follower {
    indexes: Range<u64>,
    left: u64,
    tally: Arc<Tally>,
}

/// Senders by index.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Follower>);

impl Followers {
    /// From now on `tally` is told of the record at `index`, the highest so far.
    pub(super) fn follow(&mut self, index: u64, tally: Arc<Tally>) {
        if let Some(last) = self.0.last_mut()
            && last.indexes.end == index
            && Arc::ptr_eq(&last.tally, &tally)
        {
            last.indexes.end += 1;
            last.left += 1;
            return;
        }
        // Whose sender is gone is told to nobody.
        self.0.retain(|follower| Arc::strong_count(&follower.tally) > 1);
        self.0.push(Follower { indexes: index..index + 1, left: 1, tally });
    }

    /// Tells whoever follows this record how it ended.
    pub(super) fn tell(&mut self, index: u64, end: End) {
        let Some(at) = self.0.iter().position(|follower| follower.indexes.contains(&index)) else { return };
        let follower = &mut self.0[at];
        follower.tally.update(|counts| match end {
            End::Sent => counts.acknowledged += 1,
            End::Refused | End::Dropped | End::Damaged => counts.failed += 1,
        });
        follower.left -= 1;
        if follower.left == 0 {
            self.0.remove(at);
        }
    }
}
