//! What systemd is told (`sd_notify(3)`), and the watchdog that ends a process which no longer moves.
//!
//! Nothing here waits, and nothing here fails the agent: without systemd there is nobody to tell.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

mod watchdog;

pub use watchdog::Watchdog;

/// Tells systemd about this process. Cheap to clone; silent where systemd did not ask to be told.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    to: Option<Arc<(UnixDatagram, SocketAddr)>>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok();
        let watchdog = watchdog_of(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Self::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    /// `socket` is a path, or `@` and an abstract name; `watchdog` is how long systemd waits between two signs of
    /// life.
    pub fn new(socket: Option<&OsStr>, watchdog: Option<Duration>) -> Self {
        let to = socket.and_then(|name| match open(name) {
            Ok(to) => Some(Arc::new(to)),
            Err(e) => {
                tracing::warn!(socket = %name.display(), error = %e, "cannot tell systemd anything");
                None
            }
        });
        Self { to, watchdog }
    }

    /// The service is up, or has reloaded.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The configuration is being read again; [`Notifier::ready`] has to follow.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// The service is going down.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.send(&format!("STATUS={}", line.replace(['\n', '\r'], " ")));
    }

    /// Another process is the service from now on.
    pub(crate) fn main(&self, pid: i32) {
        self.send(&format!("MAINPID={pid}"));
    }

    pub(crate) fn alive(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = self.to.as_deref() else { return };
        if let Err(e) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(state, error = %e, "cannot tell systemd");
        }
    }
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address(name)?))
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_encoded_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

/// The watchdog's time, if it is meant for this process and not for a parent of it.
fn watchdog_of(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    for_us.then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systemd(name: &OsStr) -> UnixDatagram {
        let socket = UnixDatagram::bind_addr(&address(name).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn systemd_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify").into_os_string();
        let abstract_name = format!("@iot-agent-test-{}", std::process::id());
        for name in [path.as_os_str(), OsStr::new(&abstract_name)] {
            if cfg!(not(target_os = "linux")) && name != path {
                continue;
            }
            let socket = systemd(name);
            let notifier = Notifier::new(Some(name), None);
            notifier.ready();
            notifier.status("online\nREADY=1");
            notifier.alive();
            notifier.stopping();
            assert_eq!(
                [heard(&socket), heard(&socket), heard(&socket)],
                ["READY=1", "STATUS=online READY=1", "STOPPING=1"]
            );
        }
    }

    #[test]
    fn a_reload_carries_the_monotonic_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify").into_os_string();
        let socket = systemd(&path);
        let notifier = Notifier::new(Some(&path), None);
        let usec = || {
            notifier.reloading();
            heard(&socket).strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse::<u64>().unwrap()
        };
        let (first, second) = (usec(), usec());
        assert!(0 < first && first <= second && second < first + 60_000_000, "{first} {second}");
    }

    #[test]
    fn without_systemd_nothing_happens() {
        for name in
            [None, Some(OsStr::new("/nobody/there")), Some(OsStr::new("vsock:2:1234")), Some(OsStr::new(""))]
        {
            let notifier = Notifier::new(name, Some(Duration::from_secs(1)));
            notifier.ready();
            notifier.alive();
        }
    }

    #[test]
    fn the_watchdog_is_ours_or_not() {
        let text = |text: &str| Some(text.to_owned());
        let two = Some(Duration::from_secs(2));
        for (usec, pid, expected) in [
            (text("2000000"), None, two),
            (text("2000000"), text("42"), two),
            (text("2000000"), text("43"), None),
            (text("2000000"), text(""), None),
            (text("0"), None, None),
            (text("soon"), None, None),
            (None, text("42"), None),
        ] {
            assert_eq!(watchdog_of(usec.clone(), pid.clone(), 42), expected, "{usec:?} {pid:?}");
        }
    }
}
