//! What the daemon is told by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals, caught from the first moment on.
pub(crate) struct Signals {
    pub(crate) stop: Stop,
    pub(crate) reload: Signal,
}

/// What asks the process to end.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
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
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
