//! A folder: its names as the process sees them, and those that a power cut leaves.

use std::collections::BTreeMap;

use testkit::Rng;

type Entries = BTreeMap<String, usize>;

#[derive(Debug)]
pub(super) struct Names {
    live: Entries,
    /// As they are after a power cut, but for the first few of `moves`.
    safe: Entries,
    moves: Vec<Move>,
}

/// A change.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

impl Move {
    fn apply(&self, names: &mut Entries) {
        match self {
            Self::Link(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Unlink(name) => _ = names.remove(name),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn is_about(&self, name: &str) -> bool {
        match self {
            Self::Link(about, _) | Self::Unlink(about) => about == name,
            Self::Rename(from, to) => from == name || to == name,
        }
    }
}

impl Names {
    pub(super) fn new(safe: Entries) -> Self {
        Self { live: safe.clone(), safe, moves: Vec::new() }
    }

    pub(super) fn live(&self) -> &Entries {
        &self.live
    }

    pub(super) fn change(&mut self, change: Move) {
        change.apply(&mut self.live);
        self.moves.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.safe.clone_from(&self.live);
        self.moves.clear();
    }

    /// Makes this name safe, and no other: more is not promised of a file that is replaced.
    pub(super) fn keep(&mut self, name: &str) {
        if let Some(inode) = self.live.get(name) {
            self.safe.insert(name.to_owned(), *inode);
        }
        for change in &mut self.moves {
            if let Move::Rename(from, to) = change
                && to == name
            {
                *change = Move::Unlink(from.clone());
            }
        }
        self.moves.retain(|change| !change.is_about(name));
    }

    pub(super) fn lose(&mut self, rng: &mut Rng) {
        let kept = rng.below(self.moves.len() as u64 + 1) as usize;
        self.moves[..kept].iter().for_each(|change| change.apply(&mut self.safe));
        self.moves.clear();
        self.live.clone_from(&self.safe);
    }
}
