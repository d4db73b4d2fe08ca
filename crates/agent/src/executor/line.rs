//! The keeper's end of the socket to the agent: never waits, neither to read nor to write.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::event::PollFlags;

use super::frame::{Broken, Decoder, Frame};

/// One end.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    /// Whether the other side has gone away.
    gone: bool,
}

impl Line {
    /// On a socket.
    pub(super) fn new(socket: OwnedFd, max: usize) -> io::Result<Self> {
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self { stream, decoder: Decoder::new(max), out: Vec::new(), gone: false })
    }

    /// Sends a frame's bytes, as soon as there is room.
    pub(super) fn push(&mut self, frame: &[u8]) {
        if !self.gone {
            self.out.extend(frame);
            self.flush();
        }
    }

    /// How many bytes wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Whether nobody is there any more.
    pub(super) fn gone(&self) -> bool {
        self.gone
    }

    /// What to look out for.
    pub(super) fn interest(&self) -> Option<(&UnixStream, PollFlags)> {
        let out = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        (!self.gone).then_some((&self.stream, PollFlags::IN | out))
    }

    /// Sends what can be sent and reads what is there.
    ///
    /// # Errors
    /// When what is there is no frame.
    pub(super) fn exchange(&mut self) -> Result<Option<Frame>, Broken> {
        self.flush();
        let mut buffer = [0; 16 << 10];
        while !self.gone {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.lose(),
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lose(),
            }
        }
        self.decoder.next()
    }

    fn flush(&mut self) {
        while !self.out.is_empty() && !self.gone {
            match self.stream.write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What it had said before it went is read all the same.
                Err(_) => self.out.clear(),
            }
        }
    }

    fn lose(&mut self) {
        self.gone = true;
        self.out = Vec::new();
    }
}
