//! What has been asked of this device, and what became of it: written before anything is done, so that nothing is done
//! twice.
//!
//! An id is known from its first line on, through restarts, until [`Kept`] says otherwise: by number and
//! not by age, since no clock of a device is to be trusted so far. When the log grows too long its oldest segment goes, and of each id in it a brief line is
//! written anew.
//!
//! Calls block for as long as the disk does.

use std::{io, sync::Arc};

use protocol::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::lines::{Lines, Place};
use crate::outbox::Disk;
use known::{Entry, Key, Known};
pub(crate) use record::{Record, read};

mod known;
mod record;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// No id is forgotten before so many newer ones have come.
    pub(crate) ids: usize,
    /// Bytes on disk, beside a brief line of each id.
    pub(crate) bytes: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { ids: 100_000, bytes: 16 << 20 }
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

/// An id, and how it has ended.
pub(crate) type Untold = (String, Box<RawValue>);

/// The folder of a service's journal, in the service's own.
pub(crate) const FOLDER: &str = "journal";

/// The journal of one service.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: Lines,
    known: Known,
    kept: Kept,
    /// Makes an outcome brief.
    brief: fn(&RawValue) -> Box<RawValue>,
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
        let (mut lines, damage) = Lines::open(disk, &mut |place, text| {
            if let Ok(line) = serde_json::from_str(text) {
                known.enter(place, &line);
            }
        })?;
        if damage.lines > 0 {
            tracing::warn!(lines = damage.lines, "the journal is damaged: these are lost");
        }
        // What is told must not be gone after a power cut. Where that cannot be made sure, knowing it is better than not.
        if let Err(error) = lines.sync() {
            tracing::warn!(error = %error, "the journal cannot be synced");
        }
        Ok(Self { lines, known, kept, brief })
    }

    /// How far it is with this id; none where it is not known.
    pub(crate) fn state(&self, id: &str) -> Option<State> {
        self.known.index.get(&Key::of(id)).map(|entry| entry.state)
    }

    /// The id that was given to this request, if it is among the last that came without one; and when that ended.
    pub(crate) fn unnamed(&self, request: &str) -> Option<(&str, Option<Timestamp>)> {
        let key = Key::of(request);
        let last = self.known.unnamed.iter().rfind(|unnamed| unnamed.request == key)?;
        Some((&last.id, last.ended))
    }

    /// What has not met its end, and each end that has not been told; in the order in which they were written.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn unfinished(&self) -> io::Result<(Vec<Open>, Vec<Untold>)> {
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
                Line::Ended { id, outcome, .. } => untold.push((id, outcome)),
                // No such line is where an end that was not told is.
                Line::Told { .. } => {}
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

    /// Writes lines and waits until they are safe. None of them counts on an error.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn commit(&mut self, mut lines: Vec<Line>) -> io::Result<()> {
        self.known.number(&mut lines);
        let places = self.lines.append(&texts(&lines)?)?;
        self.entered(&lines, &places);
        self.shorten();
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
    fn shorten(&mut self) {
        let bytes = self.kept.bytes + BRIEF * self.known.index.len().min(self.kept.ids) as u64;
        if self.lines.segments() < 2 || (self.lines.bytes() <= bytes && self.lines.segments() <= SEGMENTS) {
            return;
        }
        // What cannot be done now is done later; until then the log is longer.
        if let Err(error) = self.retire_first() {
            tracing::warn!(error = %error, "the journal cannot be shortened");
        }
    }

    /// Writes anew what is still to be known of the oldest segment, and forgets that.
    fn retire_first(&mut self) -> io::Result<()> {
        let mut again: Vec<Line> = Vec::new();
        let mut forgotten: Vec<Key> = Vec::new();
        let newest = self.known.last.saturating_sub(self.kept.ids as u64);
        self.lines.read_first(&mut |place, text| {
            let Ok(line) = serde_json::from_str::<Line>(text) else { return };
            let key = Key::of(line.id());
            let Some(entry) = self.known.index.get(&key).filter(|entry| entry.place == place) else { return };
            if matches!(entry.state, State::Ended { .. }) && entry.n <= newest {
                forgotten.push(key);
            } else {
                again.push(self.anew(line, *entry));
            }
        })?;
        if !again.is_empty() {
            let places = self.lines.append(&texts(&again)?)?;
            self.entered(&again, &places);
        }
        self.lines.drop_first()?;
        for key in forgotten {
            self.known.index.remove(&key);
        }
        Ok(())
    }

    /// The line as it is to be written again.
    fn anew(&self, mut line: Line, entry: Entry) -> Line {
        match &mut line {
            Line::Accepted { n, started, .. } => (*n, *started) = (entry.n, entry.state == State::Started),
            Line::Ended { n, outcome, brief, told, .. } => {
                *n = entry.n;
                *told = entry.state == (State::Ended { told: true });
                if *told && !std::mem::replace(brief, true) {
                    *outcome = (self.brief)(outcome);
                }
            }
            Line::Started { .. } | Line::Told { .. } => {}
        }
        line
    }
}

fn texts(lines: &[Line]) -> io::Result<Vec<String>> {
    lines.iter().map(|line| serde_json::to_string(line).map_err(io::Error::from)).collect()
}

#[cfg(test)]
mod tests;
