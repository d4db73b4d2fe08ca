//! What a journal keeps in memory of each id.

use std::collections::{HashMap, VecDeque, hash_map};

use protocol::Timestamp;
use ring::digest;

use super::{Line, Place, State};

/// So many of what came without an id can be told from their copies: as many as can be on their way at once (64), and as
/// many tunnels as can be open (1024).
pub(super) const UNNAMED: usize = 64 + 1024;

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Its number among all ids, in the order in which they came.
    pub(super) n: u64,
    pub(super) state: State,
    /// Where it was accepted, and from its end on that.
    pub(super) place: Place,
}

/// What is in the log, but for what is long.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) index: HashMap<Key, Entry>,
    /// How many ids there have been.
    pub(super) last: u64,
    /// What came last without an id.
    pub(super) unnamed: VecDeque<Unnamed>,
}

/// What came without an id.
#[derive(Debug)]
pub(super) struct Unnamed {
    pub(super) request: Key,
    /// Which it was given.
    pub(super) id: String,
    /// When it ended.
    pub(super) ended: Option<Timestamp>,
}

/// Ids by hash: they are long, and many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    pub(super) fn of(id: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        let first = digest.as_ref().first_chunk().expect("SHA-256 has more than 16 bytes");
        Self(u128::from_le_bytes(*first))
    }
}

impl Known {
    /// Gives each line the number of its id; an id that is new here gets the next one.
    pub(super) fn number(&self, lines: &mut [Line]) {
        let mut new: HashMap<Key, u64> = HashMap::new();
        for line in lines {
            let key = Key::of(line.id());
            let (Line::Accepted { n, .. } | Line::Ended { n, .. }) = line else { continue };
            let next = self.last.saturating_add(1 + new.len() as u64);
            *n = self.index.get(&key).map_or_else(|| *new.entry(key).or_insert(next), |entry| entry.n);
        }
    }

    pub(super) fn enter(&mut self, place: Place, line: &Line) {
        let next = self.last.saturating_add(1);
        let entry = self.index.entry(Key::of(line.id()));
        let is_new = matches!(entry, hash_map::Entry::Vacant(_));
        let entry = entry.or_insert(Entry { n: next, state: State::Waiting, place });
        let over = matches!(entry.state, State::Ended { .. });
        match line {
            // Also written again, so that its segment may go.
            Line::Accepted { n, started, .. } if is_new || !over => {
                let state = if *started { State::Started } else { State::Waiting };
                *entry = Entry { n: *n, state, place };
            }
            Line::Accepted { .. } => {}
            // Where the line before is damaged, these still say that it was begun, or that it has ended.
            Line::Started { .. } if !over => entry.state = State::Started,
            Line::Started { .. } => {}
            Line::Ended { n, told, .. } => {
                *entry = Entry { n: *n, state: State::Ended { told: *told }, place };
            }
            Line::Told { .. } => {
                let place = if over { entry.place } else { place };
                *entry = Entry { state: State::Ended { told: true }, place, ..*entry };
            }
        }
        self.last = self.last.max(entry.n);
        if let Line::Accepted { id, unnamed: true, request, .. } = line {
            self.name(Key::of(request.get()), id);
        }
        if let Line::Ended { id, at, .. } = line
            && let Some(unnamed) = self.unnamed.iter_mut().find(|unnamed| unnamed.id == *id)
        {
            unnamed.ended = Some(*at);
        }
    }

    fn name(&mut self, request: Key, id: &str) {
        // It is written anew when its segment goes.
        if self.unnamed.iter().any(|unnamed| unnamed.id == id) {
            return;
        }
        if self.unnamed.len() >= UNNAMED {
            // One that has not ended is what its copies have to be known by.
            let ended = self.unnamed.iter().position(|unnamed| unnamed.ended.is_some());
            self.unnamed.remove(ended.unwrap_or(0));
        }
        self.unnamed.push_back(Unnamed { request, id: id.to_owned(), ended: None });
    }
}
