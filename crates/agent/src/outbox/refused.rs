//! Messages that the broker will never take: set aside in a file of JSON lines, of which two generations are kept.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::Timestamp;
use serde_json::json;

use super::{Class, Record};

/// The file, and what it is called once it is full.
pub(super) const FILE: &str = "refused.jsonl";
pub(super) const OLD_FILE: &str = "refused.1.jsonl";
/// Files of messages that the broker will never take, in the outbox's folder, the older first; one JSON object a line.
pub const FILES: [&str; 2] = [OLD_FILE, FILE];
/// Most bytes that wait to be written; then the oldest go, which are counted all the same.
const BACKLOG: usize = 256 << 10;

/// A message and why it was refused.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) class: Class,
    /// Its place on disk, until the line is there.
    pub(super) index: Option<u64>,
    pub(super) text: String,
}

/// What waits to be written, and how long the files are.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) lines: VecDeque<Line>,
    /// So many of them are in the plan.
    pub(super) planned: usize,
    /// The files are to go.
    pub(super) purge: bool,
    /// They go with the plan that is being executed.
    pub(super) purging: bool,
    pub(super) size: u64,
    pub(super) old_size: u64,
}

impl Refused {
    /// Adds a line; tells those that had to go for it.
    pub(super) fn push(&mut self, line: Line) -> Vec<Line> {
        self.lines.push_back(line);
        let mut gone = Vec::new();
        while self.lines.len() > self.planned + 1
            && self.lines.iter().map(|line| line.text.len()).sum::<usize>() > BACKLOG
        {
            gone.extend(self.lines.remove(self.planned));
        }
        gone
    }
}

/// The line of a refused message, without its payload where that would take more than `most` bytes.
pub(super) fn line(class: Class, record: &Record, reason: &str, time: Timestamp, most: usize) -> String {
    let Record { topic, payload, qos, .. } = record;
    let mut line = json!({
        "time": time, "class": class, "topic": topic, "qos": qos, "reason": reason, "bytes": payload.len(),
    });
    let (key, text) = match std::str::from_utf8(payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", STANDARD.encode(payload)),
    };
    if line.to_string().len() + 2 * text.len() < most {
        line[key] = json!(text);
    }
    format!("{line}\n")
}
