//! A port of a server that leads here, for as long as this lives.

use tokio::time::Instant;

use super::{Failure, Server};
use crate::services::ssh::client;

/// A port of a server that leads here. Dropping it ends it: the port, its channels, and with the last forward of a
/// connection that too.
#[derive(Debug)]
pub(in crate::services::ssh) struct Forward {
    pub(super) server: Server,
    pub(super) forward: client::Forward,
}

impl Forward {
    /// The port on which the server listens.
    pub(in crate::services::ssh) fn rport(&self) -> u16 {
        self.forward.port()
    }

    /// Bytes passed on from the server to the device, and from the device to the server.
    pub(in crate::services::ssh) fn bytes(&self) -> (u64, u64) {
        self.forward.bytes()
    }

    /// Since when no connection has been open through it; `None` while one is.
    pub(in crate::services::ssh) fn idle_since(&self) -> Option<Instant> {
        self.forward.idle_since()
    }

    /// Connections that are open through it, or being opened.
    pub(in crate::services::ssh) fn channels(&self) -> usize {
        self.forward.channels()
    }

    /// Waits until the connection to the server is lost or was closed there; says why.
    pub(in crate::services::ssh) async fn lost(&self) -> Failure {
        Failure::of_forward(&self.server, self.forward.lost().await)
    }

    /// Ends it and waits, a second at most, until the server has been told.
    pub(in crate::services::ssh) async fn close(self) {
        self.forward.close().await;
    }
}
