//! systemd's journal, in its native protocol: one datagram an entry.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where it listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // Empty entries are ignored: this only finds out whether anybody listens.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.into() })
    }

    /// To the path each time: a journal that was restarted is found again.
    pub(super) fn send(&self, entry: &[u8]) -> io::Result<()> {
        self.socket.send_to(entry, &self.path).map(drop)
    }
}

/// Whether this process's standard error is read by the journal, as `JOURNAL_STREAM` says (systemd.exec(5)): its
/// device and inode. The variable alone may come from a parent whose standard error is no longer ours.
pub(super) fn is_stderr() -> bool {
    let Ok(announced) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(io::stderr())
        .is_ok_and(|found| announced == format!("{}:{}", found.st_dev, found.st_ino))
}
