//! The tunnels that are open, for whoever wants to know: status, heartbeat and the command line.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::{Timestamp, ssh::Report};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::link::Forward;

/// How many ends are remembered that nobody has asked for.
const LEFT: usize = 64;

/// All tunnels of this process, and the device's public key.
#[derive(Default)]
pub(crate) struct Tunnels(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    open: BTreeMap<String, Open>,
    /// What has gone through those whose run was ended from outside.
    left: BTreeMap<String, Left>,
    key: Option<String>,
}

/// One that is open.
pub(super) struct Open {
    pub(super) forward: Arc<Forward>,
    pub(super) server: String,
    pub(super) target: String,
    pub(super) since: Timestamp,
    /// When it was asked for, by which its end is reckoned.
    pub(super) began: Instant,
    pub(super) ends: Instant,
}

/// What one has left behind.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) rport: u16,
    pub(super) bytes: (u64, u64),
    pub(super) duration_ms: u64,
}

impl Left {
    /// The same report with what has gone through.
    pub(super) fn on(self, report: Report) -> Report {
        let ((bytes_in, bytes_out), duration_ms) = (self.bytes, Some(self.duration_ms));
        Report { rport: Some(self.rport), bytes_in, bytes_out, duration_ms, ..report }
    }
}

/// A tunnel as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its id.
    pub(crate) request_id: String,
    /// The SSH server, as `host:port`.
    pub(crate) server: String,
    /// The port there.
    pub(crate) rport: u16,
    /// Where it leads, as `host:port`.
    pub(crate) target: String,
    /// Connections through it.
    pub(crate) channels: usize,
    /// Bytes from the server to the device.
    pub(crate) bytes_in: u64,
    /// Bytes from the device to the server.
    pub(crate) bytes_out: u64,
    /// Since when it is open.
    pub(crate) since: Timestamp,
    /// Seconds until its time is over.
    pub(crate) ends_in_s: u64,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels").field("open", &self.count()).finish_non_exhaustive()
    }
}

impl Tunnels {
    /// How many are open.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.inner().open.len()).unwrap_or(u32::MAX)
    }

    /// Each that is open.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let now = Instant::now();
        let listed = |(id, open): (&String, &Open)| {
            let (bytes_in, bytes_out) = open.forward.bytes();
            Listed {
                request_id: id.clone(),
                server: open.server.clone(),
                rport: open.forward.rport(),
                target: open.target.clone(),
                channels: open.forward.channels(),
                bytes_in,
                bytes_out,
                since: open.since,
                ends_in_s: open.ends.saturating_duration_since(now).as_secs(),
            }
        };
        self.inner().open.iter().map(listed).collect()
    }

    /// The line for `authorized_keys`, while the service runs.
    pub(crate) fn key(&self) -> Option<String> {
        self.inner().key.clone()
    }

    pub(super) fn show_key(&self, key: Option<String>) {
        self.inner().key = key;
    }

    /// A life of the service: when it ends there is no key to show any more.
    pub(super) fn begin(&self) -> Shown<'_> {
        Shown(self)
    }

    /// The port of one that is open.
    pub(super) fn rport(&self, id: &str) -> Option<u16> {
        self.inner().open.get(id).map(|open| open.forward.rport())
    }

    pub(super) fn enter(&self, id: &str, open: Open) -> Entry<'_> {
        self.inner().open.insert(id.to_owned(), open);
        Entry { tunnels: self, id: id.to_owned(), taken: false }
    }

    /// What one has left whose run was ended from outside.
    pub(super) fn take_left(&self, id: &str) -> Option<Left> {
        self.inner().left.remove(id)
    }

    fn leave(&self, id: &str, left: Left) {
        let mut inner = self.inner();
        if inner.left.len() >= LEFT {
            inner.left.pop_first();
        }
        inner.left.insert(id.to_owned(), left);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one out; and its forward, which ends when that is dropped.
    fn remove(&self, id: &str) -> Option<(Arc<Forward>, Left)> {
        let Open { forward, began, .. } = self.inner().open.remove(id)?;
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let left = Left { rport: forward.rport(), bytes: forward.bytes(), duration_ms };
        Some((forward, left))
    }
}

/// See [`Tunnels::begin`].
pub(super) struct Shown<'a>(&'a Tunnels);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.show_key(None);
    }
}

/// One that is open, for as long as this lives. Dropped before its end was taken, it leaves what has gone through it.
pub(super) struct Entry<'a> {
    tunnels: &'a Tunnels,
    id: String,
    taken: bool,
}

impl Entry<'_> {
    /// Ends it, and waits a moment until the server knows. What it leaves is there also for whoever ends that wait.
    pub(super) async fn close(mut self) -> Option<Left> {
        self.taken = true;
        let (forward, left) = self.tunnels.remove(&self.id)?;
        self.tunnels.leave(&self.id, left);
        // Nobody else keeps it for longer than a look.
        if let Some(forward) = Arc::into_inner(forward) {
            forward.close().await;
        }
        self.tunnels.take_left(&self.id)
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if let Some((_, left)) = self.tunnels.remove(&self.id) {
            self.tunnels.leave(&self.id, left);
        }
    }
}
