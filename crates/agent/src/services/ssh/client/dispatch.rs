//! What the server says about ports and channels (RFC 4254), and which channels it may open.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    channel::{self, Channel, PROHIBITED, SHORTAGE},
    core::State,
    forward::{Open, Target},
    wire::{Malformed, Reader, msg},
};

/// Channels at once, over all ports, with those that the server does not finish.
const CHANNELS: usize = 4096;

/// What the server opens, and may.
pub(super) struct Wanted {
    pub(super) id: u32,
    pub(super) target: Arc<Target>,
    pub(super) open: Open,
    pub(super) token: CancellationToken,
}

impl State {
    /// A message of the connection protocol (RFC 4254).
    pub(super) fn connection(&mut self, message: &[u8]) -> Result<Option<Wanted>, Malformed> {
        let mut reader = Reader::new(&message[1..]);
        match message[0] {
            msg::GLOBAL_REQUEST => {
                reader.string()?;
                if reader.bool()? {
                    self.port.message(&[msg::REQUEST_FAILURE]);
                }
            }
            msg::REQUEST_SUCCESS => self.answered(Some(reader.rest()))?,
            msg::REQUEST_FAILURE => self.answered(None)?,
            msg::CHANNEL_OPEN => return self.wanted(reader),
            msg::CHANNEL_DATA => self.received(reader.u32()?, reader.string()?, false)?,
            msg::CHANNEL_EXTENDED_DATA => {
                let (id, _kind) = (reader.u32()?, reader.u32()?);
                self.received(id, reader.string()?, true)?;
            }
            msg::CHANNEL_WINDOW_ADJUST => self.widened(reader.u32()?, reader.u32()?)?,
            msg::CHANNEL_EOF => self.finished(reader.u32()?)?,
            msg::CHANNEL_CLOSE => self.closed(reader.u32()?)?,
            msg::CHANNEL_REQUEST => {
                let id = reader.u32()?;
                reader.string()?;
                if reader.bool()? {
                    self.message(msg::CHANNEL_FAILURE, id, &[]);
                }
            }
            _ => return Err(Malformed),
        }
        Ok(None)
    }

    /// The server wants a channel: for somebody who connects to a port that leads here, and for nothing else.
    fn wanted(&mut self, mut reader: Reader<'_>) -> Result<Option<Wanted>, Malformed> {
        let kind = reader.string()?;
        let (theirs, window, packet) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if kind != b"forwarded-tcpip" {
            channel::refuse(self, theirs, PROHIBITED, "nothing of this kind is offered");
            return Ok(None);
        }
        let (_address, port) = (reader.string()?, reader.u32()?);
        let listener = u16::try_from(port).ok().and_then(|port| self.listeners.get(&port));
        let Some(listener) = listener else {
            channel::refuse(self, theirs, PROHIBITED, "nothing listens on this port");
            return Ok(None);
        };
        let open = listener.traffic.open(listener.most).filter(|_| self.channels.len() < CHANNELS);
        let Some(open) = open else {
            channel::refuse(self, theirs, SHORTAGE, "too many connections");
            return Ok(None);
        };
        let (target, token) = (Arc::clone(&listener.target), listener.token.clone());
        let channel = Channel::new(theirs, window, packet, Arc::clone(&listener.traffic));
        let id = self.next_channel;
        self.next_channel = self.next_channel.wrapping_add(1);
        if self.channels.insert(id, channel).is_some() {
            // After four thousand million of them.
            return Err(Malformed);
        }
        Ok(Some(Wanted { id, target, open, token }))
    }
}
