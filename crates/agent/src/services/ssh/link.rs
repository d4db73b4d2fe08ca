//! Ports of SSH servers that lead to this device. One connection to a server carries all its forwards; each connection
//! that the server accepts is a channel of its own. Nothing listens here, and nothing but the target of a forward is
//! ever dialled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::client::{self, Connection, How, WeakConnection};
pub(super) use super::client::{Limit, Target};
use super::key::Key;
use crate::clock::Clock;
use crate::config::Bracketed;
use crate::mqtt::transport::Dialer;
pub(super) use failure::Failure;
pub(super) use forward::Forward;
pub(super) use trust::{NoHostKey, Trust};

pub(super) mod bench;
mod failure;
mod forward;
#[cfg(test)]
mod tests;
pub(super) mod trust;

/// Connections at once through one port. OpenSSH has no limit; each costs a few KiB while nothing is under way.
const CHANNELS: usize = 256;

/// How SSH servers are reached: the configured part.
pub(super) struct Ways {
    /// As whom.
    pub(super) user: String,
    /// Proves who we are.
    pub(super) key: Key,
    /// Which servers are believed.
    pub(super) trust: Trust,
    /// By what certificates of servers are judged.
    pub(super) clock: Clock,
    /// How long reaching a server may take, from its name to the granted port; and a target.
    pub(super) timeout: Duration,
    /// After so much silence the server is asked whether it is there. It is given up after three times as much.
    pub(super) keep_alive: Duration,
    /// The address on which servers are asked to listen.
    pub(super) bind: String,
    /// After how much other keys are agreed on.
    pub(super) limit: Limit,
}

/// A server. Forwards to the same one share a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Server {
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    /// The TCP port.
    pub(super) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Bracketed(&self.host), self.port)
    }
}

/// The connections to servers, each for as long as one of its forwards lives.
pub(super) struct Links {
    ways: Arc<Ways>,
    /// One for each server that was ever asked for: which those may be is the caller's to limit.
    slots: Mutex<BTreeMap<Server, Arc<Slot>>>,
}

/// Held while a connection is made: whoever wants the same server waits and shares it.
type Slot = tokio::sync::Mutex<Place>;

struct Place {
    dialer: Dialer,
    live: WeakConnection,
}

impl Links {
    /// Connects to nothing yet.
    pub(super) fn new(ways: Ways) -> Self {
        Self { ways: Arc::new(ways), slots: Mutex::default() }
    }

    /// Asks `server` to listen on `rport` (0: it chooses) and passes what it accepts there on to `target`.
    ///
    /// # Errors
    /// When the server is not reached, not believed, or does not take us or the port. A host key that is not the
    /// expected one is also logged as an error.
    pub(super) async fn open(&self, server: &Server, rport: u16, target: Target) -> Result<Forward, Failure> {
        let opening = self.open_patiently(server, rport, target);
        let opened = match timeout(self.ways.timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::TimedOut { server: server.clone(), limit: self.ways.timeout }),
        };
        if let Err(Failure::HostKey { source, .. }) = &opened {
            tracing::error!(%server, error = %source, "the SSH server is not believed");
        }
        opened
    }

    async fn open_patiently(&self, server: &Server, rport: u16, target: Target) -> Result<Forward, Failure> {
        let connection = self.connection(server).await?;
        let forward = connection.forward(&self.ways.bind, rport, target, CHANNELS).await;
        let forward = forward.map_err(|error| Failure::of_forward(server, error))?;
        Ok(Forward { server: server.clone(), forward })
    }

    async fn connection(&self, server: &Server) -> Result<Connection, Failure> {
        let slot = self.slot(server);
        let mut place = slot.lock().await;
        if let Some(connection) = place.live.upgrade().filter(|connection| connection.error().is_none()) {
            return Ok(connection);
        }
        let connection = self.connect(server, &place.dialer).await?;
        place.live = connection.downgrade();
        Ok(connection)
    }

    async fn connect(&self, server: &Server, dialer: &Dialer) -> Result<Connection, Failure> {
        let Ways { user, key, trust, clock, keep_alive, limit, .. } = &*self.ways;
        let distrusted =
            |source: trust::Distrust| Failure::HostKey { server: server.clone(), source: source.into() };
        let expected = &trust.of(server).map_err(distrusted)?;
        let stream = dialer
            .connect()
            .await
            .map_err(|source| Failure::NotReached { server: server.clone(), source })?;
        let how = How { user, key, expected, clock, keep_alive: *keep_alive, limit: *limit };
        let connected = client::connect(stream, &how).await;
        connected.map_err(|error| Failure::of_handshake(server, user, error))
    }

    fn slot(&self, server: &Server) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let dialer = Dialer::new(server.host.clone(), server.port);
            Arc::new(Slot::new(Place { dialer, live: WeakConnection::default() }))
        };
        Arc::clone(slots.entry(server.clone()).or_insert_with(new))
    }
}
