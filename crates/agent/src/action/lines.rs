//! A log of lines in segments: what the journal and the audit are written in.
//!
//! A line is `<CRC-32 of the JSON, 8 hex digits> <JSON>`, so that a torn or damaged one is known, costs only itself,
//! and the log can be read with any pager. A segment begins with a line that says its version. After a failed write
//! nothing more is written to that file: the next lines go to a new one.
//!
//! Calls block for as long as the disk does.

use std::{collections::VecDeque, io, sync::Arc};

use serde::Deserialize;

use crate::outbox::Disk;

/// A segment takes no further lines once it is as long, in bytes.
const SEGMENT: u64 = 1 << 20;
/// Hex digits and a space.
const HEAD: usize = 9;
/// The first line of a segment.
const FIRST: &str = r#"{"version":1}"#;
const VERSION: u64 = 1;
/// What is read at once.
const READ: usize = 16 << 10;

/// Where a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its segment's number.
    pub(crate) segment: u32,
    offset: u32,
}

/// A file of lines.
#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u32,
    bytes: u64,
    /// Further lines may be added to it.
    open: bool,
    /// An earlier process has written it. If its last sync failed, the disk may not have what is read here.
    inherited: bool,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Lines {
    disk: Arc<dyn Disk>,
    segments: VecDeque<Segment>,
    /// The highest number there has ever been, as far as is known.
    last: u32,
    /// The names of all segments survive a power cut.
    names_safe: bool,
}

/// What was found besides good lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Lines that are not what was written.
    pub(crate) lines: u64,
    /// The last line was not written to its end, which is what a crash leaves.
    pub(crate) torn: bool,
    /// Segments of a later version: read as far as they are understood, and never written.
    pub(crate) newer: u64,
}

impl Lines {
    /// Reads every line, oldest first.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn open(disk: Arc<dyn Disk>, each: &mut dyn FnMut(Place, &str)) -> io::Result<(Self, Damage)> {
        Self::open_all(disk, &mut |place, line| line.into_iter().for_each(|line| each(place, line)))
    }

    /// The same, and none stands for each line that is not what was written.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn open_all(
        disk: Arc<dyn Disk>,
        each: &mut dyn FnMut(Place, Option<&str>),
    ) -> io::Result<(Self, Damage)> {
        let mut numbers: Vec<(u32, u64)> =
            disk.list()?.into_iter().filter_map(|(name, bytes)| Some((number_of(&name)?, bytes))).collect();
        numbers.sort_unstable();
        let last = numbers.last().map_or(0, |(number, _)| *number);
        let (mut segments, mut damage) = (VecDeque::new(), Damage::default());
        for (number, bytes) in numbers {
            let content = read_all(&*disk, number, bytes)?;
            let found = scan(number, &content, each);
            damage.lines += found.lines;
            damage.newer += found.newer;
            damage.torn |= found.torn;
            let open = number == last && found == Damage::default() && !content.is_empty();
            segments.push_back(Segment { number, bytes: content.len() as u64, open, inherited: true });
        }
        Ok((Self { disk, segments, last, names_safe: false }, damage))
    }

    /// Adds lines, each a JSON value without a line break, and waits until they are safe. On an error none of them
    /// counts, though some may be found by a later start.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn append(&mut self, lines: &[String]) -> io::Result<Vec<Place>> {
        self.add(lines, true)
    }

    /// The same without waiting for the disk: safe from the end of this process, not from that of the machine.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn append_unsynced(&mut self, lines: &[String]) -> io::Result<Vec<Place>> {
        self.add(lines, false)
    }

    fn add(&mut self, lines: &[String], synced: bool) -> io::Result<Vec<Place>> {
        let open = self.segments.back().copied().filter(|last| last.open && last.bytes < SEGMENT);
        let Segment { number, bytes: offset, inherited, .. } = match open {
            Some(segment) => segment,
            None => self.begin()?,
        };
        let mut content = String::new();
        if offset == 0 {
            push(&mut content, FIRST);
        } else if inherited {
            // Whatever is before, these lines begin with one of their own.
            content.push('\n');
        }
        let mut places = Vec::with_capacity(lines.len());
        for line in lines {
            let offset = u32::try_from(offset + content.len() as u64).map_err(io::Error::other)?;
            places.push(Place { segment: number, offset });
            push(&mut content, line);
        }
        let written = self.write(number, offset, content.as_bytes(), synced);
        if let Some(last) = self.segments.back_mut() {
            last.bytes += content.len() as u64;
            last.open &= written.is_ok();
            last.inherited = false;
        }
        if written.is_err() {
            self.take_back(number, offset, content.len());
        }
        written.map(|()| places)
    }

    fn write(&mut self, number: u32, offset: u64, content: &[u8], synced: bool) -> io::Result<()> {
        let name = name_of(number);
        if !synced {
            return self.disk.write(&name, offset, content);
        }
        self.disk.write_synced(&name, offset, content)?;
        if !self.names_safe {
            self.disk.sync_names()?;
            self.names_safe = true;
        }
        Ok(())
    }

    /// What of it got to the disk must not be found there by a later start.
    fn take_back(&mut self, number: u32, offset: u64, length: usize) {
        if offset > 0 {
            // In place, which takes no room. On a disk that does not even take that there is nothing more to do.
            self.disk.write_synced(&name_of(number), offset, &vec![b'\n'; length]).ok();
        } else if self.disk.remove(&name_of(number)).is_ok() {
            // Not one more file for each try on a full disk.
            self.segments.pop_back();
        }
    }

    /// Another segment.
    fn begin(&mut self) -> io::Result<Segment> {
        self.last = self.last.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))?;
        let segment = Segment { number: self.last, bytes: 0, open: true, inherited: false };
        self.segments.push_back(segment);
        self.names_safe = false;
        Ok(segment)
    }

    /// The line at `place`.
    ///
    /// # Errors
    /// Those of the disk; `InvalidData` where the line is no longer what was written.
    pub(crate) fn read(&self, place: Place) -> io::Result<String> {
        let (mut bytes, mut from) = (Vec::new(), u64::from(place.offset));
        let mut buf = vec![0; READ];
        let end = loop {
            let read = self.disk.read(&name_of(place.segment), from, &mut buf)?;
            let found = buf[..read].iter().position(|byte| *byte == b'\n');
            bytes.extend_from_slice(&buf[..found.unwrap_or(read)]);
            from += read as u64;
            if found.is_some() || read == 0 {
                break found;
            }
        };
        end.and_then(|_| check(&bytes))
            .map(str::to_owned)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a line of the journal is damaged"))
    }

    /// Reads every line of the oldest segment.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn read_first(&self, each: &mut dyn FnMut(Place, &str)) -> io::Result<()> {
        let Some(first) = self.segments.front() else { return Ok(()) };
        let content = read_all(&*self.disk, first.number, first.bytes)?;
        scan(first.number, &content, &mut |place, line| line.into_iter().for_each(|line| each(place, line)));
        Ok(())
    }

    /// Forgets the oldest segment.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn drop_first(&mut self) -> io::Result<()> {
        let Some(first) = self.segments.front() else { return Ok(()) };
        self.disk.remove(&name_of(first.number))?;
        self.segments.pop_front();
        Ok(())
    }

    /// Makes safe what was found: a process that was killed may have written it and not waited for the disk. What an
    /// answer, or a number, is built on must not be gone after a power cut.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        for segment in &self.segments {
            self.disk.write_synced(&name_of(segment.number), segment.bytes, b"")?;
        }
        self.disk.sync_names()?;
        self.names_safe = true;
        Ok(())
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Files on disk.
    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }
}

/// Appends a line.
fn push(content: &mut String, line: &str) {
    debug_assert!(!line.contains('\n'), "JSON needs no line break");
    content.push_str(&format!("{:08x} ", crc32fast::hash(line.as_bytes())));
    content.push_str(line);
    content.push('\n');
}

/// The JSON of a line, if it is what was written.
fn check(line: &[u8]) -> Option<&str> {
    let (head, json) = line.split_at_checked(HEAD)?;
    // As text: of a number there is more than one spelling.
    let whole = head == format!("{:08x} ", crc32fast::hash(json)).as_bytes();
    str::from_utf8(json).ok().filter(|_| whole)
}

/// Hands each line over, none for one that is not what was written.
fn scan(number: u32, content: &[u8], each: &mut dyn FnMut(Place, Option<&str>)) -> Damage {
    #[derive(Deserialize)]
    struct First {
        version: u64,
    }
    let (mut damage, mut offset) = (Damage::default(), 0);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let place = u32::try_from(offset).map(|offset| Place { segment: number, offset });
        let whole = line.strip_suffix(b"\n");
        match (whole.and_then(check), place) {
            (Some(json), Ok(_)) if offset == 0 => {
                let version = serde_json::from_str::<First>(json).map_or(VERSION, |first| first.version);
                damage.newer += u64::from(version > VERSION);
            }
            (Some(json), Ok(place)) => each(place, Some(json)),
            _ if line == b"\n" => {}
            (_, place) => {
                if whole.is_none() {
                    damage.torn = true;
                } else {
                    damage.lines += 1;
                }
                each(place.unwrap_or(Place { segment: number, offset: u32::MAX }), None);
            }
        }
        offset += line.len();
    }
    damage
}

fn read_all(disk: &dyn Disk, number: u32, bytes: u64) -> io::Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < content.len() {
        match disk.read(&name_of(number), filled as u64, &mut content[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    content.truncate(filled);
    Ok(content)
}

fn name_of(number: u32) -> String {
    format!("{number:010}.log")
}

fn number_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests;
