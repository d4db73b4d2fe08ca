//! How records lie in a file, little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 1 | 0xA5, where a reader that lost its way looks for the next record |
//! | 1 | QoS in bits 0 and 1, retain in bit 2 |
//! | 2, 4 | length of the topic, of the payload |
//! | 8, 8 | index in the log, number in the stream (0: none) |
//! | 4 | CRC-32 of topic and payload |
//! | 4 | CRC-32 of the file's salt and all before |
//!
//! then topic and payload. The two sums let a reader skip a damaged payload by its length, and find its way again
//! after a damaged head. The salt, in the file's name, keeps a payload that quotes a record from being taken for one.

use super::{Qos, Record};

/// Bytes of a record before its topic.
pub(super) const HEAD: usize = 32;
/// Bytes of a file before its first record: a magic word and the version.
pub(super) const FILE_HEAD: [u8; 8] = *b"iotobx\x01\n";
const SYNC: u8 = 0xa5;
/// No index or number is as large: whatever says so is damage, and must not be counted on from.
pub(super) const LIMIT: u64 = 1 << 60;

/// A record's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    flags: u8,
    topic: usize,
    payload: usize,
    pub(super) index: u64,
    pub(super) seq: u64,
    body_crc: u32,
}

/// Bytes the record takes in a file.
pub(super) fn size(record: &Record) -> usize {
    HEAD + record.topic.len() + record.payload.len()
}

/// The version of the file that begins so, where it is a later one than ours.
pub(super) fn newer_version(file_head: &[u8]) -> Option<u8> {
    let version = *file_head.get(6)?;
    (file_head.starts_with(&FILE_HEAD[..6]) && version > FILE_HEAD[6]).then_some(version)
}

/// Appends the record. The topic is no longer than MQTT allows, the payload shorter than 4 GiB.
pub(super) fn encode(out: &mut Vec<u8>, salt: u32, index: u64, seq: u64, record: &Record) {
    let start = out.len();
    let qos = match record.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    };
    out.extend([SYNC, qos | u8::from(record.retain) << 2]);
    out.extend((record.topic.len() as u16).to_le_bytes());
    out.extend((record.payload.len() as u32).to_le_bytes());
    out.extend(index.to_le_bytes());
    out.extend(seq.to_le_bytes());
    out.extend(crc(&[record.topic.as_bytes(), &record.payload]).to_le_bytes());
    let sum = crc(&[&salt.to_le_bytes(), &out[start..]]);
    out.extend(sum.to_le_bytes());
    out.extend(record.topic.as_bytes());
    out.extend(&record.payload);
}

impl Head {
    /// The head that `bytes` begin with; none when they do not.
    pub(super) fn parse(bytes: &[u8], salt: u32) -> Option<Self> {
        let (head, sum) = bytes.get(..HEAD)?.split_at(HEAD - 4);
        if head[0] != SYNC || crc(&[&salt.to_le_bytes(), head]).to_le_bytes() != sum {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(array(&head[at..]));
        let word = |at: usize| u32::from_le_bytes(array(&head[at..]));
        let head = Self {
            flags: head[1],
            topic: usize::from(u16::from_le_bytes(array(&head[2..]))),
            payload: word(4) as usize,
            index: long(8),
            seq: long(16),
            body_crc: word(24),
        };
        (head.index.max(head.seq) < LIMIT).then_some(head)
    }

    /// Bytes of the whole record.
    pub(super) fn size(&self) -> usize {
        (HEAD + self.topic).saturating_add(self.payload)
    }

    /// The record, where `whole`, which is of that size, is undamaged.
    pub(super) fn record(&self, whole: &[u8]) -> Option<Record> {
        let (topic, payload) = whole[HEAD..].split_at(self.topic);
        if crc(&[topic, payload]) != self.body_crc {
            return None;
        }
        let qos = match self.flags & 3 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        };
        let topic = String::from_utf8(topic.to_vec()).ok()?;
        Some(Record { topic, payload: payload.to_vec(), qos, retain: self.flags & 4 != 0 })
    }
}

/// The next place after the first byte where a head may begin; the end where there is none.
pub(super) fn resync(bytes: &[u8]) -> usize {
    bytes.iter().skip(1).position(|byte| *byte == SYNC).map_or(bytes.len(), |at| at + 1)
}

pub(super) fn crc(parts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize()
}

/// The first `N` of `bytes`, which are at least as many.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let topic = "iot/d1/data/s".to_owned();
        Record { topic, payload: b"{\"seq\":7}".to_vec(), qos: Qos::ExactlyOnce, retain: true }
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, 99, 5, 7, &record());
        bytes
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let bytes = encoded();
        let head = Head::parse(&bytes, 99).unwrap();
        assert_eq!((head.index, head.seq, head.size()), (5, 7, bytes.len()));
        assert_eq!(head.record(&bytes), Some(record()));
        assert_eq!(bytes.len(), size(&record()));
        assert_eq!(Head::parse(&bytes, 98), None, "of another file");
    }

    #[test]
    fn an_impossible_number_is_no_record() {
        for (index, seq) in [(u64::MAX, 1), (1, u64::MAX)] {
            let mut bytes = Vec::new();
            encode(&mut bytes, 99, index, seq, &record());
            assert_eq!(Head::parse(&bytes, 99), None);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = encoded();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let record = Head::parse(&bytes, 99).and_then(|head| head.record(&bytes));
            assert_eq!(record, None, "bit {bit}");
        }
    }

    #[test]
    fn a_reader_that_is_lost_stops_at_the_next_sync_byte() {
        assert_eq!(resync(&[SYNC, 0, 1, SYNC, 2]), 3);
        assert_eq!(resync(&[SYNC, 0, 1]), 3);
        assert_eq!(resync(&[]), 0);
    }
}
