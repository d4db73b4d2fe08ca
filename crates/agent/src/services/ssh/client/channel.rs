//! One accepted connection: a channel of the server's on one side, a target on this device on the other (RFC 4254,
//! section 5).
//!
//! What the server sends goes to the target at once, and only what the target does not take is kept. The window that the
//! server has is given anew by what the target has taken, never by what has arrived.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use tokio::{net::TcpStream, sync::Notify};

use super::{
    core::State,
    forward::Traffic,
    wire::{Malformed, Write as _, msg},
};

/// The most data in a packet, both ways.
pub(super) const PACKET: u32 = 32 << 10;
/// The window that a channel begins with, and which grows while its target keeps up.
pub(super) const WINDOW: u32 = 64 << 10;
/// The largest one, that of OpenSSH: what is under way at 100 Mbit/s over 160 ms.
const WIDEST: u32 = 2 << 20;
/// What all windows of a connection may grow to.
const GRANTED: usize = 8 << 20;

/// Reasons for not opening a channel (RFC 4254, section 5.1).
pub(super) const PROHIBITED: u32 = 1;
const CONNECT_FAILED: u32 = 2;
pub(super) const SHORTAGE: u32 = 4;

/// A channel, from the server's wish to the last message about it.
pub(super) struct Channel {
    /// Its number at the server's.
    theirs: u32,
    target: Option<Arc<TcpStream>>,
    /// The server knows that it is open. Before that nothing may be said about it.
    confirmed: bool,
    /// How much we may send, at once and altogether.
    packet: u32,
    window: u32,
    /// How much the server may send until it gets more, and how much it has when it got all.
    left: u32,
    limit: u32,
    /// What the target has taken and the server was not told of.
    taken: u32,
    /// What the target has not taken, from there on.
    pending: Vec<u8>,
    at: usize,
    /// What each side has said.
    eof: Sides,
    close: Sides,
    /// Nobody works on it any more.
    done: bool,
    traffic: Arc<Traffic>,
    /// Something for the target, or the end.
    pub(super) inward: Arc<Notify>,
    /// More may be sent, or nothing any more.
    pub(super) outward: Arc<Notify>,
}

#[derive(Default, Clone, Copy)]
struct Sides {
    ours: bool,
    theirs: bool,
}

impl Channel {
    pub(super) fn new(theirs: u32, window: u32, packet: u32, traffic: Arc<Traffic>) -> Self {
        Self {
            theirs,
            target: None,
            confirmed: false,
            packet,
            window,
            left: WINDOW,
            limit: WINDOW,
            taken: 0,
            pending: Vec::new(),
            at: 0,
            eof: Sides::default(),
            close: Sides::default(),
            done: false,
            traffic,
            inward: Arc::default(),
            outward: Arc::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.close.ours || self.close.theirs
    }

    /// Gives the target what has come; how much it took.
    fn pass(target: Option<&TcpStream>, data: &[u8]) -> io::Result<usize> {
        match target.map(|target| target.try_write(data)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Some(Ok(n)) => Ok(n),
            Some(Err(_)) | None => Ok(0),
        }
    }
}

/// What becomes of one turn.
pub(super) enum Turn {
    /// Some was sent.
    Sent,
    /// There was nothing to send after all.
    Nothing,
    /// The server's window is used up.
    Window,
    /// The connection has too much to send.
    Busy,
    /// It is over.
    Over,
}

impl State {
    /// A message about a channel that is there.
    pub(super) fn message(&mut self, number: u8, id: u32, more: &[u8]) {
        let Some(channel) = self.channels.get(&id) else { return };
        let mut message = vec![number];
        message.put_u32(channel.theirs);
        message.put(more);
        self.port.message(&message);
    }

    /// A channel of which the server may say something.
    fn confirmed(&mut self, id: u32) -> Result<&mut Channel, Malformed> {
        self.channels.get_mut(&id).filter(|channel| channel.confirmed).ok_or(Malformed)
    }

    /// Data has come.
    pub(super) fn received(&mut self, id: u32, data: &[u8], extended: bool) -> Result<(), Malformed> {
        let channel = self.confirmed(id)?;
        let length = u32::try_from(data.len()).map_err(|_| Malformed)?;
        if length > channel.left || channel.eof.theirs || channel.close.theirs {
            return Err(Malformed);
        }
        channel.left -= length;
        if channel.close.ours {
            return Ok(());
        }
        if extended {
            // There is no place for it.
            self.consumed(id, length);
            return Ok(());
        }
        channel.traffic.inward.fetch_add(length.into(), Ordering::Relaxed);
        let passed = match channel.pending.is_empty() {
            true => Channel::pass(channel.target.as_deref(), data),
            false => Ok(0),
        };
        let Ok(passed) = passed else {
            self.end(id);
            return Ok(());
        };
        if passed < data.len() {
            channel.pending.extend_from_slice(&data[passed..]);
            channel.inward.notify_one();
        }
        self.consumed(id, u32::try_from(passed).unwrap_or(length));
        Ok(())
    }

    /// The target has taken so much: the server gets as much again, and more where that keeps up.
    fn consumed(&mut self, id: u32, n: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.taken += n;
        if channel.taken < channel.limit / 2 || channel.eof.theirs || channel.is_over() {
            return;
        }
        let mut more = std::mem::take(&mut channel.taken);
        let grow = channel.limit.min(WIDEST - channel.limit);
        let room = self.granted + usize::try_from(grow).unwrap_or(usize::MAX) <= GRANTED;
        if channel.pending.is_empty() && grow > 0 && room {
            channel.limit += grow;
            more += grow;
            self.granted += usize::try_from(grow).unwrap_or(usize::MAX);
        }
        channel.left += more;
        self.message(msg::CHANNEL_WINDOW_ADJUST, id, &more.to_be_bytes());
    }

    /// The server takes more.
    pub(super) fn widened(&mut self, id: u32, by: u32) -> Result<(), Malformed> {
        let channel = self.confirmed(id)?;
        channel.window = channel.window.checked_add(by).ok_or(Malformed)?;
        channel.outward.notify_one();
        Ok(())
    }

    /// The server sends nothing more.
    pub(super) fn finished(&mut self, id: u32) -> Result<(), Malformed> {
        let channel = self.confirmed(id)?;
        channel.eof.theirs = true;
        channel.inward.notify_one();
        Ok(())
    }

    /// The server is done with it. What is there for the target still gets there.
    pub(super) fn closed(&mut self, id: u32) -> Result<(), Malformed> {
        let channel = self.confirmed(id)?;
        if channel.close.theirs {
            return Err(Malformed);
        }
        channel.close.theirs = true;
        channel.eof.theirs = true;
        channel.inward.notify_one();
        channel.outward.notify_one();
        self.end(id);
        Ok(())
    }

    /// We are done with it.
    pub(super) fn end(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !std::mem::replace(&mut channel.close.ours, true) {
            channel.inward.notify_one();
            channel.outward.notify_one();
            self.message(msg::CHANNEL_CLOSE, id, &[]);
        }
        self.forget(id);
    }

    /// Nobody works on it any more.
    pub(super) fn left(&mut self, id: u32) {
        if self.confirmed(id).is_err() {
            return self.refuse(id, "the tunnel has ended");
        }
        self.end(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.done = true;
            channel.target = None;
            channel.pending = Vec::new();
        }
        self.forget(id);
    }

    /// There is nothing left to say or to do about it.
    fn forget(&mut self, id: u32) {
        let over = |channel: &Channel| channel.done && channel.close.ours && channel.close.theirs;
        if self.channels.get(&id).is_some_and(over)
            && let Some(channel) = self.channels.remove(&id)
        {
            self.granted = self.granted.saturating_sub(usize::try_from(channel.limit - WINDOW).unwrap_or(0));
        }
    }

    /// The target does not accept: the server is told, and that was it.
    pub(super) fn refuse(&mut self, id: u32, why: &str) {
        let Some(channel) = self.channels.remove(&id) else { return };
        refuse(self, channel.theirs, CONNECT_FAILED, why);
    }

    pub(super) fn confirm(&mut self, id: u32, target: &Arc<TcpStream>) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.target = Some(Arc::clone(target));
        channel.confirmed = true;
        let mut more = Vec::new();
        more.put_u32(id);
        more.put_u32(WINDOW);
        more.put_u32(PACKET);
        self.message(msg::CHANNEL_OPEN_CONFIRMATION, id, &more);
    }

    /// Sends what the target has to say, as much as may be.
    pub(super) fn forward(&mut self, id: u32, target: &TcpStream) -> io::Result<Turn> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(Turn::Over) };
        if channel.is_over() {
            return Ok(Turn::Over);
        }
        let most = channel.window.min(channel.packet).min(PACKET);
        if most == 0 {
            return Ok(Turn::Window);
        }
        if !self.port.has_room() {
            return Ok(Turn::Busy);
        }
        let mut ended = false;
        let read = self.port.data(channel.theirs, usize::try_from(most).unwrap_or(0), |place| {
            let n = target.try_read(place)?;
            ended = n == 0;
            Ok::<_, io::Error>(n)
        });
        match read {
            Ok(_) if ended => {
                channel.eof.ours = true;
                self.message(msg::CHANNEL_EOF, id, &[]);
                Ok(Turn::Over)
            }
            Ok(n) => {
                channel.window -= u32::try_from(n).unwrap_or(most);
                channel.traffic.outward.fetch_add(n.try_into().unwrap_or(0), Ordering::Relaxed);
                Ok(Turn::Sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Gives the target what it has not taken before; whether there is nothing more to come.
    pub(super) fn drain(&mut self, id: u32, target: &TcpStream) -> io::Result<bool> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(true) };
        if channel.close.ours && !channel.close.theirs {
            return Ok(true);
        }
        let waiting = &channel.pending[channel.at..];
        if !waiting.is_empty() {
            let n = Channel::pass(Some(target), waiting)?;
            channel.at += n;
            if channel.at == channel.pending.len() {
                channel.at = 0;
                channel.pending.clear();
                channel.pending.shrink_to(usize::try_from(WINDOW).unwrap_or(0));
            } else if channel.at >= channel.pending.len() / 2 {
                // A target that always lags a little must not have all kept that it ever took.
                channel.pending.drain(..channel.at);
                channel.at = 0;
            }
            self.consumed(id, u32::try_from(n).unwrap_or(0));
        }
        let Some(channel) = self.channels.get(&id) else { return Ok(true) };
        Ok(channel.pending.is_empty() && channel.eof.theirs)
    }

    pub(super) fn has_pending(&self, id: u32) -> bool {
        self.channels.get(&id).is_some_and(|channel| !channel.pending.is_empty())
    }
}

/// The server's wish for a channel is not granted.
pub(super) fn refuse(state: &mut State, theirs: u32, reason: u32, why: &str) {
    let mut message = vec![msg::CHANNEL_OPEN_FAILURE];
    message.put_u32(theirs);
    message.put_u32(reason);
    message.put_string(why);
    message.put_string("");
    state.port.message(&message);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncReadExt as _, net::TcpListener, time::timeout};

    use super::*;
    use crate::services::ssh::client::{cipher::Sealer, core::Core, forward};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    /// A core whose server is nobody, with a channel.
    async fn with_channel() -> (Core, TcpStream) {
        let (stream, server) = pair().await;
        let core = Core::new(stream, Sealer::plain());
        core.state().channels.insert(0, Channel::new(0, 0, PACKET, forward::traffic()));
        (core, server)
    }

    /// The server sends as it may, and the target is never quite done with it.
    #[tokio::test]
    async fn what_the_target_has_taken_is_not_kept() {
        let (core, _server) = with_channel().await;
        let (target, mut program) = pair().await;
        let target = Arc::new(target);
        core.state().confirm(0, &target);
        let (mut room, mut sent, data) = (vec![0; 32 << 10], 0, vec![0; 32 << 10]);
        while sent < 64 << 20 {
            let left = usize::try_from(core.state().channels[&0].left).unwrap();
            let now = left.min(data.len());
            core.state().received(0, &data[..now], false).unwrap();
            sent += now;
            if core.state().has_pending(0) {
                program.read_exact(&mut room).await.unwrap();
                timeout(Duration::from_millis(1), target.writable()).await.ok();
                core.state().drain(0, &target).unwrap();
            }
            let kept = core.state().channels[&0].pending.len();
            assert!(kept <= 2 * WIDEST as usize, "{kept} bytes after {sent}");
        }
    }

    #[tokio::test]
    async fn nothing_may_be_said_of_a_channel_before_it_is_open() {
        let (core, _server) = with_channel().await;
        let mut state = core.state();
        assert_eq!(state.received(0, b"x", false), Err(Malformed));
        assert_eq!(state.widened(0, 1), Err(Malformed));
        assert_eq!(state.finished(0), Err(Malformed));
        assert_eq!(state.closed(0), Err(Malformed));
    }
}
