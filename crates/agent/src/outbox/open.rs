//! Finding out what is on disk: at the start, and again after a failure.

use std::io;

use tracing::error;

use super::{
    Class, Outbox,
    cursor::{self, Cursor},
    log::Log,
    refused,
    segment::Segment,
    streams,
};

/// In the name of a segment that is kept to be looked at.
const ASIDE: &str = ".log.";
/// More records than a segment can have: the smallest take 32 bytes, the largest segment 4 MiB.
const RECORDS: u64 = 1 << 20;

impl Outbox {
    /// Whether what is on disk is known; finds out, where that has failed so far.
    pub(super) fn is_open(&mut self) -> bool {
        if !self.open {
            match self.load() {
                Ok(()) => self.open = true,
                Err(error) => self.degrade(&error),
            }
        }
        self.open
    }

    /// Finds out what is on disk. What waits in memory stays there.
    fn load(&mut self) -> io::Result<()> {
        let files = self.disk.list()?;
        let mut segments = Class::ALL.map(|_| Vec::new());
        self.aside.clear();
        let mut streams = None;
        for (name, size) in files {
            match name.as_str() {
                streams::FILE => streams = Some(size),
                refused::FILE => self.refused.size = size,
                refused::OLD_FILE => self.refused.old_size = size,
                _ => match Segment::parse(&name, size) {
                    Some((class, segment)) => segments[class as usize].push(segment),
                    None if name.contains(ASIDE) => self.aside.push_back((name, size)),
                    None if name.ends_with(".tmp") => self.disk.remove(&name)?,
                    None => {}
                },
            }
        }
        let whole = self.streams.read(&*self.disk, streams)?;
        let cursors = Cursor::read_all(&*self.disk)?;
        let mut logs = Vec::new();
        for (class, (mut found, cursor)) in Class::ALL.into_iter().zip(segments.into_iter().zip(cursors)) {
            found.sort_by_key(|segment| (segment.generation, segment.first));
            self.set_strangers_aside(class, &mut found);
            let log = Log::open(class, found.into(), cursor, &*self.disk, &mut self.streams)?;
            if !whole {
                log.find_numbers(&*self.disk, &mut self.streams)?;
            }
            logs.push(log);
        }
        for (log, slot) in logs.into_iter().zip(&mut self.logs) {
            let waiting = std::mem::replace(slot, log);
            slot.adopt(waiting);
        }
        Ok(())
    }

    /// Files that cannot follow on the one before, by their names: nobody knows what the indexes in them mean.
    fn set_strangers_aside(&mut self, class: Class, found: &mut Vec<Segment>) {
        let (mut kept, mut strangers) = (Vec::<Segment>::new(), Vec::new());
        for segment in found.drain(..) {
            let follows = |last: &Segment| {
                last.generation < segment.generation
                    && (last.first..=last.first.saturating_add(RECORDS)).contains(&segment.first)
            };
            if kept.last().is_none_or(follows) { kept.push(segment) } else { strangers.push(segment) }
        }
        *found = kept;
        for stranger in strangers {
            let name = stranger.name(class);
            error!(file = name, "set aside a file that does not belong into the outbox");
            let aside = format!("{name}.damaged");
            // A disk that cannot be written is still to be sent from.
            match self.disk.rename(&name, &aside) {
                Ok(()) => self.aside.push_back((aside, stranger.size)),
                Err(error) => tracing::debug!(%error, "it stays where it is"),
            }
        }
    }

    /// Whether the lengths of all files are known; looks, after a failure. Files that nobody knows then are of the
    /// plan that failed.
    pub(super) fn is_measured(&mut self) -> bool {
        if !self.measured {
            match self.measure() {
                Ok(()) => self.measured = true,
                Err(error) => self.degrade(&error),
            }
        }
        self.measured
    }

    fn measure(&mut self) -> io::Result<()> {
        let mut files = self.disk.list()?;
        // The latest of a log is removed first: after a power cut there is no gap before one that is still there.
        files.sort_unstable_by(|one, other| other.cmp(one));
        (self.refused.size, self.refused.old_size) = (0, 0);
        self.aside.clear();
        let mut unknown = Vec::new();
        for (name, size) in files {
            match name.as_str() {
                refused::FILE => self.refused.size = size,
                refused::OLD_FILE => self.refused.old_size = size,
                _ if name.contains(ASIDE) => self.aside.push_front((name, size)),
                _ => {
                    let Some((class, found)) = Segment::parse(&name, size) else { continue };
                    let log = &mut self.logs[class as usize];
                    match log.segments.iter_mut().find(|segment| segment.generation == found.generation) {
                        Some(known) => known.size = size,
                        None => unknown.push((name, found.first >= log.next())),
                    }
                }
            }
        }
        if !unknown.is_empty() {
            // Counts and numbers may be known to these alone.
            match self.make_known() {
                // What they hold is in memory: they must not be what fills the disk for ever.
                Err(error) if streams::is_full(&error) => {
                    unknown
                        .iter()
                        .filter(|(_, new)| *new)
                        .try_for_each(|(name, _)| self.disk.remove(name))?;
                    self.make_known()?;
                }
                other => other?,
            }
        }
        unknown.iter().try_for_each(|(name, _)| self.disk.remove(name))
    }

    /// Makes counts and numbers safe.
    fn make_known(&mut self) -> io::Result<()> {
        self.try_note()?;
        self.disk.write_synced(cursor::FILE, 0, &[])?;
        streams::write(&*self.disk, &self.streams.encode())
    }
}
