//! The log of one class: which records wait, which have been taken, which have met their end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Range,
};

use super::{
    Class, Disk, Record, Stats,
    cursor::{Cursor, SPAN},
    followers::Followers,
    pending::Pending,
    segment::{Reader, Segment, Source},
    streams::Streams,
};

/// How a record that was on disk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Sent,
    Refused,
    Dropped,
    Damaged,
}

/// The log of one class.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) class: Class,
    /// In order; only the last grows.
    pub(super) segments: VecDeque<Segment>,
    /// The last segment may be appended to.
    pub(super) growing: bool,
    /// What the next segment is called.
    pub(super) generation: u64,
    /// Not on disk, the oldest first.
    pub(super) pending: VecDeque<Pending>,
    /// So many of them are in the plan.
    pub(super) planned: usize,
    /// Bytes of all that are pending.
    pub(super) pending_bytes: u64,
    /// Those that were taken from memory and have not met their end.
    pub(super) held: u64,
    cursor: Cursor,
    /// The cursor on disk is not this one.
    dirty: bool,
    /// Taken and not settled, with their sizes.
    taken: BTreeMap<u64, u32>,
    /// Taken, and dropped since: whoever has them may still send them.
    orphans: BTreeSet<u64>,
    reader: Reader,
    /// The next index to read.
    ahead: u64,
    /// The last attempt to read has failed.
    pub(super) unreadable: bool,
    followers: Followers,
}

impl Log {
    /// A log that knows of nothing on disk.
    pub(super) fn empty(class: Class) -> Self {
        Self {
            class,
            segments: VecDeque::new(),
            growing: false,
            generation: 0,
            pending: VecDeque::new(),
            planned: 0,
            pending_bytes: 0,
            held: 0,
            cursor: Cursor::default(),
            dirty: false,
            taken: BTreeMap::new(),
            orphans: BTreeSet::new(),
            reader: Reader::default(),
            ahead: 0,
            unreadable: false,
            followers: Followers::default(),
        }
    }

    /// Takes over what waited in memory, and what was counted, before the disk could be read.
    pub(super) fn adopt(&mut self, other: Self) {
        self.pending = other.pending;
        self.pending_bytes = other.pending_bytes;
        self.held = other.held;
        for (end, number) in [
            (End::Sent, other.cursor.sent),
            (End::Refused, other.cursor.refused),
            (End::Dropped, other.cursor.dropped),
        ] {
            self.count(number, end);
        }
    }

    /// The log of these segments, in order of their generations. Looks into the last one; what is in the others is
    /// known by where the next begins.
    pub(super) fn open(
        class: Class,
        mut segments: VecDeque<Segment>,
        cursor: Cursor,
        disk: &dyn Disk,
        streams: &mut Streams,
    ) -> io::Result<Self> {
        for at in 1..segments.len() {
            let first = segments[at].first;
            (segments[at - 1].next, segments[at - 1].planned) = (first, first);
        }
        let mut growing = false;
        let mut next = cursor.next.max(cursor.head);
        if let Some(last) = segments.back_mut() {
            growing = last.scan(class, disk, streams, next)?;
            if last.next < next {
                // Its end is gone: what was there is found to be damaged when it is its turn.
                (last.next, last.planned) = (next, next);
                growing = false;
            } else if last.next > next
                && let Err(error) = last.make_safe(class, disk, next)
            {
                // A disk that cannot be written is still to be sent from.
                tracing::debug!(%class, %error, "cannot make safe what the last process has written");
            }
            next = last.next;
        }
        let first = segments.front().map_or(next, |segment| segment.first);
        let generation = segments.iter().map(|segment| segment.generation + 1).max().unwrap_or(0);
        let cursor = Cursor { next, ..cursor };
        let mut log = Self { segments, growing, generation, cursor, ..Self::empty(class) };
        // What had met its end just before a power cut may be gone from the disk and not be in the cursor.
        log.cursor.head = log.cursor.head.max(first);
        log.cursor.done = log.cursor.done.split_off(&first);
        while log.cursor.done.remove(&log.cursor.head) {
            log.cursor.head += 1;
        }
        log.ahead = log.cursor.head;
        log.find_gone(disk)?;
        Ok(log)
    }

    /// How much of the segment that is being sent has been: it may be almost all of what is there.
    fn find_gone(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let head = self.cursor.head;
        let Some(at) = self.segments.iter().position(|segment| segment.next > head) else {
            self.segments.iter_mut().for_each(Segment::all_gone);
            return Ok(());
        };
        self.segments.iter_mut().take(at).for_each(Segment::all_gone);
        let source = Source::new(disk, self.class, &self.segments[at]);
        let mut reader = Reader::default();
        reader.open(0, &source)?;
        let mut gone = 0;
        while let Some(found) = reader.next(&source)? {
            if self.has_met_end(found.head.index) {
                gone += found.head.size() as u64;
            }
        }
        self.segments[at].gone = gone;
        Ok(())
    }

    /// Numbers that only the segments know.
    pub(super) fn find_numbers(&self, disk: &dyn Disk, streams: &mut Streams) -> io::Result<()> {
        for segment in &self.segments {
            segment.clone().scan(self.class, disk, streams, u64::MAX)?;
        }
        Ok(())
    }

    /// One more than the last index on disk.
    pub(super) fn next(&self) -> u64 {
        self.cursor.next
    }

    /// Records on disk that have not met their end.
    pub(super) fn waiting(&self) -> u64 {
        self.next() - self.cursor.head - self.cursor.done.len() as u64
    }

    pub(super) fn has_met_end(&self, index: u64) -> bool {
        index < self.cursor.head || self.cursor.done.contains(&index)
    }

    pub(super) fn stats(&self) -> Stats {
        let on_disk: u64 = self.segments.iter().map(Segment::waiting).sum();
        Stats {
            messages: self.waiting() + self.pending.len() as u64 + self.held,
            bytes: on_disk + self.pending_bytes,
            sent: self.cursor.sent,
            dropped: self.cursor.dropped,
            refused: self.cursor.refused,
            damaged: self.cursor.damaged,
        }
    }

    /// Something on disk can be taken now.
    pub(super) fn has_more(&self) -> bool {
        self.ahead < self.next() && self.ahead < self.cursor.head + SPAN
    }

    /// The next record that has been neither taken nor met its end. An error, which is told once, leaves everything as it
    /// was.
    pub(super) fn take(&mut self, disk: &dyn Disk) -> io::Result<Option<(u64, Record)>> {
        let taken = self.try_take(disk);
        let was = std::mem::replace(&mut self.unreadable, taken.is_err());
        if let (false, Err(error)) = (was, &taken) {
            tracing::error!(class = %self.class, %error, "cannot read the outbox");
        }
        taken
    }

    fn try_take(&mut self, disk: &dyn Disk) -> io::Result<Option<(u64, Record)>> {
        while self.has_more() {
            let ahead = self.ahead;
            let segment = self.segments.iter().find(|segment| segment.next > ahead);
            let Some(segment) = segment else { return Ok(None) };
            let source = Source::new(disk, self.class, segment);
            if self.reader.generation != Some(segment.generation) {
                self.reader.open(segment.generation, &source)?;
            }
            let found = self.reader.next(&source)?;
            let end = segment.next;
            self.note_trouble();
            let Some(found) = found else {
                self.ahead = end;
                self.end(ahead..end, End::Damaged);
                continue;
            };
            let index = found.head.index;
            if index < ahead {
                continue;
            }
            self.ahead = index + 1;
            self.end(ahead..index, End::Damaged);
            match found.record {
                None => self.end(index..index + 1, End::Damaged),
                Some(_) if self.has_met_end(index) => {}
                Some(record) => {
                    self.taken.insert(index, found.head.size() as u32);
                    return Ok(Some((index, record)));
                }
            }
        }
        if self.ahead >= self.next() {
            self.reader.release();
        }
        Ok(None)
    }

    /// Remembers that the segment being read is to be kept aside.
    fn note_trouble(&mut self) {
        let why = match (self.reader.newer, self.reader.skipped) {
            (Some(version), _) => format!("version-{version}"),
            (None, true) => "damaged".to_owned(),
            (None, false) => return,
        };
        let generation = self.reader.generation;
        let segment = self.segments.iter_mut().find(|segment| Some(segment.generation) == generation);
        if let Some(segment) = segment.filter(|segment| segment.aside.is_none()) {
            tracing::error!(file = segment.name(self.class), why, "cannot read all of an outbox segment");
            segment.aside = Some(why);
        }
    }

    /// A record that was taken has met its end.
    pub(super) fn settle(&mut self, index: u64, end: End) {
        let size = self.taken.remove(&index).unwrap_or(0);
        if self.orphans.remove(&index) {
            // It was counted as dropped, and was on its way after all.
            self.cursor.dropped -= 1;
            self.count(1, end);
        } else if !self.has_met_end(index) {
            let segment = self.segments.iter_mut().find(|segment| segment.next > index);
            if let Some(segment) = segment {
                segment.gone += u64::from(size);
            }
            self.end(index..index + 1, end);
        }
    }

    /// These met their end; those that had met it before are passed over.
    fn end(&mut self, indexes: Range<u64>, end: End) {
        let Self { cursor, .. } = self;
        let indexes = indexes.start.max(cursor.head)..indexes.end;
        if indexes.is_empty() {
            return;
        }
        let fresh: Vec<u64> = if indexes.start == cursor.head {
            let already = cursor.done.range(indexes.clone()).copied().collect::<BTreeSet<_>>();
            let fresh = indexes.clone().filter(|index| !already.contains(index)).collect();
            cursor.head = indexes.end;
            cursor.done = cursor.done.split_off(&indexes.end);
            fresh
        } else {
            indexes.filter(|index| cursor.done.insert(*index)).collect()
        };
        while cursor.done.remove(&cursor.head) {
            cursor.head += 1;
        }
        self.ahead = self.ahead.max(self.cursor.head);
        self.count(fresh.len() as u64, end);
        fresh.into_iter().for_each(|index| self.followers.tell(index, end));
    }

    pub(super) fn count(&mut self, number: u64, end: End) {
        let Cursor { sent, refused, dropped, damaged, .. } = &mut self.cursor;
        *match end {
            End::Sent => sent,
            End::Refused => refused,
            End::Dropped => dropped,
            End::Damaged => damaged,
        } += number;
        self.dirty = true;
    }

    /// The oldest segment goes, with what waits in it. What has been taken from it may still be sent.
    pub(super) fn drop_oldest(&mut self) -> Option<Segment> {
        let segment = self.segments.front()?.clone();
        self.forget(segment.next);
        self.growing &= self.segments.len() > 1;
        self.segments.pop_front()
    }

    /// Drops whatever waits before `index`; tells how many.
    pub(super) fn forget(&mut self, index: u64) -> u64 {
        let before = self.cursor.dropped;
        let taken: Vec<u64> = self.taken.range(..index).map(|(index, _)| *index).collect();
        let fresh = taken.into_iter().filter(|index| !self.has_met_end(*index));
        self.orphans.extend(fresh.collect::<Vec<_>>());
        for segment in self.segments.iter_mut().filter(|segment| segment.next <= index) {
            segment.all_gone();
        }
        self.end(self.cursor.head..index, End::Dropped);
        self.cursor.dropped - before
    }

    /// The oldest segment, where all in it has met its end and it does not grow any more.
    pub(super) fn pop_finished(&mut self) -> Option<Segment> {
        let first = self.segments.front()?;
        let last = self.segments.len() == 1;
        let finished = first.next <= self.cursor.head && !(last && (self.growing || first.is_planned()));
        if !finished {
            return None;
        }
        self.segments.pop_front()
    }

    /// The plan is on disk.
    pub(super) fn committed(&mut self) {
        self.dirty |= self.planned > 0;
        for segment in self.segments.iter_mut().filter(|segment| segment.is_planned()) {
            (segment.next, segment.len) = (segment.planned, segment.size);
        }
        for _ in 0..std::mem::take(&mut self.planned) {
            let Some(pending) = self.remove_pending(0) else { break };
            if let Some(tally) = pending.tally {
                tally.update(|counts| {
                    counts.on_disk += 1;
                    counts.in_memory -= u64::from(pending.in_memory);
                });
                self.followers.follow(self.cursor.next, tally);
            }
            self.cursor.next += 1;
        }
    }

    /// The plan is not on disk, or not known to be: what was to be written will be, to a new file.
    pub(super) fn failed(&mut self) {
        self.planned = 0;
        self.growing = false;
        self.segments.retain(|segment| segment.len > 0);
        for segment in &mut self.segments {
            segment.planned = segment.next;
        }
        self.tell_in_memory();
    }

    /// The cursor's sync may be what failed, and with it what was written.
    pub(super) fn doubt(&mut self) {
        self.dirty = true;
    }

    /// Writes the cursor down where it has changed.
    pub(super) fn note(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        self.cursor.write(disk, self.class)?;
        self.dirty = false;
        Ok(())
    }
}
