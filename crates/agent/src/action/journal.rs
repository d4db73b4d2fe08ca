//! What has been asked of this device, and what became of it: written before anything is done, so that nothing is done
//! twice.
//!
//! An id is known from its first line on, through restarts, until [`Kept`] says otherwise; nothing but a synchronised
//! clock makes it too old. When the log grows too long its oldest segment goes, and of each id in it a brief line is
//! written anew.
//!
//! Calls block for as long as the disk does.

use std::{
    collections::{HashMap, HashSet, hash_map},
    io,
    sync::Arc,
    time::Duration,
};

use protocol::Timestamp;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::lines::{Damage, Lines, Place};
use crate::outbox::Disk;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// No id is forgotten before so many newer ones have come, or it is older than `age`.
    pub(crate) ids: usize,
    /// See `ids`.
    pub(crate) age: Duration,
    /// Bytes on disk, beside a brief line of each id.
    pub(crate) bytes: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { ids: 100_000, age: Duration::from_secs(30 * 86_400), bytes: 16 << 20 }
    }
}

/// What a brief line takes on disk, at most and about.
const BRIEF: u64 = 256;
/// No more files than that, however short.
const SEGMENTS: usize = 64;

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// It is to be done.
    Accepted {
        /// Which.
        id: String,
        /// Its number among all ids; given by the journal.
        #[serde(default)]
        n: u64,
        /// When.
        at: Timestamp,
        /// The boot of the machine.
        boot_id: String,
        /// It came without an id.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unnamed: bool,
        /// It is begun at once.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        started: bool,
        /// After which it is not to begin any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        /// What is asked.
        request: Box<RawValue>,
    },
    /// It is begun.
    Started {
        /// Which.
        id: String,
    },
    /// It has met its end.
    Ended {
        /// Which.
        id: String,
        /// Its number among all ids; given by the journal.
        #[serde(default)]
        n: u64,
        /// When.
        at: Timestamp,
        /// How.
        outcome: Box<RawValue>,
        /// Only in brief: the rest is no longer kept.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        brief: bool,
        /// The end has been told.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        told: bool,
    },
    /// The end has been told: the outbox has it.
    Told {
        /// Which.
        id: String,
    },
}

impl Line {
    /// Whose line it is.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Accepted { id, .. } | Self::Started { id } | Self::Ended { id, .. } | Self::Told { id } => {
                id
            }
        }
    }
}

/// How far it is with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits for its turn.
    Waiting,
    /// It was begun.
    Started,
    /// It has met its end.
    Ended {
        /// That has been told.
        told: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its number among all ids, in the order in which they came.
    n: u64,
    state: State,
    /// Where it was accepted, and from its end on that.
    place: Place,
}

/// Something that was accepted and has not met its end.
#[derive(Debug)]
pub(crate) struct Open {
    /// Which.
    pub(crate) id: String,
    /// It was begun.
    pub(crate) started: bool,
    /// In which boot of the machine it was accepted.
    pub(crate) boot_id: String,
    /// After which it is not to begin any more.
    pub(crate) expires_at: Option<Timestamp>,
    /// What was asked.
    pub(crate) request: Box<RawValue>,
}

/// What was asked last without an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unnamed {
    /// The id it was given.
    pub(crate) id: String,
    /// The request, as it is written.
    pub(crate) request: String,
}

/// The journal of one service.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: Lines,
    known: Known,
    kept: Kept,
    /// Makes an outcome brief.
    brief: fn(&RawValue) -> Box<RawValue>,
    damage: Damage,
}

/// What is in the log, but for what is long.
#[derive(Debug, Default)]
struct Known {
    index: HashMap<Key, Entry>,
    /// How many ids there have been.
    last: u64,
    unnamed: Option<Unnamed>,
}

/// Ids by hash: they are long, and many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u128);

impl Key {
    fn of(id: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, id.as_bytes());
        let first = digest.as_ref().first_chunk().expect("SHA-256 has more than 16 bytes");
        Self(u128::from_le_bytes(*first))
    }
}

impl Journal {
    /// Reads what there is.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        kept: Kept,
        brief: fn(&RawValue) -> Box<RawValue>,
    ) -> io::Result<Self> {
        let mut known = Known::default();
        let (lines, damage) = Lines::open(disk, &mut |place, text| {
            if let Ok(line) = serde_json::from_str(text) {
                known.enter(place, &line);
            }
        })?;
        Ok(Self { lines, known, kept, brief, damage })
    }

    /// What was found besides good lines.
    pub(crate) fn damage(&self) -> Damage {
        self.damage
    }

    /// How far it is with this id; none where it is not known.
    pub(crate) fn state(&self, id: &str) -> Option<State> {
        self.known.index.get(&Key::of(id)).map(|entry| entry.state)
    }

    /// What was asked last without an id.
    pub(crate) fn unnamed(&self) -> Option<&Unnamed> {
        self.known.unnamed.as_ref()
    }

    /// What has not met its end, and the ids whose end has not been told; each in the order in which they were written.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn unfinished(&self) -> io::Result<(Vec<Open>, Vec<String>)> {
        let (mut open, mut untold) = (Vec::new(), Vec::new());
        let mut places: Vec<Entry> = self.known.index.values().copied().collect();
        places.retain(|entry| entry.state != State::Ended { told: true });
        places.sort_unstable_by_key(|entry| entry.place);
        for Entry { state, place, .. } in places {
            let line = match self.lines.read(place) {
                Ok(line) => serde_json::from_str(&line)?,
                // A disk that has failed to sync may show, once, what it does not have.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!("a line of the journal is lost");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match line {
                Line::Accepted { id, boot_id, expires_at, request, .. } => {
                    open.push(Open { id, started: state == State::Started, boot_id, expires_at, request });
                }
                Line::Started { id } => open.push(Open {
                    id,
                    started: true,
                    boot_id: String::new(),
                    expires_at: None,
                    request: RawValue::NULL.to_owned(),
                }),
                line => untold.push(line.id().to_owned()),
            }
        }
        Ok((open, untold))
    }

    /// How it ended; none where it has not, or is not known.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn outcome(&self, id: &str) -> io::Result<Option<Box<RawValue>>> {
        match self.known.index.get(&Key::of(id)) {
            Some(Entry { state: State::Ended { .. }, place, .. }) => {
                match serde_json::from_str(&self.lines.read(*place)?)? {
                    Line::Ended { outcome, .. } => Ok(Some(outcome)),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// Writes lines and waits until they are safe. None of them counts on an error. `now` is the time where that is
    /// known for sure, to tell what is too old.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn commit(&mut self, mut lines: Vec<Line>, now: Option<Timestamp>) -> io::Result<()> {
        self.known.number(&mut lines);
        let places = self.lines.append(&texts(&lines)?)?;
        self.entered(&lines, &places);
        self.shorten(now);
        Ok(())
    }

    /// Writes without waiting for the disk.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn note(&mut self, lines: &[Line]) -> io::Result<()> {
        let places = self.lines.append_unsynced(&texts(lines)?)?;
        self.entered(lines, &places);
        Ok(())
    }

    fn entered(&mut self, lines: &[Line], places: &[Place]) {
        lines.iter().zip(places).for_each(|(line, place)| self.known.enter(*place, line));
    }

    /// Makes room, a segment at most: it is called with each commit.
    fn shorten(&mut self, now: Option<Timestamp>) {
        let bytes = self.kept.bytes + BRIEF * self.known.index.len().min(self.kept.ids) as u64;
        if self.lines.segments() < 2 || (self.lines.bytes() <= bytes && self.lines.segments() <= SEGMENTS) {
            return;
        }
        // What cannot be done now is done later; until then the log is longer.
        if let Err(error) = self.retire_first(now) {
            tracing::warn!(error = %error, "the journal cannot be shortened");
        }
    }

    /// Writes anew what is still to be known of the oldest segment, and forgets that.
    fn retire_first(&mut self, now: Option<Timestamp>) -> io::Result<()> {
        let mut again: Vec<Line> = Vec::new();
        let mut forgotten = HashSet::new();
        let newest = self.known.last.saturating_sub(self.kept.ids as u64);
        self.lines.read_first(&mut |place, text| {
            let Ok(line) = serde_json::from_str::<Line>(text) else { return };
            let key = Key::of(line.id());
            let Some(entry) = self.known.index.get(&key).filter(|entry| entry.place == place) else { return };
            let old = now.zip(at(&line)).is_some_and(|(now, at)| age(now, at) > self.kept.age);
            if matches!(entry.state, State::Ended { .. }) && (old || entry.n <= newest) {
                forgotten.insert(key);
            } else {
                again.push(self.anew(line, *entry));
            }
        })?;
        if !again.is_empty() {
            let places = self.lines.append(&texts(&again)?)?;
            self.entered(&again, &places);
        }
        self.lines.drop_first()?;
        self.known.index.retain(|key, _| !forgotten.contains(key));
        Ok(())
    }

    /// The line as it is to be written again.
    fn anew(&self, line: Line, Entry { n, state, .. }: Entry) -> Line {
        match line {
            Line::Accepted { id, at, boot_id, unnamed, expires_at, request, .. } => {
                let started = state == State::Started;
                Line::Accepted { id, n, at, boot_id, unnamed, started, expires_at, request }
            }
            Line::Ended { id, at, outcome, brief, .. } if state == (State::Ended { told: true }) => {
                let outcome = if brief { outcome } else { (self.brief)(&outcome) };
                Line::Ended { id, n, at, outcome, brief: true, told: true }
            }
            Line::Ended { id, at, outcome, brief, told, .. } => {
                Line::Ended { id, n, at, outcome, brief, told }
            }
            other => other,
        }
    }
}

impl Known {
    /// Gives each line the number of its id; an id that is new here gets the next one.
    fn number(&self, lines: &mut [Line]) {
        let mut new: HashMap<Key, u64> = HashMap::new();
        for line in lines {
            let key = Key::of(line.id());
            let (Line::Accepted { n, .. } | Line::Ended { n, .. }) = line else { continue };
            let next = self.last.saturating_add(1 + new.len() as u64);
            *n = self.index.get(&key).map_or_else(|| *new.entry(key).or_insert(next), |entry| entry.n);
        }
    }

    fn enter(&mut self, place: Place, line: &Line) {
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
                *entry = Entry { n: *n, state: State::Ended { told: *told }, place }
            }
            Line::Told { .. } => {
                let place = if over { entry.place } else { place };
                *entry = Entry { state: State::Ended { told: true }, place, ..*entry };
            }
        }
        self.last = self.last.max(entry.n);
        if let Line::Accepted { id, unnamed: true, request, .. } = line {
            self.unnamed = Some(Unnamed { id: id.clone(), request: request.get().to_owned() });
        }
    }
}

/// What the journal knows of an order; for the command line.
#[derive(Debug)]
pub(crate) struct Record {
    /// Which.
    pub(crate) id: String,
    /// When it was accepted, where that is still known.
    pub(crate) accepted: Option<Timestamp>,
    /// What was asked, where that is still known.
    pub(crate) request: Option<Box<RawValue>>,
    /// It was begun.
    pub(crate) started: bool,
    /// When it ended, and how.
    pub(crate) ended: Option<(Timestamp, Box<RawValue>)>,
}

/// Reads a journal that another process may be writing. The oldest order first.
///
/// # Errors
/// Those of the disk.
pub(crate) fn read(disk: Arc<dyn Disk>) -> io::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    Lines::open(disk, &mut |_, text| {
        let Ok(line) = serde_json::from_str::<Line>(text) else { return };
        // It says nothing of an order; of one refused without being kept it is all there is.
        if matches!(line, Line::Told { .. }) {
            return;
        }
        let at = *places.entry(Key::of(line.id())).or_insert_with(|| {
            let id = line.id().to_owned();
            records.push(Record { id, accepted: None, request: None, started: false, ended: None });
            records.len() - 1
        });
        let record = &mut records[at];
        match line {
            Line::Accepted { at, request, started, .. } => {
                (record.accepted, record.request) = (Some(at), Some(request));
                record.started |= started;
            }
            Line::Started { .. } => record.started = true,
            Line::Ended { at, outcome, brief, .. } if !brief || record.ended.is_none() => {
                record.ended = Some((at, outcome));
            }
            Line::Ended { .. } | Line::Told { .. } => {}
        }
    })?;
    Ok(records)
}

fn texts(lines: &[Line]) -> io::Result<Vec<String>> {
    lines.iter().map(|line| serde_json::to_string(line).map_err(io::Error::from)).collect()
}

/// When it was written, for lines that can become too old.
fn at(line: &Line) -> Option<Timestamp> {
    match line {
        Line::Ended { at, .. } => Some(*at),
        _ => None,
    }
}

fn age(now: Timestamp, at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.as_millis().saturating_sub(at.as_millis())).unwrap_or(0))
}

#[cfg(test)]
mod tests;
