//! What is kept of a stream that may never end.

use std::collections::VecDeque;

use super::job::{Kept, Piece};

/// The most of a stream in one chunk.
pub(super) const CHUNK: usize = 16 << 10;

/// The first and the last bytes of a stream, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Keep {
    head: Vec<u8>,
    head_limit: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    total: u64,
    /// What the next chunk has, where anybody wants chunks.
    since: Option<Piece>,
}

impl Keep {
    /// Keeps `limit` bytes.
    pub(super) fn new(limit: u64, chunks: bool) -> Self {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            head_limit: size(limit.div_ceil(2)),
            tail_limit: size(limit / 2),
            since: chunks.then(Piece::default),
            ..Self::default()
        }
    }

    /// Takes what came, and returns what of it belongs to the head.
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.total += bytes.len() as u64;
        if let Some(since) = &mut self.since {
            let room = (CHUNK - since.bytes.len()).min(bytes.len());
            since.bytes.extend_from_slice(&bytes[..room]);
            since.dropped += (bytes.len() - room) as u64;
        }
        let (head, rest) = bytes.split_at((self.head_limit - self.head.len()).min(bytes.len()));
        self.head.extend_from_slice(head);
        let last = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let excess = (self.tail.len() + last.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..excess);
        self.tail.extend(last);
        head
    }

    /// What came since the last call.
    pub(super) fn chunk(&mut self) -> Piece {
        self.since.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What is kept of all that came.
    pub(super) fn kept(self) -> Kept {
        let (head, tail) = (self.head, Vec::from(self.tail));
        let dropped = self.total - head.len() as u64 - tail.len() as u64;
        Kept { head, tail, dropped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn head_tail_and_what_is_between_make_the_whole(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            limit in 0_u64..200,
        ) {
            let all = pieces.concat();
            let (mut keep, mut sent) = (Keep::new(limit, false), Vec::new());
            for piece in &pieces {
                sent.extend_from_slice(keep.push(piece));
                prop_assert!(keep.tail.len() as u64 <= limit / 2);
            }
            let kept = keep.kept();
            prop_assert_eq!(&sent, &kept.head);
            prop_assert!(all.starts_with(&kept.head) && all.ends_with(&kept.tail));
            prop_assert_eq!((kept.head.len() + kept.tail.len()) as u64 + kept.dropped, all.len() as u64);
            prop_assert_eq!((kept.head.len() + kept.tail.len()) as u64, limit.min(all.len() as u64));
        }

        #[test]
        fn chunks_make_the_whole_too(sizes in proptest::collection::vec(0_usize..40_000, 0..10)) {
            let mut keep = Keep::new(10, true);
            let mut counted = 0;
            for size in &sizes {
                keep.push(&vec![b'x'; *size]);
                keep.push(b"yz");
                let piece = keep.chunk();
                prop_assert_eq!(piece.bytes.len(), (size + 2).min(CHUNK));
                counted += piece.bytes.len() as u64 + piece.dropped;
                prop_assert!(keep.chunk().is_empty());
            }
            prop_assert_eq!(counted, sizes.iter().map(|size| *size as u64 + 2).sum::<u64>());
        }
    }
}
