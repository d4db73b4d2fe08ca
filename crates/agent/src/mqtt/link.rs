//! One connection: CONNECT, the subscriptions, the birth, then messages both ways until it ends.
//!
//! Order is its promise: after a CONNACK nothing is published before the subscriptions are granted, and
//! nothing before the birth. Every wait for the broker has a deadline.

mod clocks;
mod lost;
mod receiving;
mod sending;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{
    Message, Presence, Qos, Settings, Shared,
    codec::{Connect, Limits, Wire},
    frame::Framer,
    queue::Queued,
    session::Session,
    transport::Stream,
};
use clocks::Clocks;
pub(super) use lost::Lost;

/// How long the broker may take for CONNACK, for a SUBACK, for any PUBACK while messages are in flight, and
/// for taking bytes from us.
const PATIENCE: Duration = Duration::from_secs(20);
/// No more is encoded ahead of what the socket takes.
const AHEAD: usize = 16 * 1024;
/// With so much unsent nothing more is read: the answers to a broker that talks and does not listen are bounded.
const BACKLOG: usize = 4 * AHEAD;
/// Messages taken from the broker and not acknowledged, at most, where no claim is smaller.
const RECEIVE_MAXIMUM: u16 = 32;

/// How a connection ended when nothing went wrong.
pub(super) enum End {
    /// Asked to stop.
    Stopped,
    /// Asked to connect anew.
    Again,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// CONNECT is on its way.
    Connack,
    /// SUBSCRIBE is on its way; nothing is published until its SUBACK.
    Subscribing { id: u16, filters: Vec<String> },
    /// Messages flow.
    Up,
    /// The goodbye is on its way, then DISCONNECT.
    Leaving,
}

/// One connection and what it borrows from the driver.
pub(super) struct Link<'a> {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    framer: Framer,
    out: Vec<u8>,
    /// How much of `out` the socket has taken.
    written: usize,
    unflushed: bool,
    wire: Wire,
    number: u64,
    shared: &'a Arc<Shared>,
    session: &'a mut Session,
    phase: Phase,
    born: bool,
    limits: Limits,
    session_present: bool,
    clocks: Clocks,
    /// Messages handed to inboxes and not settled.
    outstanding: usize,
    /// Something stayed unacknowledged: connect anew, so that it comes again.
    redeliver: bool,
    /// Without a session nothing comes again: what is lost is acknowledged, not to block the broker's window.
    keeps_session: bool,
    /// While the broker has no room for messages.
    longest_pause: Duration,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        stream: Stream,
        wire: Wire,
        number: u64,
        shared: &'a Arc<Shared>,
        session: &'a mut Session,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            framer: Framer::new(0),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            wire,
            number,
            shared,
            session,
            phase: Phase::Connack,
            born: false,
            limits: Limits::default(),
            session_present: false,
            clocks: Clocks::new(PATIENCE),
            outstanding: 0,
            redeliver: false,
            keeps_session: false,
            longest_pause: PATIENCE,
        }
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self, settings: &Settings, presence: &dyn Presence) -> Result<End, Lost> {
        self.framer = Framer::new(settings.max_packet_size);
        self.clocks.keep_alive = settings.keep_alive;
        self.keeps_session = !settings.session_expiry.is_zero();
        self.longest_pause = settings.reconnect.max;
        self.connect(settings, presence.will().as_ref())?;
        loop {
            if let Some(end) = self.pump(presence)? {
                return self.finish(end).await;
            }
            if self.written < self.out.len() {
                self.clocks.stalled.get_or_insert_with(Instant::now);
            }
            let deadline = self.deadline();
            let unsent = self.out.len() - self.written;
            let idle = unsent == 0;
            tokio::select! {
                read = self.reader.read_buf(self.framer.buffer()), if unsent < BACKLOG => self.absorb(read).await?,
                wrote = push(&mut self.writer, &self.out[self.written..]), if !idle || self.unflushed => {
                    self.advance(wrote)?;
                }
                () = self.shared.wake.notified() => {}
                () = sleep_until(deadline) => self.expire()?,
            }
        }
    }

    fn connect(&mut self, settings: &Settings, will: Option<&Message>) -> Result<(), Lost> {
        let credentials = &settings.credentials;
        let smallest = self.shared.state().router.smallest();
        let receive_maximum = smallest.and_then(|n| u16::try_from(n).ok()).unwrap_or(RECEIVE_MAXIMUM);
        let connect = Connect {
            client_id: &settings.client_id,
            username: credentials.username.as_deref(),
            password: credentials.password.as_ref().map(|password| password.as_slice()),
            // Rounded up, and not to 0, which would be never: we ping at the exact time, the broker gives half as
            // much again.
            keep_alive: u16::try_from(settings.keep_alive.as_millis().div_ceil(1000)).unwrap_or(u16::MAX),
            clean_start: settings.session_expiry.is_zero(),
            session_expiry: u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX),
            receive_maximum: receive_maximum.min(RECEIVE_MAXIMUM),
            max_packet_size: settings.max_packet_size,
            will,
        };
        self.out = self.wire.connect(&connect).map_err(Lost::Encode)?;
        Ok(())
    }

    /// Encodes whatever may be sent now. Tells when there is nothing left to do here.
    fn pump(&mut self, presence: &dyn Presence) -> Result<Option<End>, Lost> {
        self.answer();
        self.shared.settle();
        let late = self.is_late();
        match self.phase {
            Phase::Connack => return Ok(late.then_some(End::Stopped)),
            Phase::Subscribing { .. } if !late => return Ok(None),
            Phase::Leaving => return Ok(self.left()),
            // The SUBACK does not come: without the goodbye an "online" would outlive us.
            Phase::Subscribing { .. } => {
                self.leave();
                return Ok(self.left());
            }
            Phase::Up => {}
        }
        // Before the birth: an "online" without a will behind it could outlive us. Not when we are leaving: there
        // will be no other connection for the goodbye.
        let again = std::mem::take(&mut self.shared.state().reconnect) || self.redelivers();
        if again && self.shared.state().stop.is_none() {
            return Ok(Some(End::Again));
        }
        if self.subscribe()? {
            return Ok(None);
        }
        if !self.born {
            self.bear(presence);
        }
        self.fill();
        self.leave();
        Ok(if self.phase == Phase::Leaving { self.left() } else { None })
    }

    /// Asked to stop, and the time for what waits is up.
    fn is_late(&self) -> bool {
        self.shared.state().stop.as_ref().is_some_and(|stop| Instant::now() >= stop.by)
    }

    /// Acknowledges what has been taken responsibility for, and what the broker could not send again.
    fn answer(&mut self) {
        let receipts = std::mem::take(&mut self.shared.state().acks);
        let number = self.number;
        for receipt in receipts.into_iter().filter(|receipt| receipt.connection == number) {
            self.outstanding -= 1;
            if receipt.taken || !self.keeps_session {
                self.acknowledge(receipt.id, receipt.qos);
            } else {
                self.redeliver = true;
            }
        }
    }

    /// Everything that could be handled has been, and what could not can be now.
    fn redelivers(&self) -> bool {
        self.redeliver
            && self.outstanding == 0
            && self.clocks.began + SETTLE <= Instant::now()
            && !self.shared.state().router.has_vacancy()
    }

    fn acknowledge(&mut self, id: u16, qos: Qos) {
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.out.extend(Wire::puback(id)),
            Qos::ExactlyOnce => {
                self.session.taken(id);
                self.out.extend(Wire::pubrec(id));
            }
        }
    }

    /// Begins to leave once everything has been sent, or the time for that is up.
    fn leave(&mut self) {
        let goodbye = {
            let mut state = self.shared.state();
            let Some(stop) = &state.stop else { return };
            let done = self.session.is_idle() && state.queue.is_empty();
            if !done && Instant::now() < stop.by {
                return;
            }
            state.stop.as_mut().and_then(|stop| stop.goodbye.take())
        };
        self.phase = Phase::Leaving;
        self.clocks.phase = Instant::now();
        if let Some(goodbye) = goodbye {
            self.send(Queued::unawaited(goodbye));
        }
    }

    /// Everything is acknowledged, or the broker took too long.
    fn left(&self) -> Option<End> {
        let patience = self.clocks.phase + LEAVING;
        (self.session.is_idle() || Instant::now() >= patience).then_some(End::Stopped)
    }

    /// DISCONNECT, so that the broker drops the will: but where no goodbye could be said, the will has to say that
    /// we are gone, lest an "online" of an earlier connection stays.
    async fn finish(mut self, end: End) -> Result<End, Lost> {
        if self.phase == Phase::Leaving || matches!(end, End::Again) {
            self.out.extend(Wire::DISCONNECT);
        }
        let bye = async {
            self.writer.write_all(&self.out[self.written..]).await?;
            self.writer.flush().await?;
            self.writer.shutdown().await
        };
        if let Ok(Err(error)) | Err(error) = tokio::time::timeout(LEAVING, bye).await.map_err(io::Error::from)
        {
            debug!(%error, "the connection did not end cleanly");
        }
        Ok(end)
    }

    /// The socket took bytes, or has flushed the last of them.
    fn advance(&mut self, wrote: io::Result<usize>) -> Result<(), Lost> {
        let wrote = wrote.map_err(Lost::Io)?;
        if self.written == self.out.len() {
            self.unflushed = false;
            return Ok(());
        }
        if wrote == 0 {
            return Err(Lost::Closed);
        }
        self.written += wrote;
        self.clocks.wrote = Instant::now();
        self.clocks.stalled = None;
        self.unflushed = true;
        // Also in between: on a slow line with a backlog it is never empty.
        if self.written == self.out.len() || self.written >= AHEAD {
            self.out.drain(..self.written);
            self.out.shrink_to(AHEAD);
            self.written = 0;
        }
        Ok(())
    }
}

/// A connection is not made anew for redelivery before it is this old: no loop is faster than that.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the goodbye's PUBACK and the last bytes may take.
const LEAVING: Duration = Duration::from_secs(1);

/// Writes what there is, or flushes when there is nothing more.
async fn push(writer: &mut WriteHalf<Stream>, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write(bytes).await }
}

#[cfg(test)]
mod tests;
