//! Forwards through a real sshd: what goes along them, and what they are when something is wrong.

mod flow;
mod hostile;
mod loss;
mod refusals;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use testkit::Sshd;
use testkit::sshd::{Builder, keygen};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::*;
use crate::clock::{Reading, built};

const LIMIT: Duration = Duration::from_secs(30);

/// A server that takes the key of a device.
struct Stage {
    sshd: Sshd,
    dir: TempDir,
}

impl Stage {
    async fn plain() -> Self {
        Self::of(Sshd::builder()).await
    }

    async fn of(builder: Builder) -> Self {
        let stage =
            Self { sshd: builder.start().await.expect("sshd"), dir: TempDir::new().expect("a folder") };
        keygen(&stage.key_path("ed25519"), "ed25519", 0).expect("a key");
        stage.let_in("ed25519", "");
        stage
    }

    fn key_path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Has the server take the key `name`, with these options.
    fn let_in(&self, name: &str, options: &str) {
        let key = Key::load(&self.key_path(name)).expect("a key");
        self.sshd.let_in(&format!("{options} {}", key.public())).expect("authorized_keys");
    }

    fn server(&self) -> Server {
        local(self.sshd.port())
    }

    fn ways(&self) -> Ways {
        let trust = Trust::pinned(&self.sshd.host_key("ed25519").expect("its key")).expect("a key");
        ways(&self.sshd, &self.key_path("ed25519"), trust)
    }

    fn links(&self) -> Links {
        Links::new(self.ways())
    }

    /// A forward to a port of the server's choice.
    async fn forward(&self, links: &Links, target: SocketAddr) -> Forward {
        links.open(&self.server(), 0, to(target)).await.expect("a forward")
    }
}

fn ways(sshd: &Sshd, key: &Path, trust: Trust) -> Ways {
    Ways {
        user: sshd.user(),
        key: Key::load(key).expect("a key"),
        trust,
        clock: Clock::with_source(built(), || Reading { time: built(), synchronised: true }),
        timeout: Duration::from_secs(20),
        keep_alive: Duration::from_secs(15),
        // Both addresses of localhost need not be free.
        bind: "127.0.0.1".into(),
        limit: Limit::default(),
    }
}

fn local(port: u16) -> Server {
    Server { host: "127.0.0.1".into(), port }
}

fn to(address: SocketAddr) -> Target {
    Target { host: address.ip().to_string(), port: address.port() }
}

/// Ends a wait that would otherwise be for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("an end in time")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(LIMIT, async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

/// A target that sends back what comes.
async fn echo() -> SocketAddr {
    testkit::echo::start().await.expect("an echo")
}

/// Somebody at the server's end.
async fn dial(forward: &Forward) -> TcpStream {
    soon(TcpStream::connect((Ipv4Addr::LOCALHOST, forward.rport()))).await.expect("the server's port")
}

/// Both ends of one connection through the forward.
async fn pair(forward: &Forward, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = dial(forward).await;
    let (target, _) = soon(listener.accept()).await.expect("a connection");
    (client, target)
}

/// That a connection goes there and back.
async fn works(forward: &Forward) {
    let mut client = dial(forward).await;
    client.write_all(b"there and back").await.expect("a write");
    client.shutdown().await.expect("an end");
    let mut back = Vec::new();
    soon(client.read_to_end(&mut back)).await.expect("an answer");
    assert_eq!(back, b"there and back");
}
