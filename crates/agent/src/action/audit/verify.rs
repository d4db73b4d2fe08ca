//! Whether a chain of records is whole: that on disk, and any other.

use std::{io, sync::Arc};

use protocol::{
    Timestamp,
    audit::{Chain, Link},
};

use super::book::Line;
use crate::{action::lines::Lines, outbox::Disk};

/// How often a log is read again that does not seem whole: the daemon may be writing it.
const AGAIN: usize = 5;

/// Checks records one by one.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    chain: Chain,
    times: Option<(Timestamp, Timestamp)>,
    copies: u64,
}

impl Verifier {
    /// The next record, byte for byte.
    ///
    /// # Errors
    /// Why it does not fit.
    pub(crate) fn take(&mut self, record: &[u8]) -> Result<(), String> {
        match self.chain.take(record).map_err(|fault| fault.to_string())? {
            Link::Next(record) => {
                let begun = self.times.map_or(record.timestamp, |(begun, _)| begun);
                self.times = Some((begun, record.timestamp));
            }
            Link::Copy => self.copies += 1,
        }
        Ok(())
    }

    /// What there is, in one line.
    pub(crate) fn summary(&self) -> String {
        let chain = &self.chain;
        let (Some((begun, ended)), Some(first), Some((last, digest))) =
            (self.times, chain.first(), chain.last())
        else {
            return "no records".to_owned();
        };
        let dropped = if first > 1 { "; older ones are not here" } else { "" };
        let copies = if self.copies > 0 { format!("; {} copies", self.copies) } else { String::new() };
        format!(
            "{} records, whole, from {first} of {begun} to {last} of {ended}, whose SHA-256 is {digest}{dropped}{copies}",
            chain.records()
        )
    }

    /// How many records were whole so far.
    pub(crate) fn records(&self) -> usize {
        self.chain.records()
    }
}

/// What a log has in it.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The records, byte for byte.
    pub(crate) records: Vec<String>,
    /// The outbox has all up to here.
    stored: u64,
    /// Lines that are whole, and nothing that is known.
    unknown: u64,
    /// Lines that cannot be read, and stand neither for a failed write nor for one that was cut short.
    damaged: u64,
    /// There are segments of a later version.
    newer: bool,
}

impl Log {
    /// Reads it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn read(disk: Arc<dyn Disk>) -> io::Result<Self> {
        // With the number of each record, how many lines before it are damaged.
        let (mut log, mut numbers) = (Self::default(), Vec::new());
        let (_, damage) =
            Lines::open_all(disk, &mut |_, line| match line.map(|line| (line, Line::of(line))) {
                None => log.damaged += 1,
                Some((line, Some(Line::Record { seq }))) => {
                    numbers.push((seq, log.damaged));
                    log.records.push(line.to_owned());
                }
                Some((_, Some(Line::Stored { stored }))) => log.stored = log.stored.max(stored),
                Some((_, Some(Line::Void { void }))) => {
                    while numbers.pop_if(|(seq, _)| *seq >= void).is_some() {
                        log.records.pop();
                    }
                    // What came after the last record that counts, if that is the one which the writer knew.
                    let (last, before) = numbers.last().copied().unwrap_or_default();
                    if last.checked_add(1) == Some(void) {
                        log.damaged = before;
                    }
                }
                Some((_, None)) => log.unknown += 1,
            })?;
        log.newer = damage.newer > 0;
        Ok(log)
    }

    /// What is wrong with it, if anything; `verifier` tells the rest.
    fn fault(&self, verifier: &mut Verifier) -> Option<String> {
        let faulty = |record: &String| verifier.take(record.as_bytes()).err();
        if let Some(fault) = self.records.iter().find_map(faulty) {
            return Some(fault);
        }
        let last = verifier.chain.last().map_or(0, |(seq, _)| seq);
        if self.damaged > 0 {
            Some(format!("lines that are not what was written: {}", self.damaged))
        } else if self.unknown > 0 && !self.newer {
            Some(format!("{} lines are no records", self.unknown))
        } else if self.stored > last {
            Some(format!(
                "the backend was given records up to {}, and those after {last} are missing",
                self.stored
            ))
        } else {
            None
        }
    }
}

/// Checks the log on `disk`, also while it is being written.
///
/// # Errors
/// Those of the disk.
pub(crate) fn verify(disk: &Arc<dyn Disk>) -> io::Result<(Verifier, Option<String>)> {
    let look = || -> io::Result<(Verifier, Option<String>)> {
        let mut verifier = Verifier::default();
        let fault = Log::read(Arc::clone(disk))?.fault(&mut verifier);
        Ok((verifier, fault))
    };
    for _ in 1..AGAIN {
        if let Ok((verifier, None)) = look() {
            return Ok((verifier, None));
        }
    }
    look()
}
