//! The journal as the command line shows it.

use std::{collections::HashMap, io, sync::Arc};

use protocol::Timestamp;
use serde_json::value::RawValue;

use super::{Key, Line, Lines};
use crate::outbox::Disk;

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
        // It says nothing of an order; of one whose other lines are lost it is all there is.
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
