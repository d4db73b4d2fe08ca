//! A file of a log: what its name says, and reading it from front to back.

use std::{io, ops::Range};

use super::{
    Class, Disk, Record,
    format::{FILE_HEAD, Head, LIMIT, newer_version, resync},
    streams::Streams,
};

/// What is read at once; a larger record, whole.
const CHUNK: usize = 32 << 10;
/// The unit in which a failing disk fails.
const SECTOR: usize = 4 << 10;

/// A segment as it is known in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Later files have higher ones.
    pub(super) generation: u64,
    /// Index of its first record.
    pub(super) first: u64,
    /// Part of every sum in it.
    pub(super) salt: u32,
    /// One more than the index of its last record that is safe.
    pub(super) next: u64,
    /// Bytes of it that are safe.
    pub(super) len: u64,
    /// As `next`, when the plan is done that is being made or executed.
    pub(super) planned: u64,
    /// Bytes of its file, then; more than `len` also where it ends in rubble.
    pub(super) size: u64,
    /// Bytes of its records that have met their end.
    pub(super) gone: u64,
    /// Not all of it could be read, and why: kept aside when it is done with.
    pub(super) aside: Option<String>,
}

impl Segment {
    /// One to be written.
    pub(super) fn new(generation: u64, first: u64, salt: u32) -> Self {
        Self { generation, first, salt, next: first, len: 0, planned: first, size: 0, gone: 0, aside: None }
    }

    /// The segment, and the class, of a file of this name.
    pub(super) fn parse(name: &str, len: u64) -> Option<(Class, Self)> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let class = parts.next()?;
        let class = Class::ALL.into_iter().find(|known| known.name() == class)?;
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            u64::from_str_radix(part, 16).ok()
        };
        let segment = Self::new(hex(8)?, hex(16)?, u32::try_from(hex(8)?).ok()?);
        let segment = Self { len, size: len, ..segment };
        let is_possible = segment.generation < u64::from(u32::MAX) && segment.first < LIMIT;
        (is_possible && parts.next().is_none() && segment.name(class) == name).then_some((class, segment))
    }

    /// What its file is called.
    pub(super) fn name(&self, class: Class) -> String {
        format!("{class}-{:08x}-{:016x}-{:08x}.log", self.generation, self.first, self.salt)
    }

    /// Bytes of records that wait in it.
    pub(super) fn waiting(&self) -> u64 {
        self.len.saturating_sub(FILE_HEAD.len() as u64 + self.gone)
    }

    /// None of its records waits.
    pub(super) fn all_gone(&mut self) {
        self.gone = self.len.saturating_sub(FILE_HEAD.len() as u64);
    }

    /// Looks through a segment: how many records, how many bytes, which numbers. Tells whether it ends cleanly.
    /// Behind the index `committed` it ends with the first record that is not whole: the writing of it was cut off.
    pub(super) fn scan(
        &mut self,
        class: Class,
        disk: &dyn Disk,
        streams: &mut Streams,
        committed: u64,
    ) -> io::Result<bool> {
        let mut source = Source::new(disk, class, self);
        if self.next == self.first {
            source.indexes.end = u64::MAX;
        }
        let mut reader = Reader::default();
        reader.open(self.generation, &source)?;
        let (mut next, mut end) = (self.first, FILE_HEAD.len() as u64);
        while let Some(found) = reader.next(&source)? {
            let is_whole = found.head.index == next && found.record.is_some();
            if next >= committed && !is_whole {
                break;
            }
            next = next.max(found.head.index + 1);
            end = reader.at;
            if let Some(record) = found.record.filter(|_| found.head.seq > 0) {
                streams.written(&record.topic, found.head.seq);
            }
        }
        (self.next, self.planned) = (next, next);
        let clean = !reader.skipped && reader.newer.is_none() && end == self.len;
        self.len = end;
        Ok(clean)
    }

    /// Writes once more what it has from this index on. Whoever wrote it may have been killed before it was safe: it
    /// would be sent, be lost with the power, and its number be given again.
    pub(super) fn make_safe(&self, class: Class, disk: &dyn Disk, from: u64) -> io::Result<()> {
        let source = Source::new(disk, class, self);
        let (mut reader, mut at) = (Reader::default(), 0);
        reader.open(self.generation, &source)?;
        while reader.next(&source)?.is_some_and(|found| found.head.index < from) {
            at = reader.at;
        }
        let mut bytes = vec![0; CHUNK];
        while at < self.len {
            let most = usize::try_from(self.len - at).unwrap_or(CHUNK).min(CHUNK);
            let read = disk.read(&source.name, at, &mut bytes[..most])?;
            if read == 0 {
                break;
            }
            disk.write_synced(&source.name, at, &bytes[..read])?;
            at += read as u64;
        }
        disk.sync_names()
    }

    /// It has, or will have, records that are not safe yet.
    pub(super) fn is_planned(&self) -> bool {
        self.planned > self.next
    }
}

/// A record that was found, perhaps with its content damaged.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) record: Option<Record>,
}

/// Reads one segment after the other. Holds little more than the record at hand.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The segment that is being read.
    pub(super) generation: Option<u64>,
    /// Where the next record begins, in the file.
    pub(super) at: u64,
    /// Something was skipped.
    pub(super) skipped: bool,
    /// The version of the file, where it is a later one.
    pub(super) newer: Option<u8>,
    window: Vec<u8>,
    /// Where the window begins, in the file.
    start: u64,
}

/// What is to be read, and as far as it is safe.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) name: String,
    pub(super) salt: u32,
    /// Indexes that may be in it.
    pub(super) indexes: Range<u64>,
    pub(super) len: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(disk: &'a dyn Disk, class: Class, segment: &Segment) -> Self {
        let (salt, len) = (segment.salt, segment.len);
        Self { disk, name: segment.name(class), salt, indexes: segment.first..segment.next, len }
    }

    /// Fills `buf` as far as the file goes. A place that the disk cannot read is zeros: its records are lost, the
    /// others not.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let rest = &mut buf[filled..];
            filled += match self.disk.read(&self.name, at, rest) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    // To the end of the sector, which alone is given up.
                    let sector = rest.len().min(SECTOR - at as usize % SECTOR);
                    match self.disk.read(&self.name, at, &mut rest[..sector]) {
                        Ok(0) => break,
                        Ok(read) => read,
                        Err(_) => {
                            rest[..sector].fill(0);
                            sector
                        }
                    }
                }
                Err(error) => return Err(error),
            };
        }
        Ok(filled)
    }
}

impl Reader {
    /// Goes to the beginning of a segment.
    pub(super) fn open(&mut self, generation: u64, source: &Source<'_>) -> io::Result<()> {
        let mut head = FILE_HEAD;
        let read = source.read(0, &mut head)?;
        *self = Self { generation: Some(generation), at: FILE_HEAD.len() as u64, ..Self::default() };
        self.start = self.at;
        self.newer = newer_version(&head[..read]);
        Ok(())
    }

    /// The next record, after whatever is no record; none at the end.
    pub(super) fn next(&mut self, source: &Source<'_>) -> io::Result<Option<Found>> {
        loop {
            let window = self.fill(source, super::format::HEAD)?;
            if window.len() < super::format::HEAD {
                self.skipped |= !window.is_empty();
                return Ok(None);
            }
            let head = Head::parse(window, source.salt).filter(|head| source.indexes.contains(&head.index));
            let Some(head) = head else {
                let step = resync(window);
                self.at += step as u64;
                self.skipped = true;
                continue;
            };
            let window = self.fill(source, head.size())?;
            if window.len() < head.size() {
                self.skipped = true;
                return Ok(None);
            }
            let record = head.record(&window[..head.size()]);
            self.skipped |= record.is_none();
            self.at += head.size() as u64;
            return Ok(Some(Found { head, record }));
        }
    }

    /// Forgets what was read ahead.
    pub(super) fn release(&mut self) {
        self.window = Vec::new();
        self.start = self.at;
    }

    /// The bytes from `at` on: at least `need`, unless the segment ends before.
    fn fill(&mut self, source: &Source<'_>, need: usize) -> io::Result<&[u8]> {
        let used = (self.at - self.start) as usize;
        if self.window.len() < used + need {
            self.window.drain(..used.min(self.window.len()));
            self.start = self.at;
            let left = usize::try_from(source.len.saturating_sub(self.start)).unwrap_or(usize::MAX);
            let (have, want) = (self.window.len(), need.max(CHUNK).min(left));
            if have < want {
                self.window.resize(want, 0);
                let read = source.read(self.start + have as u64, &mut self.window[have..]);
                self.window.truncate(have + *read.as_ref().unwrap_or(&0));
                read?;
            }
            if want <= CHUNK {
                self.window.shrink_to(CHUNK);
            }
        }
        Ok(&self.window[(self.at - self.start) as usize..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_in_the_file() {
        let segment = Segment { len: 4096, size: 4096, ..Segment::new(18, 256, 0xdead_beef) };
        let name = segment.name(Class::Audit);
        assert_eq!(name, "audit-00000012-0000000000000100-deadbeef.log");
        assert_eq!(Segment::parse(&name, 4096), Some((Class::Audit, segment)));
        for other in ["audit-12-100-deadbeef.log", "cursor", "audit-00000012-0000000000000100-DEADBEEF.log"] {
            assert_eq!(Segment::parse(other, 4096), None, "{other}");
        }
    }
}
