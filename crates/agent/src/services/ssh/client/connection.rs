//! A connection at work: reads the socket and does what the server says, writes what waits, asks for signs of life, and
//! agrees on new keys (`rekey.rs`).

mod rekey;

use std::{
    fmt, io,
    sync::{Arc, Weak},
};

use tokio::{
    io::Interest,
    net::TcpStream,
    task::{coop::consume_budget, yield_now},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, How, Target,
    cipher::{Limit, Opener},
    core::{self, Asked, Core, IDLE, LATER, STALLED},
    dispatch::Wanted,
    forward::Forward,
    handshake::{Transport, disconnected, shake},
    kex::Session,
    pump,
    wire::{Write as _, msg},
};
use rekey::Rekey;

/// The most that is read at once.
const WIDEST: usize = 256 << 10;
/// A read of less than this may be all that comes for a while. Where more comes, the next bytes are there already.
const BULK: usize = 16 << 10;
/// So many reads until it is another's turn.
const READS: usize = 4;
/// Signs of life that are asked for in vain.
const PROBES: u32 = 2;
/// How long a goodbye may take.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(500);

/// A connection on which the server has let us in. Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub(in crate::services::ssh) struct Connection(Arc<Handle>);

/// A connection, if it is still there.
#[derive(Default)]
pub(in crate::services::ssh) struct WeakConnection(Weak<Handle>);

impl WeakConnection {
    /// The connection.
    pub(in crate::services::ssh) fn upgrade(&self) -> Option<Connection> {
        self.0.upgrade().map(Connection)
    }
}

struct Handle {
    core: Arc<Core>,
    token: CancellationToken,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Makes a connection of a stream to an SSH server.
///
/// # Errors
/// The server is not to be believed, does not believe us, or is none.
pub(in crate::services::ssh) async fn connect(stream: TcpStream, how: &How<'_>) -> Result<Connection, Error> {
    let Transport { stream, input, sealer, opener, session } = shake(stream, how).await?;
    let core = Arc::new(Core::new(stream, sealer));
    let token = CancellationToken::new();
    let end = input.len();
    let work = Work {
        core: Arc::clone(&core),
        token: token.clone(),
        input,
        start: 0,
        end,
        opener,
        session,
        rekey: Rekey::Not,
        limit: how.limit,
        keep_alive: how.keep_alive,
        heard: Instant::now(),
        probes: 0,
    };
    tokio::spawn(work.run());
    Ok(Connection(Arc::new(Handle { core, token })))
}

impl Connection {
    /// Has the server listen on `port` of its address `bind`, 0 for one that it chooses, for at most `most` connections
    /// at once to `target`.
    ///
    /// # Errors
    /// The server does not, or is gone.
    pub(in crate::services::ssh) async fn forward(
        &self,
        bind: &str,
        port: u16,
        target: Target,
        most: usize,
    ) -> Result<Forward, Error> {
        Forward::open(self.clone(), bind, port, target, most).await
    }

    /// Itself, without keeping it.
    pub(in crate::services::ssh) fn downgrade(&self) -> WeakConnection {
        WeakConnection(Arc::downgrade(&self.0))
    }

    /// Waits until it is gone, and says why.
    pub(in crate::services::ssh) async fn lost(&self) -> Error {
        let mut lost = self.0.core.lost.subscribe();
        let error = lost.wait_for(Option::is_some).await;
        error.ok().and_then(|error| error.clone()).unwrap_or(Error::Ended)
    }

    /// Why it is gone.
    pub(in crate::services::ssh) fn error(&self) -> Option<Error> {
        self.0.core.lost.borrow().clone()
    }

    pub(super) fn core(&self) -> &Core {
        &self.0.core
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }
}

/// What the task of a connection has for itself.
struct Work {
    core: Arc<Core>,
    token: CancellationToken,
    /// What has come in: from `start` to `end` it was not looked at.
    input: Vec<u8>,
    start: usize,
    end: usize,
    opener: Opener,
    session: Session,
    rekey: Rekey,
    limit: Limit,
    keep_alive: std::time::Duration,
    /// When the server was heard last, and how often it was asked for a sign of life since.
    heard: Instant,
    probes: u32,
}

impl Work {
    async fn run(mut self) {
        let token = self.token.clone();
        let error = tokio::select! {
            error = self.work() => error,
            () = token.cancelled() => {
                self.goodbye().await;
                Error::Ended
            }
        };
        token.cancel();
        core::lose(&self.core, error);
    }

    async fn work(&mut self) -> Error {
        loop {
            if let Err(error) = self.turn().await {
                return error;
            }
            // A server that sends faster than it is read would have this thread for itself.
            consume_budget().await;
        }
    }

    /// Waits for something to do, and does it.
    async fn turn(&mut self) -> Result<(), Error> {
        // What came in with the end of the handshake is the first.
        self.take()?;
        self.renew()?;
        let backlog = self.write()?;
        let interest = match (backlog > 0, backlog < STALLED) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::WRITABLE,
            (false, _) => Interest::READABLE,
        };
        let core = Arc::clone(&self.core);
        tokio::select! {
            ready = core.stream.ready(interest) => {
                if ready?.is_readable() && self.read()? {
                    yield_now().await;
                }
            }
            () = core.wake.notified() => {}
            () = sleep_until(self.patience()) => self.probe()?,
        }
        Ok(())
    }

    /// Sends what the socket takes; how much is left.
    fn write(&mut self) -> Result<usize, Error> {
        let mut state = self.core.state();
        state.port.check()?;
        while state.port.backlog() > 0 {
            match self.core.stream.try_write(state.port.waiting()) {
                Ok(n) => state.port.sent(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if state.port.has_room() {
            self.core.room.notify_waiters();
        }
        Ok(state.port.backlog())
    }

    /// Whether there is more than one's turn.
    fn read(&mut self) -> Result<bool, Error> {
        for _ in 0..READS {
            self.make_room();
            let room = &mut self.input[self.end..];
            match self.core.stream.try_read(room) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => {
                    let filled = n == room.len();
                    self.end += n;
                    (self.heard, self.probes) = (Instant::now(), 0);
                    if n < BULK {
                        quick_ack(&self.core.stream);
                    }
                    self.take()?;
                    if !filled {
                        return Ok(false);
                    }
                    if self.input.len() < WIDEST {
                        self.input.resize(2 * self.input.len(), 0);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Room to read into, at the end of what has come in.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.input.len() < IDLE {
            self.input.resize(IDLE, 0);
        }
        if self.end == self.input.len() {
            if self.start > 0 {
                self.input.copy_within(self.start.., 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                // A packet that is longer than what there was room for.
                self.input.resize(2 * self.input.len(), 0);
            }
        }
    }

    /// Does what the packets that have come in whole say.
    fn take(&mut self) -> Result<(), Error> {
        let mut input = std::mem::take(&mut self.input);
        let taken = self.packets(&mut input);
        self.input = input;
        taken
    }

    fn packets(&mut self, input: &mut [u8]) -> Result<(), Error> {
        while let Some((payload, whole)) = self.opener.open(&mut input[self.start..self.end])? {
            self.start += whole;
            self.message(payload)?;
        }
        Ok(())
    }

    fn message(&mut self, message: &[u8]) -> Result<(), Error> {
        match message[0] {
            msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED | msg::EXT_INFO | msg::USERAUTH_BANNER => Ok(()),
            msg::DISCONNECT => Err(disconnected(message)),
            msg::KEXINIT | msg::NEWKEYS | 30..=49 => self.exchange(message),
            80..=127 => {
                let core = Arc::clone(&self.core);
                if let Some(open) = core.state().connection(message)? {
                    self.open(open);
                }
                Ok(())
            }
            _ => {
                let mut answer = vec![msg::UNIMPLEMENTED];
                answer.put_u32(self.opener.last());
                self.core.state().port.message(&answer);
                Ok(())
            }
        }
    }

    fn open(&self, wanted: Wanted) {
        let token = wanted.token;
        tokio::spawn(pump::serve(Arc::clone(&self.core), wanted.id, wanted.target, wanted.open, token));
    }

    /// Until when nothing need be heard. The last time is a little shorter, so that a tunnel that is gone is told to be
    /// within three times `keep_alive`.
    fn patience(&self) -> Instant {
        let whole = self.heard + self.keep_alive * (self.probes + 1);
        if self.probes == PROBES { whole - self.keep_alive / 15 } else { whole }
    }

    /// Nothing was heard for a while.
    fn probe(&mut self) -> Result<(), Error> {
        if self.probes == PROBES {
            return Err(Error::Silent(self.heard.elapsed()));
        }
        self.probes += 1;
        let mut state = self.core.state();
        if state.asked.len() > LATER {
            // It says something, and answers nothing.
            return Err(Error::Silent(self.heard.elapsed()));
        }
        state.port.shrink();
        if self.start == self.end && self.input.len() > IDLE {
            (self.input, self.start, self.end) = (vec![0; IDLE], 0, 0);
        }
        state.ask("keepalive@openssh.com", None, Asked::Alive);
        Ok(())
    }

    async fn goodbye(&mut self) {
        let mut message = vec![msg::DISCONNECT];
        // By application (RFC 4253, section 11.1).
        message.put_u32(11);
        message.put_string("");
        message.put_string("");
        self.core.state().port.message(&message);
        let send = async {
            while self.write().is_ok_and(|left| left > 0) {
                if self.core.stream.writable().await.is_err() {
                    break;
                }
            }
        };
        // A server that does not listen sees the end of the connection.
        drop(timeout(GOODBYE, send).await);
    }
}

/// Acknowledges at once. A server that does not set TCP_NODELAY, as OpenSSH for forwarded ports, waits for that with
/// whatever is shorter than a segment: 40 ms for each new connection.
fn quick_ack(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::net::sockopt::set_tcp_quickack(stream, true).ok();
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _: &TcpStream = stream;
}
