//! One conversation on the socket: requests in, replies out, each a line of JSON.

use std::{io, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{Command, MAX_REQUEST, PATIENCE};

/// The daemon's end.
#[derive(Debug)]
pub struct Talk {
    input: BufReader<OwnedReadHalf>,
    replies: Replies,
}

/// The way back to the client.
#[derive(Debug)]
pub(crate) struct Replies {
    output: OwnedWriteHalf,
}

/// The reason is for the user.
pub(super) type Request = Result<Command, String>;

impl Talk {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (input, output) = stream.into_split();
        Self { input: BufReader::new(input), replies: Replies { output } }
    }

    /// What the client sends, and the way back to it.
    pub(crate) fn split(self) -> (Replies, BufReader<OwnedReadHalf>) {
        (self.replies, self.input)
    }

    /// The next request; `None` at the end. A line too long ends the conversation, as its rest would be in the way.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Request>> {
        let mut line = Vec::new();
        let mut input = (&mut self.input).take(MAX_REQUEST);
        timeout(PATIENCE, input.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() as u64 == MAX_REQUEST && !line.ends_with(b"\n") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request too long"));
        }
        Ok(Some(serde_json::from_slice(&line).map_err(|error| wrong(&line, &error))))
    }

    /// See [`Replies::send`].
    pub(crate) async fn send(&mut self, reply: &impl Serialize, patience: Duration) -> io::Result<()> {
        self.replies.send(reply, patience).await
    }
}

impl Replies {
    /// Sends one reply to a client that takes it within `patience`.
    pub(crate) async fn send(&mut self, reply: &impl Serialize, patience: Duration) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        timeout(patience, self.output.write_all(&line)).await?
    }
}

/// What is wrong with a request: of a command that exists, which part.
fn wrong(line: &[u8], error: &serde_json::Error) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        command: String,
    }
    const KNOWN: [&str; 8] = [
        "status",
        "publish",
        "outbox_stats",
        "outbox_list",
        "outbox_purge",
        "cancel",
        "update_install",
        "update_rollback",
    ];
    match serde_json::from_slice::<Named>(line) {
        Ok(Named { command }) if KNOWN.contains(&command.as_str()) => format!("bad request: {error}"),
        _ => "unknown command".to_owned(),
    }
}
