//! What differs between systems. Linux has all of it; elsewhere a job is held together by its process group alone.

use std::{os::fd::AsFd, path::Path};

use rustix::net::SendFlags;

/// Whether orphans of a process's offspring become its children, so that none is out of sight.
pub(super) const REAPS: bool = cfg!(target_os = "linux");

/// A peer that is gone is an error and no signal. macOS has no such flag: there it is for the agent to ignore SIGPIPE, as
/// every program in Rust does from its start.
#[cfg(not(target_vendor = "apple"))]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(super) const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Takes in the orphans of this process's offspring from now on.
pub(super) fn reap_orphans() {
    #[cfg(target_os = "linux")]
    // Since Linux 3.4; before it, and elsewhere, orphans are out of sight.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok();
}

/// Makes a pipe hold more, where the system lets us: fewer, larger reads.
pub(super) fn widen(pipe: impl AsFd) {
    #[cfg(target_os = "linux")]
    rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20).ok();
    #[cfg(not(target_os = "linux"))]
    drop(pipe);
}

/// Whether systemd has given this cgroup to whoever runs in it, or there is no systemd to give it.
pub(super) fn delegated(cgroup: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return !Path::new("/run/systemd/system").exists()
        || ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0_u8; 8];
            rustix::fs::getxattr(cgroup, *name, &mut value)
                .is_ok_and(|length| value[..length].starts_with(b"1"))
        });
    #[cfg(not(target_os = "linux"))]
    {
        let _: &Path = cgroup;
        false
    }
}
