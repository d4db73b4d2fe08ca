//! What the daemon is told by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals, caught from the first moment on.
pub(super) struct Signals {
    pub(super) stop: Stop,
    pub(super) reload: Signal,
}

/// What asks the process to end.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            stop: Stop {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            reload: signal(SignalKind::hangup())?,
        })
    }
}

impl Stop {
    /// Returns when the process is asked to end.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
