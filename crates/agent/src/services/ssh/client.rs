//! An SSH client (RFC 4251 to 4254) for one thing: ports of a server that lead to this device.
//!
//! ```text
//! handshake.rs ─ kex.rs ─ auth.rs ── connection.rs ─ dispatch.rs ─ channel.rs ─ pump.rs ── a target on the device
//! ```
//!
//! `cipher.rs` has packets and their protection, `core.rs` what a connection and its channels share, `forward.rs` what
//! its user sees. It offers no shell, no agent and no X11, and refuses whatever a server opens unasked. All cryptography is ring's.
//!
//! **Invariant:** nothing is sent under a key that the server has not proved to be its own.
//! **Invariant:** a channel that is not read holds up no other, and keeps no more in memory than its window.

mod auth;
mod channel;
mod cipher;
mod connection;
mod core;
mod dispatch;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod handshake;
mod kex;
mod pump;

use std::{io, sync::Arc, time::Duration};

use super::{
    key::{CannotSign, Key},
    link::trust::{Distrust, Expected},
    wire::{self, Malformed},
};
use crate::clock::Clock;

pub(super) use cipher::Limit;
pub(super) use connection::{Connection, WeakConnection, connect};
pub(super) use forward::{Forward, Target};

/// As whom a server is spoken to, and what it has to show.
pub(super) struct How<'a> {
    /// The account on the server.
    pub(super) user: &'a str,
    /// What shows that it is ours.
    pub(super) key: &'a Key,
    /// Which host keys are believed.
    pub(super) expected: &'a Expected,
    /// For the days on which a certificate of a host is valid.
    pub(super) clock: &'a Clock,
    /// How long nothing is heard until the server is asked for a sign of life. The connection counts as lost when that
    /// was asked for twice, and another such time is over.
    pub(super) keep_alive: Duration,
    /// After how much other keys are agreed on.
    pub(super) limit: Limit,
}

/// Why there is no connection, or no port, or not any more.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Error {
    /// The socket.
    #[error("{0}")]
    Socket(Arc<io::Error>),
    /// The end of the stream.
    #[error("it closed the connection")]
    Closed,
    /// The server says goodbye, with these words.
    #[error("it ended the connection: {0}")]
    Disconnected(String),
    /// For so long, in spite of being asked.
    #[error("nothing was heard of it for {} s", .0.as_secs())]
    Silent(Duration),
    /// It begins with something else.
    #[error("it is no SSH server; it begins with {0:?}")]
    NoServer(String),
    /// It does not keep to the protocol.
    #[error("it sent {0}")]
    Malformed(#[from] Malformed),
    /// Likewise: a message of this number.
    #[error("it sent message {0} out of turn")]
    Unexpected(u8),
    /// It knows no algorithm that we take.
    #[error("it has no {what} that is strong enough: we know {ours}, it knows {theirs}")]
    NothingInCommon {
        /// What for.
        what: &'static str,
        /// What we take.
        ours: String,
        /// What it offers.
        theirs: String,
    },
    /// It is not who it should be.
    #[error("{0}")]
    HostKey(Arc<Distrust>),
    /// It was another server a moment ago.
    #[error("it shows another host key than at the start of the connection")]
    HostKeyChanged,
    /// It does not take our key.
    #[error("it does not take our key")]
    KeyRefused,
    /// Ours cannot be used.
    #[error("{0}")]
    Key(Arc<CannotSign>),
    /// The system has none.
    #[error("there are no random numbers")]
    Random,
    /// It does not listen on this port for us.
    #[error("it does not listen on port {0}")]
    ForwardRefused(u16),
    /// We have ended it.
    #[error("it was ended")]
    Ended,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Socket(Arc::new(error))
    }
}

impl From<Distrust> for Error {
    fn from(distrust: Distrust) -> Self {
        Self::HostKey(Arc::new(distrust))
    }
}
