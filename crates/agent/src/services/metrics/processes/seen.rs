//! The processes that have been looked at, so that each is looked at once and not at every walk.
//!
//! A process is known by its number and the inode that `/proc` gives it, which comes with the listing: another process of the same
//! number has another. (The kernel may give the same process a new one when memory is short: then it is looked at once more.)

use std::{io, time::Duration};

use super::procfs::Proc;

/// For so long a process is looked at again at each walk: between its start and its name lies the `exec`.
const YOUNG: Duration = Duration::from_secs(20);

/// So many older ones are looked at again at each walk, in turn: an `exec` may come later, too.
const AGAIN: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Entry {
    pid: u32,
    /// When it was first seen, in seconds after boot.
    since: u32,
    inode: u64,
}

/// Those of the last walk.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By number.
    entries: Vec<Entry>,
    /// Those of the walk before; kept for its memory.
    before: Vec<Entry>,
    /// The last that was looked at in turn.
    turn: u32,
}

impl Seen {
    /// Lists the processes, and puts those to look at into `todo`. After an error it is as if there had been no walk.
    pub(super) fn walk(&mut self, proc: &mut Proc, now: Duration, todo: &mut Vec<u32>) -> io::Result<()> {
        let since = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        std::mem::swap(&mut self.entries, &mut self.before);
        self.entries.clear();
        if let Err(error) = proc.list(|pid, inode| self.entries.push(Entry { pid, since, inode })) {
            std::mem::swap(&mut self.entries, &mut self.before);
            return Err(error);
        }
        // So they come from the kernel, but not from the files of a test.
        self.entries.sort_unstable_by_key(|entry| entry.pid);
        let mut before = self.before.iter().peekable();
        let (after, mut left) = (self.turn, AGAIN);
        self.turn = 0;
        for entry in &mut self.entries {
            while before.next_if(|before| before.pid < entry.pid).is_some() {}
            if let Some(known) =
                before.peek().filter(|before| (before.pid, before.inode) == (entry.pid, entry.inode))
            {
                entry.since = known.since;
            }
            let young = u64::from(since.saturating_sub(entry.since)) < YOUNG.as_secs();
            let its_turn = !young && left > 0 && entry.pid > after;
            if its_turn {
                left -= 1;
                // Who is the last of a full turn is followed by the next; after one that is not full all begins anew.
                self.turn = if left == 0 { entry.pid } else { 0 };
            }
            if young || its_turn {
                todo.push(entry.pid);
            }
        }
        Ok(())
    }

    /// Looks at this one again at the next walk.
    pub(super) fn forget(&mut self, pid: u32) {
        if let Ok(place) = self.entries.binary_search_by_key(&pid, |entry| entry.pid) {
            // The kernel gives none this number.
            self.entries[place].inode = 0;
        }
    }

    /// Looks at all again.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}
