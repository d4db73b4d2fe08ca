//! The record of remote actions: what was asked, refused and done, each chained to the one before by its hash.

use std::fmt;

use ring::digest::{SHA256, digest as hash};
use serde::{Deserialize, Serialize};

use crate::{DeviceId, Timestamp, hex};

/// `prev` of the first record.
pub const FIRST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The payload of `{prefix}/{device_id}/audit`. Its bytes, as they were sent, are what the next one's `prev` is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub device_id: DeviceId,
    /// When it was written.
    pub timestamp: Timestamp,
    /// Counts from 1, without gaps, across restarts.
    pub seq: u64,
    /// The [`digest`] of the record before; of the first [`FIRST`].
    pub prev: String,
    /// `command`, `ssh` or `update`.
    pub action: String,
    /// Which one: its execution_id, request_id or update_id.
    pub id: String,
    /// What came of it.
    pub decision: Decision,
    /// The rule of the device's owner by which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What was asked, why it was refused, how it ended.
    pub detail: String,
}

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was asked for and allowed: written before it begins.
    Asked,
    /// It is not done.
    Refused,
    /// It has ended.
    Done,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Asked => "asked",
            Self::Refused => "refused",
            Self::Done => "done",
        })
    }
}

/// Where the records go: the same in both layouts.
pub fn topic(prefix: &str, device_id: &DeviceId) -> String {
    format!("{prefix}/{device_id}/audit")
}

/// SHA-256 of a record's bytes, in lower-case hex.
pub fn digest(record: &[u8]) -> String {
    hex::encode(hash(&SHA256, record).as_ref())
}

/// Checks records in the order in which they come. It may begin with any: older ones are dropped some day.
///
/// It cannot know of a record that was changed or left out at the end: keep the [`Chain::last`] of each check.
#[derive(Debug, Default)]
pub struct Chain {
    first: u64,
    /// Of each record since the first.
    digests: Vec<String>,
}

/// What a record is in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// It follows the one before.
    Next(Record),
    /// A copy, byte for byte, of one that was there: what is sent at least once may come twice.
    Copy,
}

/// Why a record does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no record at all.
    #[error("this is no record: {0}")]
    Unreadable(String),
    /// It claims to be the first, and is not.
    #[error("record 1 claims to follow another: it was changed")]
    Beginning,
    /// It does not follow the one that is there.
    #[error("record {seq} does not follow the record {} that is here: one of the two was changed", seq - 1)]
    Changed {
        /// Its number.
        seq: u64,
    },
    /// Others belong before it.
    #[error("record {seq} follows record {after}: what was between them is missing")]
    Missing {
        /// Its number.
        seq: u64,
        /// That of the one before it.
        after: u64,
    },
    /// It is older than the first.
    #[error("record {seq} comes after record {after}: they were reordered")]
    Reordered {
        /// Its number.
        seq: u64,
        /// That of the one before it.
        after: u64,
    },
    /// There is another record of this number.
    #[error("there are two different records {seq}: the chain was forked")]
    Forked {
        /// Its number.
        seq: u64,
    },
}

impl Chain {
    /// Takes the next record, byte for byte as it was sent. One that does not fit is not taken.
    ///
    /// # Errors
    /// Why it does not fit.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Link, Fault> {
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| Fault::Unreadable(error.to_string()))?;
        let (seq, digest) = (record.seq, digest(bytes));
        let Some((after, last)) = self.last() else {
            if seq == 0 || (seq == 1) != (record.prev == FIRST) {
                return Err(Fault::Beginning);
            }
            self.first = seq;
            self.digests.push(digest);
            return Ok(Link::Next(record));
        };
        if seq <= after {
            let index = seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            return match index.and_then(|index| self.digests.get(index)) {
                Some(known) if *known == digest => Ok(Link::Copy),
                Some(_) => Err(Fault::Forked { seq }),
                None => Err(Fault::Reordered { seq, after }),
            };
        }
        if seq - after > 1 {
            return Err(Fault::Missing { seq, after });
        }
        if record.prev != last {
            return Err(Fault::Changed { seq });
        }
        self.digests.push(digest);
        Ok(Link::Next(record))
    }

    /// Number and digest of the last record.
    pub fn last(&self) -> Option<(u64, &str)> {
        let digest = self.digests.last()?;
        Some((self.first + (self.digests.len() - 1) as u64, digest))
    }

    /// Number of the first record.
    pub fn first(&self) -> Option<u64> {
        (!self.digests.is_empty()).then_some(self.first)
    }

    /// How many records there are, copies apart.
    pub fn records(&self) -> usize {
        self.digests.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u64) -> Vec<Vec<u8>> {
        let mut records: Vec<Vec<u8>> = Vec::new();
        for seq in 1..=count {
            let prev = records.last().map_or(FIRST.to_owned(), |last| digest(last));
            let record = Record {
                device_id: "d1".parse().unwrap(),
                timestamp: "2026-01-31T12:00:00.123Z".parse().unwrap(),
                seq,
                prev,
                action: "command".into(),
                id: format!("c{seq}"),
                decision: Decision::Asked,
                rule: None,
                detail: String::new(),
            };
            records.push(serde_json::to_vec(&record).unwrap());
        }
        records
    }

    fn verify(records: &[Vec<u8>]) -> Result<usize, Fault> {
        let mut chain = Chain::default();
        records.iter().try_for_each(|record| chain.take(record).map(drop))?;
        Ok(chain.records())
    }

    #[test]
    fn what_follows_is_whole_from_wherever_it_begins() {
        let all = records(5);
        assert_eq!(verify(&[]), Ok(0));
        assert_eq!(verify(&all), Ok(5));
        assert_eq!(verify(&all[3..]), Ok(2));
        let copies = [&all[..4], &all[2..]].concat();
        assert_eq!(verify(&copies), Ok(5));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let all = records(5);
        let with = |at: usize, record: Vec<u8>| {
            let mut changed = all.clone();
            changed[at] = record;
            verify(&changed)
        };
        let edit = |at: usize, from: &str, to: &str| {
            String::from_utf8(all[at].clone()).unwrap().replace(from, to).into_bytes()
        };
        assert_eq!(with(2, edit(2, "\"c3\"", "\"c9\"")), Err(Fault::Changed { seq: 4 }));
        assert_eq!(with(0, edit(0, "\"prev\":\"0", "\"prev\":\"1")), Err(Fault::Beginning));
        assert_eq!(with(0, edit(0, "\"seq\":1", "\"seq\":0")), Err(Fault::Beginning));
        assert!(matches!(with(1, b"{}".to_vec()), Err(Fault::Unreadable(_))));
        let without = [&all[..2], &all[3..]].concat();
        assert_eq!(verify(&without), Err(Fault::Missing { seq: 4, after: 2 }));
        let forked = [all.clone(), vec![edit(4, "\"c5\"", "\"c6\"")]].concat();
        assert_eq!(verify(&forked), Err(Fault::Forked { seq: 5 }));
        let reordered = [&all[2..], &all[..1]].concat();
        assert_eq!(verify(&reordered), Err(Fault::Reordered { seq: 1, after: 5 }));
        let swapped = [all[0].clone(), all[2].clone(), all[1].clone()];
        assert_eq!(verify(&swapped), Err(Fault::Missing { seq: 3, after: 1 }));
    }
}
