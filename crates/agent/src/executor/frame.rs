//! What the agent and a keeper tell each other, as bytes: a length (4 bytes, little endian) of what follows it, the
//! version, the kind, then by kind. Output is sent as it is; what has structure and is rare is JSON.
//!
//! The same bytes are read from a socket and, of heads and the end, from a spool file. Whatever they are, reading them
//! ends in a frame or a reason, in bounded memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    contain::Plan,
    job::{End, Job, Kept, Piece, Report},
};

/// Of this protocol. The keeper is the agent's own program, so both sides have the same; a spool file may be older.
const VERSION: u8 = 1;

/// The longest a keeper reads: more than Linux lets a program be given as arguments and environment.
pub(super) const MAX_ORDER: usize = 16 << 20;

/// The most a frame has besides output.
const OVERHEAD: usize = 64 << 10;

/// The longest that comes from a keeper of a job with this limit.
pub(super) fn max_answer(output_limit: u64) -> usize {
    // Two heads and two tails make twice the limit; a chunk has at most 32 KiB, which is within the overhead.
    usize::try_from(output_limit.saturating_mul(2)).unwrap_or(usize::MAX).saturating_add(OVERHEAD)
}

/// What a keeper is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(super) job: Job,
    pub(super) plan: Plan,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// To the keeper, first: do this.
    Order(Box<Order>),
    /// To the keeper: end it.
    Cancel,
    /// To the keeper: end it soon, since the agent is about to end.
    Interrupt,
    /// To the keeper: its report is in safe hands.
    Taken,
    /// The program runs.
    Started(u32),
    /// More of the head of a stream.
    Head(Stream, Vec<u8>),
    /// Output since the last chunk.
    Chunk(Piece, Piece),
    /// It is over.
    Ended(Report),
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("a frame of version {0}")]
    Version(u8),
    #[error("a frame of kind {0}")]
    Kind(u8),
    #[error("a frame with a malformed body")]
    Body,
}

/// What is before the bytes of a report.
#[derive(Serialize, Deserialize)]
struct Head {
    end: End,
    duration: Duration,
    /// Lengths of head and tail, and what was dropped between.
    stdout: (u64, u64, u64),
    stderr: (u64, u64, u64),
}

impl Frame {
    /// Its bytes, length first.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, VERSION, self.kind()];
        match self {
            Self::Order(order) => bytes.extend(json(order)),
            Self::Cancel | Self::Interrupt | Self::Taken => {}
            Self::Started(pid) => bytes.extend(pid.to_le_bytes()),
            Self::Head(stream, head) => {
                bytes.push(u8::from(*stream == Stream::Stderr));
                bytes.extend(head);
            }
            Self::Chunk(stdout, stderr) => {
                bytes.extend(stdout.dropped.to_le_bytes());
                bytes.extend(stderr.dropped.to_le_bytes());
                bytes.extend((stdout.bytes.len() as u64).to_le_bytes());
                bytes.extend(&stdout.bytes);
                bytes.extend(&stderr.bytes);
            }
            Self::Ended(report) => encode_report(report, &mut bytes),
        }
        // What is sent is bounded by the limits above; a longer one could not be read and is refused there.
        let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Order(_) => 1,
            Self::Cancel => 2,
            Self::Taken => 3,
            Self::Started(_) => 4,
            Self::Head(..) => 5,
            Self::Chunk(..) => 6,
            Self::Ended(_) => 7,
            Self::Interrupt => 8,
        }
    }
}

/// What is in a frame of any length: nothing of these types is impossible in JSON but a path that is no UTF-8, which
/// [`super::Executor::start`] refuses.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn encode_report(report: &Report, bytes: &mut Vec<u8>) {
    let lengths = |kept: &Kept| (kept.head.len() as u64, kept.tail.len() as u64, kept.dropped);
    let (stdout, stderr) = (&report.stdout, &report.stderr);
    let head = Head {
        end: report.end.clone(),
        duration: report.duration,
        stdout: lengths(stdout),
        stderr: lengths(stderr),
    };
    let head = json(&head);
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head);
    for part in [&stdout.head, &stdout.tail, &stderr.head, &stderr.tail] {
        bytes.extend(part);
    }
}

/// What follows the length.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame, Broken> {
    let (&[version, kind], body) = bytes.split_first_chunk().ok_or(Broken::Length(bytes.len()))?;
    if version != VERSION {
        return Err(Broken::Version(version));
    }
    decode_body(kind, body)?.ok_or(Broken::Body)
}

fn decode_body(kind: u8, mut body: &[u8]) -> Result<Option<Frame>, Broken> {
    Ok(match kind {
        1 => serde_json::from_slice(body).ok().map(|order| Frame::Order(Box::new(order))),
        2 => body.is_empty().then_some(Frame::Cancel),
        3 => body.is_empty().then_some(Frame::Taken),
        4 => body.try_into().ok().map(|pid| Frame::Started(u32::from_le_bytes(pid))),
        5 => match body.split_first() {
            Some((0, head)) => Some(Frame::Head(Stream::Stdout, head.to_vec())),
            Some((1, head)) => Some(Frame::Head(Stream::Stderr, head.to_vec())),
            _ => None,
        },
        6 => chunk(&mut body).filter(|_| body.is_empty()),
        7 => report(&mut body).filter(|_| body.is_empty()).map(Frame::Ended),
        8 => body.is_empty().then_some(Frame::Interrupt),
        kind => return Err(Broken::Kind(kind)),
    })
}

fn chunk(body: &mut &[u8]) -> Option<Frame> {
    let (of_stdout, of_stderr, length) = (number(body)?, number(body)?, number(body)?);
    let stdout = Piece { bytes: take(body, length)?, dropped: of_stdout };
    let stderr = Piece { bytes: std::mem::take(body).to_vec(), dropped: of_stderr };
    Some(Frame::Chunk(stdout, stderr))
}

fn report(body: &mut &[u8]) -> Option<Report> {
    let length = number(body)?;
    let head: Head = serde_json::from_slice(&take(body, length)?).ok()?;
    let mut kept =
        |(head, tail, dropped)| Some(Kept { head: take(body, head)?, tail: take(body, tail)?, dropped });
    let (stdout, stderr) = (kept(head.stdout)?, kept(head.stderr)?);
    Some(Report { end: head.end, stdout, stderr, duration: head.duration })
}

fn number(body: &mut &[u8]) -> Option<u64> {
    let (number, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(u64::from_le_bytes(*number))
}

fn take(body: &mut &[u8], length: u64) -> Option<Vec<u8>> {
    let (taken, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
    *body = rest;
    Some(taken.to_vec())
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    max: usize,
}

impl Decoder {
    /// For frames of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max }
    }

    /// Takes what arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, where all of it is there.
    ///
    /// # Errors
    /// When there is no finding the next one either.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Broken> {
        let Some((length, rest)) = self.bytes.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.max {
            return Err(Broken::Length(length));
        }
        let Some(frame) = rest.get(..length).map(decode).transpose()? else { return Ok(None) };
        self.bytes.drain(..4 + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests;
