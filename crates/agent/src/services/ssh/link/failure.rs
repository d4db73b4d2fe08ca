//! Why a port of a server does not lead here, or does no more.

use std::time::Duration;

use super::Server;
use super::trust::Distrust;
use crate::mqtt::transport;
use crate::services::ssh::client;

/// One variant for each thing that is attempted.
#[derive(Debug, thiserror::Error)]
pub(in crate::services::ssh) enum Failure {
    /// There is no TCP connection.
    #[error("cannot reach the SSH server {server}")]
    NotReached {
        /// Which.
        server: Server,
        /// Why not.
        source: transport::Error,
    },
    /// It took too long, at whichever stage.
    #[error(
        "the SSH server {server} was not ready within {} s; look whether it answers there, or raise `connection_timeout`",
        limit.as_secs_f32()
    )]
    TimedOut {
        /// Which.
        server: Server,
        /// How long it was waited for.
        limit: Duration,
    },
    /// What answers does not speak SSH, or breaks its rules.
    #[error("no SSH connection to {server}: is it an SSH server?")]
    Handshake {
        /// Which.
        server: Server,
        /// What went wrong.
        source: client::Error,
    },
    /// It knows no algorithm that we take.
    #[error(
        "the SSH server {server} offers no {what} that is strong enough; let it offer one, the defaults of OpenSSH since \
         6.7 do"
    )]
    Algorithms {
        /// Which.
        server: Server,
        /// What for: cipher, key exchange.
        what: String,
    },
    /// It is not who it should be.
    #[error("the SSH server {server} is not believed")]
    HostKey {
        /// Which.
        server: Server,
        /// Why not.
        source: std::sync::Arc<Distrust>,
    },
    /// It does not take our key.
    #[error(
        "the SSH server {server} does not take this device's key for {user}; put the line of its public key into that \
         user's authorized_keys"
    )]
    KeyRefused {
        /// Which.
        server: Server,
        /// As whom.
        user: String,
    },
    /// It does not listen. It does not tell why.
    #[error(
        "the SSH server {server} refuses to listen on port {rport}: it is in use there, or not permitted \
         (AllowTcpForwarding, PermitListen, permitlisten)"
    )]
    ForwardRefused {
        /// Which.
        server: Server,
        /// The port it was asked for; 0 for any.
        rport: u16,
    },
    /// There was a connection, and it is gone.
    #[error("lost the SSH server {server}: {reason}")]
    Lost {
        /// Which.
        server: Server,
        /// What is known of it.
        reason: String,
    },
}

impl Failure {
    /// Why there is no connection to `server` on which it has let `user` in.
    pub(super) fn of_handshake(server: &Server, user: &str, error: client::Error) -> Self {
        let server = server.clone();
        match error {
            client::Error::HostKey(source) => Self::HostKey { server, source },
            client::Error::NothingInCommon { what: "host key", .. } => {
                Self::HostKey { server, source: Distrust::Kind.into() }
            }
            client::Error::NothingInCommon { what, .. } => Self::Algorithms { server, what: what.to_owned() },
            client::Error::KeyRefused => Self::KeyRefused { server, user: user.to_owned() },
            source => Self::Handshake { server, source },
        }
    }

    /// Why there is no port, or not any more.
    pub(super) fn of_forward(server: &Server, error: client::Error) -> Self {
        let server = server.clone();
        match error {
            client::Error::ForwardRefused(rport) => Self::ForwardRefused { server, rport },
            other => Self::Lost { server, reason: other.to_string() },
        }
    }
}
