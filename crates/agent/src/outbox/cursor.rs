//! How far the broker has acknowledged, and what was counted: a slot pair per class in one small file, written in
//! turn, so that one of them is always whole.

use std::{collections::BTreeSet, io};

use super::{
    Class, Disk,
    format::{LIMIT, array, crc},
};

/// The file.
pub(super) const FILE: &str = "cursor";
/// Acknowledgements after the first that is missing are remembered this far: no more is taken ahead of it.
pub(super) const SPAN: u64 = 256;
/// Bytes of a slot.
const SLOT: usize = 128;
const VERSION: u64 = 1;
const NUMBERS: usize = 7;
const BITS: usize = (SPAN / 8) as usize;
const SUM: usize = (NUMBERS + 1) * 8 + BITS;

/// What is written down of one log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Counts up with each writing.
    pub(super) generation: u64,
    /// The first index that has not met its end.
    pub(super) head: u64,
    /// One more than the last index that was safe.
    pub(super) next: u64,
    /// Counted since the outbox was made.
    pub(super) dropped: u64,
    pub(super) refused: u64,
    pub(super) damaged: u64,
    pub(super) sent: u64,
    /// Indexes after `head` that have met their end.
    pub(super) done: BTreeSet<u64>,
}

impl Cursor {
    fn encode(&self) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        let Self { generation, head, next, dropped, refused, damaged, sent, .. } = *self;
        let numbers = [VERSION, generation, head, next, dropped, refused, damaged, sent];
        for (at, number) in numbers.into_iter().enumerate() {
            slot[at * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        let bits = &mut slot[(NUMBERS + 1) * 8..SUM];
        for ahead in self.done.iter().map(|index| index - head).take_while(|ahead| *ahead < SPAN) {
            bits[ahead as usize / 8] |= 1 << (ahead % 8);
        }
        let sum = crc(&[&slot[..SUM]]);
        slot[SUM..SUM + 4].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(array(&slot[at * 8..]));
        if crc(&[&slot[..SUM]]).to_le_bytes() != slot[SUM..SUM + 4] || number(0) != VERSION {
            return None;
        }
        if (1..=NUMBERS).any(|at| number(at) >= LIMIT) {
            return None;
        }
        let (bits, head) = (&slot[(NUMBERS + 1) * 8..SUM], number(2));
        let is_done = |ahead: &u64| bits[*ahead as usize / 8] & 1 << (ahead % 8) != 0;
        Some(Self {
            generation: number(1),
            head,
            next: number(3),
            dropped: number(4),
            refused: number(5),
            damaged: number(6),
            sent: number(7),
            done: (0..SPAN).filter(is_done).map(|ahead| head.saturating_add(ahead)).collect(),
        })
    }

    /// Writes it over the older of the two slots of this class. From here on it survives this process; an older one
    /// after a power cut only makes what was acknowledged since be sent again.
    pub(super) fn write(&mut self, disk: &dyn Disk, class: Class) -> io::Result<()> {
        self.generation += 1;
        let written = disk.write(FILE, place(class, self.generation), &self.encode());
        if written.is_err() {
            // It may be torn: the next goes there too, and the other slot stays whole.
            self.generation -= 1;
        }
        written
    }

    /// The cursors of all classes, in their order; those that cannot be read are at the beginning.
    pub(super) fn read_all(disk: &dyn Disk) -> io::Result<[Self; Class::ALL.len()]> {
        let mut bytes = [0; Class::ALL.len() * 2 * SLOT];
        match disk.read(FILE, 0, &mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
            Err(error) => return Err(error),
        }
        Ok(Class::ALL.map(|class| {
            let slot = |turn| Self::decode(&bytes[place(class, turn) as usize..][..SLOT]);
            slot(0).into_iter().chain(slot(1)).max_by_key(|cursor| cursor.generation).unwrap_or_default()
        }))
    }
}

fn place(class: Class, generation: u64) -> u64 {
    (class as u64 * 2 + generation % 2) * SLOT as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Folder;

    #[test]
    fn the_later_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Folder::new(dir.path().into());
        let mut cursor = Cursor { head: 10, next: 300, dropped: 1, sent: 9, ..Cursor::default() };
        cursor.done = [11, 10 + SPAN - 1].into();
        cursor.write(&disk, Class::Event).unwrap();
        let first = cursor.clone();
        cursor.head = 11;
        cursor.write(&disk, Class::Event).unwrap();
        let read = || Cursor::read_all(&disk).unwrap()[Class::Event as usize].clone();
        assert_eq!(read(), cursor);
        disk.write(FILE, place(Class::Event, 2) + 20, b"x").unwrap();
        assert_eq!(read(), first, "torn: the one before it");
        disk.write(FILE, place(Class::Event, 1) + 20, b"x").unwrap();
        assert_eq!(read(), Cursor::default());
        assert_eq!(Cursor::read_all(&disk).unwrap()[0], Cursor::default());
    }

    #[test]
    fn impossible_numbers_are_no_cursor() {
        let cursor = Cursor { sent: u64::MAX, ..Cursor::default() };
        assert_eq!(Cursor::decode(&cursor.encode()), None);
    }

    #[test]
    fn what_is_done_too_far_ahead_is_left_out() {
        let cursor = Cursor { head: 5, done: [5 + SPAN].into(), ..Cursor::default() };
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap().done, [].into());
    }
}
