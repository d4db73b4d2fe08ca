//! A port of the server that leads to a target on this device.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Connection, Error, core::Asked};
use crate::config::Bracketed;

/// How long the server may take to say that it does not listen any more.
const CLOSING: Duration = Duration::from_secs(1);

/// Where connections that come through a tunnel end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::services::ssh) struct Target {
    pub(in crate::services::ssh) host: String,
    pub(in crate::services::ssh) port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        write!(f, "{}:{port}", Bracketed(host))
    }
}

impl Target {
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What has gone through a tunnel, and when.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Bytes from the server to the device.
    pub(super) inward: AtomicU64,
    /// Bytes from the device to the server.
    pub(super) outward: AtomicU64,
    /// Connections that are open.
    channels: AtomicUsize,
    /// When the last of them ended, or the tunnel began.
    since: Mutex<Instant>,
}

/// Of a tunnel that begins.
pub(super) fn traffic() -> Arc<Traffic> {
    Arc::new(Traffic {
        inward: AtomicU64::new(0),
        outward: AtomicU64::new(0),
        channels: AtomicUsize::new(0),
        since: Mutex::new(Instant::now()),
    })
}

/// A connection through a tunnel, for as long as this is kept.
pub(super) struct Open(Arc<Traffic>);

impl Traffic {
    /// One more, unless there are so many.
    pub(super) fn open(self: &Arc<Self>, most: usize) -> Option<Open> {
        let more = |n: usize| (n < most).then_some(n + 1);
        self.channels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Open(Arc::clone(self)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the server is to do with who connects to a port.
pub(super) struct Listener {
    /// The address at the server.
    pub(super) bind: String,
    pub(super) target: Arc<Target>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) token: CancellationToken,
    /// Connections at once.
    pub(super) most: usize,
}

/// A port of the server that leads here. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::services::ssh) struct Forward {
    connection: Connection,
    port: u16,
    traffic: Arc<Traffic>,
    token: CancellationToken,
}

impl Forward {
    pub(super) async fn open(
        connection: Connection,
        bind: &str,
        port: u16,
        target: Target,
        most: usize,
    ) -> Result<Self, Error> {
        let traffic = traffic();
        let token = connection.token().child_token();
        let listener = Listener {
            bind: bind.to_owned(),
            target: Arc::new(target),
            traffic: Arc::clone(&traffic),
            token: token.clone(),
            most,
        };
        let (answer, answered) = oneshot::channel();
        let asked = Asked::Listen { port, listener, answer };
        connection.core().say(|state| state.ask("tcpip-forward", Some((bind, port)), asked));
        if let Some(error) = connection.error() {
            // Nobody is left to answer.
            return Err(error);
        }
        // Before it is known: dropped while the answer is on its way, it ends what that has begun.
        let mut forward = Self { connection, port, traffic, token };
        let answer = answered.await;
        forward.port = answer.map_err(|_| forward.connection.error().unwrap_or(Error::Ended))??;
        Ok(forward)
    }

    /// The port that the server listens on.
    pub(in crate::services::ssh) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that have come from the server for the device, and that have gone from the device to the server.
    pub(in crate::services::ssh) fn bytes(&self) -> (u64, u64) {
        (self.traffic.inward.load(Ordering::Relaxed), self.traffic.outward.load(Ordering::Relaxed))
    }

    /// Connections through it.
    pub(in crate::services::ssh) fn channels(&self) -> usize {
        self.traffic.channels.load(Ordering::Relaxed)
    }

    /// Since when there is no connection through it. None while there is one.
    pub(in crate::services::ssh) fn idle_since(&self) -> Option<Instant> {
        let since = *self.traffic.since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.channels() == 0).then_some(since)
    }

    /// Waits until there is no connection to the server any more, and says why.
    pub(in crate::services::ssh) async fn lost(&self) -> Error {
        self.connection.lost().await
    }

    /// Ends it, and waits a moment for the server to say that it has ended there too.
    pub(in crate::services::ssh) async fn close(self) {
        if let Some(ended) = self.end() {
            drop(timeout(CLOSING, ended).await);
        }
    }

    fn end(&self) -> Option<oneshot::Receiver<()>> {
        self.token.cancel();
        self.connection.core().say(|state| {
            // Its own: the port may be another's by now.
            let own = |(_, listener): &(&u16, &Listener)| Arc::ptr_eq(&listener.traffic, &self.traffic);
            let port = *state.listeners.iter().find(own)?.0;
            let listener = state.listeners.remove(&port)?;
            Some(state.unlisten(&listener.bind, port))
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.end());
    }
}
