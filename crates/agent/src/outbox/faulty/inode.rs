//! One file: its bytes as the process sees them, and those that a power cut leaves.

use testkit::Rng;

pub(super) const PAGE: u64 = 4096;

#[derive(Debug, Default)]
pub(super) struct Inode {
    live: Vec<u8>,
    safe: Vec<u8>,
    /// Written since the last sync, oldest first.
    pending: Vec<(usize, Vec<u8>)>,
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset..end].copy_from_slice(written);
}

impl Inode {
    pub(super) fn safe(bytes: &[u8]) -> Self {
        Self { live: bytes.to_vec(), safe: bytes.to_vec(), pending: Vec::new() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.live
    }

    pub(super) fn pages(&self) -> u64 {
        (self.live.len() as u64).div_ceil(PAGE)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).expect("a test's file fits into memory");
        if !bytes.is_empty() {
            put(&mut self.live, offset, bytes);
            self.pending.push((offset, bytes.to_vec()));
        }
    }

    pub(super) fn sync(&mut self) {
        for (offset, bytes) in self.pending.drain(..) {
            put(&mut self.safe, offset, &bytes);
        }
    }

    /// The disk has some pages, and the others will not be written any more; the process sees them until they are
    /// evicted, which is at once or never.
    pub(super) fn fail_to_sync(&mut self, rng: &mut Rng) {
        self.reach_by_chance(rng);
        if rng.below(2) == 0 {
            let length = self.live.len();
            self.live.clone_from(&self.safe);
            self.live.resize(length, 0);
        }
    }

    pub(super) fn cut(&mut self, rng: &mut Rng) {
        self.reach_by_chance(rng);
        self.live.clone_from(&self.safe);
    }

    fn reach_by_chance(&mut self, rng: &mut Rng) {
        let pending = std::mem::take(&mut self.pending);
        let end = pending.iter().map(|(offset, bytes)| offset + bytes.len()).max().unwrap_or(0);
        for start in (0..end).step_by(PAGE as usize) {
            if let Some(page) = self.page_by_chance(start, &pending, rng) {
                put(&mut self.safe, start, &page);
            }
        }
    }

    /// The page as it was after any of the writes, or torn between two of those; none when nothing was written to it.
    fn page_by_chance(&self, start: usize, pending: &[(usize, Vec<u8>)], rng: &mut Rng) -> Option<Vec<u8>> {
        let end = start + PAGE as usize;
        let written: Vec<_> = pending
            .iter()
            .filter(|(offset, bytes)| *offset < end && offset + bytes.len() > start)
            .map(|(offset, bytes)| {
                let from = start.max(*offset);
                (from - start, &bytes[from - offset..bytes.len().min(end - offset)])
            })
            .collect();
        let first = written.iter().map(|(offset, _)| *offset).min()?;
        let old = self.safe.get(start..self.safe.len().min(end)).unwrap_or_default();
        let version = |rng: &mut Rng| {
            let count = match rng.below(4) {
                0 => 0,
                1 => rng.below(written.len() as u64 + 1) as usize,
                _ => written.len(),
            };
            let mut page = old.to_vec();
            written[..count].iter().for_each(|(offset, bytes)| put(&mut page, *offset, bytes));
            page
        };
        let (mut head, tail) = (version(rng), version(rng));
        if rng.below(2) == 0 {
            return Some(tail);
        }
        let torn = first + rng.below((head.len().max(tail.len()).max(first) - first) as u64 + 1) as usize;
        head.truncate(torn);
        if let Some(tail) = tail.get(torn..) {
            head.resize(torn, 0);
            head.extend_from_slice(tail);
        }
        Some(head)
    }
}
