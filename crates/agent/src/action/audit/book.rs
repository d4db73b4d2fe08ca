//! The log of records on disk, and what of it the outbox has.
//!
//! Three kinds of lines: a record, as it is sent; `{"stored":N}`, the outbox has all up to N; `{"void":N}`, what stands
//! before it with the number N or a higher one, and what cannot be read after record N-1, was never recorded, since its
//! writing failed or was cut short.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use protocol::audit::{FIRST, Record, digest};
use serde::Deserialize;
use tracing::{info, warn};

use super::{BATCH, Note};
use crate::{
    action::lines::{Damage, Lines},
    outbox::Disk,
};

/// Most bytes of the log, of which the oldest segment goes when there is no room.
const LONGEST: u64 = 8 << 20;
/// What is added at once never takes more.
const ROOM: u64 = 2 << 20;

/// A line of the log.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Stored { stored: u64 },
    Void { void: u64 },
    Record { seq: u64 },
}

impl Line {
    /// None for what a later version may write there.
    pub(super) fn of(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// The log.
#[derive(Debug)]
pub(super) struct Book {
    lines: Lines,
    /// The number of the last record, and its digest.
    last: (u64, String),
    /// The outbox has all up to here, and this is on disk.
    stored: u64,
    /// As `stored`, not on disk yet.
    marked: u64,
    /// What the outbox was not given yet.
    unsent: BTreeMap<u64, String>,
    /// What was written last failed or was cut short, and may still be found there.
    void: bool,
}

/// What reading has come to.
struct Reading {
    /// Number and digest of the last few: a failed batch may have to be taken back.
    recent: VecDeque<(u64, String)>,
    stored: u64,
    unsent: BTreeMap<u64, String>,
    /// After the last record there is something that cannot be read.
    cut_short: bool,
}

impl Reading {
    fn take(&mut self, line: Option<&str>) {
        let Some(line) = line else {
            self.cut_short = true;
            return;
        };
        match Line::of(line) {
            Some(Line::Record { seq, .. }) => {
                self.cut_short = false;
                self.recent.push_back((seq, digest(line.as_bytes())));
                if self.recent.len() > 2 * BATCH {
                    self.recent.pop_front();
                }
                self.unsent.insert(seq, line.to_owned());
            }
            Some(Line::Stored { stored }) => {
                self.stored = self.stored.max(stored);
                self.unsent = self.unsent.split_off(&stored.saturating_add(1));
            }
            Some(Line::Void { void }) => {
                self.cut_short = false;
                self.recent.retain(|(seq, _)| *seq < void);
                self.unsent.split_off(&void);
            }
            None => {}
        }
    }
}

impl Book {
    /// Reads the log.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut reading =
            Reading { recent: VecDeque::new(), stored: 0, unsent: BTreeMap::new(), cut_short: false };
        let (mut lines, damage) = Lines::open_all(disk, &mut |_, line| reading.take(line))?;
        // What is sent must not be gone after a power cut, and its number given again.
        lines.sync()?;
        let Reading { mut recent, stored, unsent, cut_short } = reading;
        if cut_short {
            warn!("the end of the audit log cannot be read: it goes on from the last whole record");
        } else if damage != Damage::default() {
            // Or it has an end that was cut short, of which there is a record; `iot-agent audit verify` tells.
            info!(lines = damage.lines, newer = damage.newer, "not all lines of the audit log can be read");
        }
        let (seq, digest) = recent.pop_back().unwrap_or((0, FIRST.to_owned()));
        // A number that the backend knows is not given again, though its record is lost here; nor one that is still to be sent.
        let waiting = unsent.keys().next_back().copied().unwrap_or(0);
        let last = (seq.max(stored).max(waiting), digest);
        Ok(Self { lines, last, stored, marked: stored, unsent, void: cut_short })
    }

    /// Writes a record of each note, and what the outbox has; waits for the disk only where there are notes.
    ///
    /// # Errors
    /// Those of the disk: nothing was recorded.
    pub(super) fn append(
        &mut self,
        notes: &[Note],
        make: impl Fn(&Note, u64, &str) -> Record,
    ) -> io::Result<()> {
        let mut lines = Vec::with_capacity(notes.len() + 2);
        if self.void {
            lines.push(format!(r#"{{"void":{}}}"#, after(self.last.0)?));
        }
        if self.marked > self.stored {
            lines.push(format!(r#"{{"stored":{}}}"#, self.marked));
        }
        if lines.is_empty() && notes.is_empty() {
            return Ok(());
        }
        self.make_room()?;
        if notes.is_empty() {
            self.lines.append_unsynced(&lines)?;
            self.void = false;
        } else {
            self.record(lines, notes, make)?;
        }
        self.stored = self.marked;
        Ok(())
    }

    fn record(
        &mut self,
        mut lines: Vec<String>,
        notes: &[Note],
        make: impl Fn(&Note, u64, &str) -> Record,
    ) -> io::Result<()> {
        let (mut last, mut unsent) = (self.last.clone(), Vec::with_capacity(notes.len()));
        for note in notes {
            let seq = after(last.0)?;
            let record = serde_json::to_string(&make(note, seq, &last.1))?;
            last = (seq, digest(record.as_bytes()));
            lines.push(record.clone());
            unsent.push((seq, record));
        }
        // Until it has succeeded: what failed may be found there.
        self.void = true;
        self.lines.append(&lines)?;
        self.void = false;
        self.last = last;
        self.unsent.extend(unsent);
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        while self.lines.bytes() > LONGEST - ROOM && self.lines.segments() > 1 {
            self.lines.drop_first()?;
        }
        Ok(())
    }

    /// The outbox has all up to `seq` on disk.
    pub(super) fn stored(&mut self, seq: u64) {
        self.marked = self.marked.max(seq);
    }

    /// The oldest record that the outbox was not given.
    pub(super) fn to_send(&self) -> Option<(u64, &str)> {
        self.unsent.first_key_value().map(|(seq, record)| (*seq, record.as_str()))
    }

    /// It has it now.
    pub(super) fn sent(&mut self, seq: u64) {
        self.unsent.remove(&seq);
    }
}

fn after(seq: u64) -> io::Result<u64> {
    seq.checked_add(1).ok_or_else(|| io::Error::other("no number is left"))
}
