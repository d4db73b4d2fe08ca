//! A process with name resolution, or a network, of its own. Linux and root only: `unshare` (util-linux) makes the
//! namespace, port 53 wants root, and so do mounts and links; neither systemd nor a container runtime is needed.

mod dns;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
pub use dns::{Answer, Query};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::feed::Feed;
use crate::seed::chance;

/// A DNS server on a loopback address of its own, and the `resolv.conf` that names it; ends when dropped. Set
/// [`Answer`]s at any time.
#[derive(Debug)]
pub struct Resolver {
    answer: Arc<watch::Sender<Answer>>,
    /// What was asked, whether answered or not.
    pub queries: Feed<Query>,
    dir: TempDir,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Starts it with this behaviour.
    ///
    /// # Errors
    /// When it cannot listen.
    ///
    /// # Panics
    /// When not run as root.
    pub async fn start(answer: Answer) -> anyhow::Result<Self> {
        require_root();
        let (socket, address) = bind_53().await?;
        let dir = tempfile::Builder::new().prefix("resolver-").tempdir().context("create its folder")?;
        // One try of one second: a test shall not wait for the default of two times five.
        let text = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
        std::fs::write(dir.path().join("resolv.conf"), text).context("write resolv.conf")?;
        let (answer, queries) = (Arc::new(watch::Sender::new(answer)), Feed::default());
        let task = tokio::spawn(dns::serve(socket, Arc::clone(&answer), queries.clone()));
        Ok(Self { answer, queries, dir, task })
    }

    /// Answers so from the next query on.
    pub fn set(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    /// A command that runs `program` with this server as its only one, in a mount namespace of its own. Arguments,
    /// environment and the rest are added as usual; the process id is the program's.
    ///
    /// Host names in `/etc/hosts` are not asked for, `localhost` above all.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        const MOUNT: &str = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT]);
        command.arg(self.resolv_conf()).arg(program);
        command
    }

    fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A command that runs `program` in a network namespace of its own, where there is nothing but an empty loopback
/// (`ip`, iproute2, brings it up): everything else is unreachable.
///
/// # Panics
/// When not run as root.
pub fn without_network(program: impl AsRef<OsStr>) -> Command {
    require_root();
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", r#"ip link set lo up && exec "$@""#, "sh"]).arg(program);
    command
}

/// An address that takes no connection and refuses none: dialling it takes until the dialler gives up. It is a
/// listener whose queue is full.
#[derive(Debug)]
pub struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Opens one on a loopback address of its own, on this port (0: any).
    ///
    /// # Errors
    /// When no address can be had or the queue does not fill.
    pub async fn start(port: u16) -> anyhow::Result<Self> {
        const FILLED: Duration = Duration::from_millis(200);
        let socket = TcpSocket::new_v4().context("open a socket")?;
        socket.bind((own_address(), port).into()).context("bind the black hole")?;
        let listener = socket.listen(1).context("listen in the black hole")?;
        let address = listener.local_addr().context("ask for its address")?;
        let mut queued = Vec::new();
        for _ in 0..16 {
            match timeout(FILLED, TcpStream::connect(address)).await {
                Ok(stream) => queued.push(stream.context("fill the black hole")?),
                Err(_) => return Ok(Self { address, _listener: listener, _queued: queued }),
            }
        }
        bail!("the queue of a listener does not fill")
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }
}

fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "namespaces and port 53 need root: run these tests as root"
    );
}

/// Any of 127/8 is this machine; the lower ones are for others.
fn own_address() -> Ipv4Addr {
    let [a, b, c, ..] = chance().to_le_bytes();
    Ipv4Addr::new(127, 53 + a % 100, b, 1 + c % 254)
}

async fn bind_53() -> anyhow::Result<(UdpSocket, Ipv4Addr)> {
    for _ in 0..10 {
        let address = own_address();
        match UdpSocket::bind((address, 53)).await {
            Ok(socket) => return Ok((socket, address)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context("bind port 53"),
        }
    }
    bail!("no loopback address with a free port 53")
}
