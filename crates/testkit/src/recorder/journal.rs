//! What the recording broker has seen, on disk before anyone is told.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A PUBLISH as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The connection it came on, counted over all of the broker's lives.
    pub connection: u64,
    /// Packet identifier; 0 for QoS 0.
    pub id: u16,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The sender says that it may have sent it before.
    pub dup: bool,
    /// The sender wants it kept.
    pub retain: bool,
    /// QoS 2: the broker already had it, so that no consumer would see it again.
    pub repeated: bool,
    /// What the broker answered: 0, or the reason why it refused.
    pub code: u8,
    /// Where it was sent.
    pub topic: String,
    /// Byte for byte.
    #[serde(skip)]
    pub payload: Vec<u8>,
}

impl Published {
    /// The payload as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The broker's process began.
    Started {
        /// It was told to forget every session.
        forgetful: bool,
    },
    /// A TCP connection.
    Accepted {
        /// Its number.
        connection: u64,
    },
    /// A CONNECT to which the answer was yes.
    Connected {
        /// Which.
        connection: u64,
        /// Client id.
        client: String,
        /// 4 is MQTT 3.1.1, 5 is 5.
        level: u8,
        /// As the CONNACK said.
        session_present: bool,
        /// The session is to outlive the connection.
        persistent: bool,
        /// Most unacknowledged messages the client wants to be sent.
        receive_maximum: u16,
    },
    /// A CONNECT to which it was no.
    Refused {
        /// Which.
        connection: u64,
        /// The code of the CONNACK.
        code: u8,
    },
    /// The end of a connection.
    Closed {
        /// Which.
        connection: u64,
        /// The client said goodbye.
        goodbye: bool,
    },
    /// A granted filter.
    Subscribed {
        /// Which.
        connection: u64,
        /// Topic filter.
        filter: String,
        /// Granted.
        qos: u8,
    },
    /// A filter the client no longer wants.
    Unsubscribed {
        /// Which.
        connection: u64,
        /// Topic filter.
        filter: String,
    },
    /// A message from the client.
    Published(Published),
    /// PUBREL: an identifier of QoS 2 may be used again.
    Released {
        /// Which.
        connection: u64,
        /// Packet identifier.
        id: u16,
    },
    /// The test has a message for a client.
    Queued {
        /// Whom.
        client: String,
        /// Topic name.
        topic: String,
        /// The lower of what the test and the subscription say.
        qos: u8,
        /// Payload.
        payload: String,
    },
    /// It was sent, or sent again.
    Sent {
        /// Which.
        connection: u64,
        /// Packet identifier, given to QoS 0 as well, here only.
        id: u16,
        /// It had been sent on an earlier connection.
        dup: bool,
    },
    /// PUBREC from the client.
    Received {
        /// Which.
        connection: u64,
        /// Packet identifier.
        id: u16,
    },
    /// PUBACK or PUBCOMP from the client.
    Acknowledged {
        /// Which.
        connection: u64,
        /// Packet identifier.
        id: u16,
        /// The client's reason code.
        code: u8,
    },
    /// The client sent what the protocol, or what was announced to it, forbids.
    Violation {
        /// Which.
        connection: u64,
        /// What.
        what: String,
    },
}

/// An event and its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// On the machine's monotonic clock, the same for all processes; see [`now`].
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// This moment on the clock of [`Entry::at`].
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// The file, as the broker writes it: a record is the length of its head and of its payload, the head as JSON, and
/// the payload.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    unwritten: Vec<u8>,
}

impl Journal {
    /// Opens it behind its last whole record, and tells what stands there.
    pub(super) fn open(path: &Path) -> anyhow::Result<(Self, Vec<Entry>)> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut file = opened.context("open the journal")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("read the journal")?;
        let (entries, whole) = decode(&bytes)?;
        file.set_len(whole as u64).context("cut off what was half written")?;
        file.seek(SeekFrom::End(0)).context("go to the journal's end")?;
        Ok((Self { file, unwritten: Vec::new() }, entries))
    }

    /// On disk after the next [`Journal::commit`].
    pub(super) fn push(&mut self, event: &Event) -> anyhow::Result<()> {
        let head = serde_json::to_vec(&(now().as_micros() as u64, event)).context("encode an event")?;
        let payload: &[u8] = if let Event::Published(published) = event { &published.payload } else { &[] };
        for length in [head.len(), payload.len()] {
            self.unwritten.extend_from_slice(&(length as u32).to_be_bytes());
        }
        self.unwritten.extend_from_slice(&head);
        self.unwritten.extend_from_slice(payload);
        Ok(())
    }

    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.file.write_all(&self.unwritten)?;
        self.unwritten.clear();
        self.file.sync_data()
    }
}

/// The journal as the test reads it while the broker writes on.
#[derive(Debug, Default)]
pub(super) struct Reader {
    offset: u64,
    pub(super) entries: Vec<Entry>,
}

impl Reader {
    pub(super) fn catch_up(&mut self, path: &Path) -> anyhow::Result<()> {
        let Ok(mut file) = File::open(path) else { return Ok(()) };
        file.seek(SeekFrom::Start(self.offset)).context("seek in the journal")?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context("read the journal")?;
        let (entries, whole) = decode(&bytes)?;
        self.entries.extend(entries);
        self.offset += whole as u64;
        Ok(())
    }
}

/// The whole records, and the bytes they take.
fn decode(bytes: &[u8]) -> anyhow::Result<(Vec<Entry>, usize)> {
    let (mut entries, mut offset) = (Vec::new(), 0);
    while let Some((head, payload)) = record(&bytes[offset..]) {
        let (at, mut event): (u64, Event) = serde_json::from_slice(head).context("decode an event")?;
        if let Event::Published(published) = &mut event {
            published.payload = payload.to_vec();
        }
        entries.push(Entry { at: Duration::from_micros(at), event });
        offset += 8 + head.len() + payload.len();
    }
    Ok((entries, offset))
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = |at| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let (head, payload) = (length(0)?, length(4)?);
    Some((bytes.get(8..8 + head)?, bytes.get(8 + head..8 + head + payload)?))
}
