//! Everything that moves through a keeper: output, frames, signals, the ends of children. Nothing in here waits but
//! [`Keeper::pump`] itself.

use std::{
    io::{self, Read as _},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::WaitOptions,
};

use super::Keeper;
use crate::executor::{frame::Frame, job::End};

/// Chunks wait for an agent that is this far behind.
const BACKLOG: usize = 256 << 10;
/// Where the system has no descriptor for signals, they are asked for this often.
const LOOK: Duration = Duration::from_millis(20);

impl Keeper {
    /// Moves whatever can be moved; waits for something to move until then at most.
    pub(super) fn pump(&mut self, until: Instant) {
        let due = self.chunks.map(|(_, at)| at);
        self.wait(due.map_or(until, |due| due.min(until)));
        if self.signals.take() {
            self.asked.get_or_insert(End::Interrupted);
        }
        self.reap();
        self.read_output();
        self.listen();
        if due.is_some_and(|due| Instant::now() >= due) {
            self.chunk();
        }
    }

    fn wait(&self, until: Instant) {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(4);
        let signals = self.signals.descriptor();
        fds.extend(signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        fds.extend(self.line.interest().map(|(stream, flags)| PollFd::new(stream, flags)));
        let pipes = self.taps.iter().filter_map(|tap| tap.pipe.as_ref());
        fds.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let mut left = until.saturating_duration_since(Instant::now());
        if signals.is_none() {
            left = left.min(LOOK);
        }
        // Interrupted or not: whoever calls looks at everything.
        poll(&mut fds, Timespec::try_from(left).ok().as_ref()).ok();
    }

    /// Takes leave of children that have ended.
    pub(super) fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => {
                    self.alone = false;
                    return;
                }
                Err(_) => {
                    self.alone = true;
                    return;
                }
            }
        }
    }

    fn read_output(&mut self) {
        for tap in &mut self.taps {
            let Some(pipe) = &mut tap.pipe else { continue };
            match pipe.read(&mut self.buffer) {
                Ok(0) => tap.pipe = None,
                Ok(read) => {
                    let head = tap.keep.push(&self.buffer[..read]);
                    if !head.is_empty() {
                        let frame = Frame::Head(tap.stream, head.to_vec()).encode();
                        self.line.push(&frame);
                        self.spool.add(&frame);
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => tap.pipe = None,
            }
        }
    }

    fn listen(&mut self) {
        loop {
            match self.line.exchange() {
                Ok(Some(Frame::Order(order))) => self.order = Some(order),
                Ok(Some(Frame::Cancel)) => drop(self.asked.get_or_insert(End::Cancelled)),
                Ok(Some(Frame::Interrupt)) => drop(self.asked.get_or_insert(End::Interrupted)),
                Ok(Some(Frame::Taken)) => self.taken = true,
                Ok(None) => break,
                // Not the agent's words: it is as good as gone.
                Ok(Some(_)) | Err(_) => {
                    self.asked.get_or_insert(End::Interrupted);
                    break;
                }
            }
        }
        if self.line.gone() {
            self.asked.get_or_insert(End::Interrupted);
        }
    }

    /// Output since the last chunk, if there was any, and if the agent has read what came before.
    pub(super) fn chunk(&mut self) {
        let Some((every, at)) = &mut self.chunks else { return };
        *at = Instant::now() + *every;
        if self.line.waiting() > BACKLOG {
            return;
        }
        let mut pieces = self.taps.iter_mut().map(|tap| tap.keep.chunk());
        let (stdout, stderr) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
        drop(pieces);
        if !(stdout.is_empty() && stderr.is_empty()) {
            self.line.push(&Frame::Chunk(stdout, stderr).encode());
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
