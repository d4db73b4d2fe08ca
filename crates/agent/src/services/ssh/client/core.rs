//! What a connection and its channels share: the packets that are to go out, the channels, the ports, and whether all
//! this still is. Everything happens on one thread, so no lock is ever waited for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::TcpStream,
    sync::{Notify, oneshot, watch},
};

use super::{
    Error,
    channel::Channel,
    cipher::{HEADER, Limit, ROOM, Sealer},
    forward::Listener,
    wire::{Malformed, Write as _, msg},
};

/// So many bytes wait for the socket at most before channels wait instead.
const BACKLOG: usize = 128 << 10;
/// With so many nothing is read any more: whoever does not read his answers gets no further ones.
pub(super) const STALLED: usize = 1 << 20;
/// What a buffer keeps while nothing happens.
pub(super) const IDLE: usize = 8 << 10;
/// Messages that wait for new keys. A server that asks for more meanwhile is not sound.
pub(super) const LATER: usize = 4096;

/// Shared by all who work on a connection.
pub(super) struct Core {
    pub(super) stream: TcpStream,
    state: Mutex<State>,
    /// The connection has something to send.
    pub(super) wake: Notify,
    /// Channels may send again.
    pub(super) room: Notify,
    pub(super) lost: watch::Sender<Option<Error>>,
}

pub(super) struct State {
    pub(super) port: Port,
    pub(super) channels: HashMap<u32, Channel>,
    pub(super) next_channel: u32,
    /// What listens, by the port of the server.
    pub(super) listeners: HashMap<u16, Listener>,
    /// Who waits for an answer, in the order of the questions.
    pub(super) asked: VecDeque<Asked>,
    /// The windows of all channels.
    pub(super) granted: usize,
}

/// A question to the server.
pub(super) enum Asked {
    /// Whether it still lives: any answer will do.
    Alive,
    /// To listen.
    Listen { port: u16, listener: Listener, answer: oneshot::Sender<Result<u16, Error>> },
    /// Not to listen any more.
    Unlisten(oneshot::Sender<()>),
}

impl Core {
    pub(super) fn new(stream: TcpStream, sealer: Sealer) -> Self {
        Self {
            stream,
            state: Mutex::new(State::new(sealer)),
            wake: Notify::new(),
            room: Notify::new(),
            lost: watch::Sender::new(None),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that may have made a message.
    pub(super) fn say<T>(&self, say: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let said = say(&mut state);
        if state.port.backlog() > 0 {
            self.wake.notify_one();
        }
        said
    }
}

/// The way out: packets that wait for the socket.
pub(super) struct Port {
    buffer: Vec<u8>,
    /// What of it waits: from here to there.
    start: usize,
    end: usize,
    sealer: Sealer,
    /// Until there are new keys nothing but their exchange goes out.
    held: bool,
    later: Vec<Vec<u8>>,
}

impl Port {
    fn new(sealer: Sealer) -> Self {
        Self { buffer: vec![0; IDLE], start: 0, end: 0, sealer, held: false, later: Vec::new() }
    }

    /// How much waits.
    pub(super) fn backlog(&self) -> usize {
        self.end - self.start
    }

    /// Channels may add to it.
    pub(super) fn has_room(&self) -> bool {
        !self.held && self.backlog() < BACKLOG
    }

    pub(super) fn waiting(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// So much of it is with the socket.
    pub(super) fn sent(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives back what was needed for more traffic than there is.
    pub(super) fn shrink(&mut self) {
        if self.end == 0 && self.buffer.len() > IDLE {
            self.buffer = vec![0; IDLE];
        }
    }

    /// # Errors
    /// There was no exchange of keys for so long that packets would be protected twice in the same way; or more waits
    /// for one than can be.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.sealer.packets() >= u32::MAX - 1 || self.later.len() > LATER {
            return Err(Error::Malformed(Malformed));
        }
        Ok(())
    }

    /// It is time for other keys.
    pub(super) fn is_worn(&self, limit: &Limit) -> bool {
        self.sealer.is_worn(limit)
    }

    /// A message, from its number on.
    pub(super) fn message(&mut self, message: &[u8]) {
        if self.held {
            self.later.push(message.to_vec());
        } else {
            self.seal(message);
        }
    }

    fn seal(&mut self, message: &[u8]) {
        let place = self.place(message.len());
        place[HEADER..HEADER + message.len()].copy_from_slice(message);
        self.close(message.len());
    }

    /// Room for a packet with a payload of this length.
    fn place(&mut self, payload: usize) -> &mut [u8] {
        let needed = HEADER + payload + ROOM;
        if self.end + needed > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            // So much that what waits is moved once for as many bytes that come.
            let length = 2 * (self.end + needed);
            self.buffer.resize(length.max(self.buffer.len()), 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Makes a packet of what was put into the place.
    fn close(&mut self, payload: usize) {
        self.end += self.sealer.seal(&mut self.buffer[self.end..], payload);
    }

    /// Data of a channel, at most so many bytes, which `read` puts in their place.
    pub(super) fn data<E>(
        &mut self,
        recipient: u32,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        const HEAD: usize = 9;
        let place = &mut self.place(HEAD + most)[HEADER..];
        let n = read(&mut place[HEAD..HEAD + most])?;
        if n > 0 {
            place[0] = msg::CHANNEL_DATA;
            place[1..5].copy_from_slice(&recipient.to_be_bytes());
            place[5..HEAD].copy_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
            self.close(HEAD + n);
        }
        Ok(n)
    }

    /// An exchange of keys begins.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// A message of the exchange.
    pub(super) fn exchange(&mut self, message: &[u8]) {
        self.seal(message);
    }

    /// From now on with these keys; what has waited for them goes.
    pub(super) fn release(&mut self, rekey: impl FnOnce(&mut Sealer)) {
        self.seal(&[msg::NEWKEYS]);
        rekey(&mut self.sealer);
        self.held = false;
        for message in std::mem::take(&mut self.later) {
            self.seal(&message);
        }
    }
}

impl State {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self {
            port: Port::new(sealer),
            channels: HashMap::new(),
            next_channel: 0,
            listeners: HashMap::new(),
            asked: VecDeque::new(),
            granted: 0,
        }
    }

    /// A question that wants an answer.
    pub(super) fn ask(&mut self, what: &str, address: Option<(&str, u16)>, asked: Asked) {
        let mut message = vec![msg::GLOBAL_REQUEST];
        message.put_string(what);
        message.put_bool(true);
        if let Some((host, port)) = address {
            message.put_string(host);
            message.put_u32(port.into());
        }
        self.port.message(&message);
        self.asked.push_back(asked);
    }

    /// The server is not to listen any more; when it has said so.
    pub(super) fn unlisten(&mut self, bind: &str, port: u16) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        self.ask("cancel-tcpip-forward", Some((bind, port)), Asked::Unlisten(answer));
        answered
    }

    /// The server's answer to the first question.
    ///
    /// # Errors
    /// Nothing was asked, or it is no answer.
    pub(super) fn answered(&mut self, said: Option<&[u8]>) -> Result<(), Malformed> {
        match self.asked.pop_front().ok_or(Malformed)? {
            Asked::Alive => {}
            Asked::Unlisten(answer) => drop(answer.send(())),
            Asked::Listen { port, listener, answer } => {
                let Some(said) = said else {
                    drop(answer.send(Err(Error::ForwardRefused(port))));
                    return Ok(());
                };
                let port = if port == 0 { chosen(said)? } else { port };
                if self.listeners.contains_key(&port) {
                    return Err(Malformed);
                }
                if answer.send(Ok(port)).is_ok() {
                    self.listeners.insert(port, listener);
                } else {
                    // Nobody waits for it any more.
                    drop(self.unlisten(&listener.bind, port));
                }
            }
        }
        Ok(())
    }
}

/// The port that the server has chosen.
fn chosen(said: &[u8]) -> Result<u16, Malformed> {
    let port = super::wire::Reader::new(said).u32()?;
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Malformed)
}

/// What waits on a connection that is gone.
pub(super) fn lose(core: &Arc<Core>, error: Error) {
    let mut state = core.state();
    for asked in std::mem::take(&mut state.asked) {
        if let Asked::Listen { answer, .. } = asked {
            drop(answer.send(Err(error.clone())));
        }
    }
    state.listeners.clear();
    drop(state);
    core.lost.send_replace(Some(error));
}
