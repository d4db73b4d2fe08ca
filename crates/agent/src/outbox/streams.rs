//! The last number of each stream, which is a topic. Each record on disk has its own; this file has those of the
//! segments that no longer grow, or are gone. It holds everything twice: one damaged byte costs nothing.

use std::{collections::HashMap, io};

use super::{
    Disk, Qos, Record,
    format::{self, Head, encode, resync},
};

/// The file.
pub(super) const FILE: &str = "streams";
/// All that is in the file before there is a number.
const NOTHING: u8 = 0;
/// So many topics have their last number remembered for ever.
pub(super) const MOST: usize = 4096;
const SALT: u32 = 0x73_74_72_6d;

#[derive(Debug, Default, Clone, Copy)]
struct Last {
    given: u64,
    /// The last one in a record that is, or is about to be, on disk.
    written: u64,
}

/// Puts this into the file. What makes room must not need any: on a full disk it is written over what is there, one half
/// after the other. It never gets shorter, so that one of the two is whole at any moment.
pub(super) fn write(disk: &dyn Disk, bytes: &[u8]) -> io::Result<()> {
    match disk.replace(FILE, bytes) {
        Err(error) if is_full(&error) => {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            disk.write_synced(FILE, first.len() as u64, second)?;
            disk.write_synced(FILE, 0, first)
        }
        other => other,
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Numbers by topic.
#[derive(Debug, Default)]
pub(super) struct Streams {
    last: HashMap<String, Last>,
}

impl Streams {
    /// Whether this topic has a number, or can have one.
    pub(super) fn has_room_for(&self, topic: &str) -> bool {
        self.last.len() < MOST || self.last.contains_key(topic)
    }

    /// The next number of this topic.
    pub(super) fn next(&mut self, topic: &str) -> u64 {
        if !self.last.contains_key(topic) {
            self.last.insert(topic.to_owned(), Last::default());
        }
        self.last.get_mut(topic).map_or(0, |last| {
            last.given += 1;
            last.given
        })
    }

    /// A record with this number is, or is about to be, on disk.
    pub(super) fn written(&mut self, topic: &str, seq: u64) {
        match self.last.get_mut(topic) {
            Some(last) => *last = Last { given: last.given.max(seq), written: last.written.max(seq) },
            None => {
                self.last.insert(topic.to_owned(), Last { given: seq, written: seq });
            }
        }
    }

    /// What the file should hold.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (topic, last) in self.last.iter().filter(|(_, last)| last.written > 0) {
            let record =
                Record { topic: topic.clone(), payload: Vec::new(), qos: Qos::AtMostOnce, retain: false };
            encode(&mut bytes, SALT, 0, last.written, &record);
        }
        bytes.extend_from_within(..);
        if bytes.is_empty() {
            // So that it has a block of the disk from the beginning, which it may need when there is none left.
            bytes.push(NOTHING);
        }
        bytes
    }

    /// Bytes the file takes.
    pub(super) fn size(&self) -> u64 {
        self.last.keys().map(|topic| 2 * (format::HEAD + topic.len()) as u64).sum()
    }

    /// Reads the file. False where it is there and does not say all that was written: then the segments have to.
    pub(super) fn read(&mut self, disk: &dyn Disk, len: Option<u64>) -> io::Result<bool> {
        let Some(len) = len else { return Ok(false) };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(64 << 20)];
        let mut filled = 0;
        while filled < bytes.len() {
            match disk.read(FILE, filled as u64, &mut bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        let (mut rest, mut whole) = (&bytes[..], true);
        if rest == [NOTHING] {
            return Ok(true);
        }
        while !rest.is_empty() {
            let head = Head::parse(rest, SALT).filter(|head| head.size() <= rest.len());
            match head.and_then(|head| head.record(&rest[..head.size()]).map(|record| (head, record))) {
                Some((head, record)) => {
                    self.written(&record.topic, head.seq);
                    rest = &rest[head.size()..];
                }
                None => {
                    whole = false;
                    rest = &rest[resync(rest)..];
                }
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Folder;

    #[test]
    fn any_one_damaged_byte_costs_no_number() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Folder::new(dir.path().into());
        let mut streams = Streams::default();
        assert_eq!((streams.next("a"), streams.next("a"), streams.next("b")), (1, 2, 1));
        streams.written("a", 1);
        streams.written("c", 9);
        let good = streams.encode();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            disk.replace(FILE, &bytes).unwrap();
            let mut read = Streams::default();
            assert!(!read.read(&disk, Some(bytes.len() as u64)).unwrap());
            assert_eq!((read.next("a"), read.next("c"), read.next("b")), (2, 10, 1), "byte {at}");
        }
        disk.replace(FILE, &good).unwrap();
        assert!(Streams::default().read(&disk, Some(good.len() as u64)).unwrap());
        assert!(!Streams::default().read(&disk, None).unwrap());
    }

    #[test]
    fn no_topic_is_forgotten_and_there_is_an_end_to_them() {
        let mut streams = Streams::default();
        for at in 0..MOST {
            assert!(streams.has_room_for(&at.to_string()));
            streams.next(&at.to_string());
        }
        assert!(streams.has_room_for("0") && !streams.has_room_for("one more"));
    }
}
