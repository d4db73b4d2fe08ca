//! The servers behind the set-ups.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::Seen;
use crate::certs::{Identity, Pki};
use crate::process::installed;
use crate::tls;
use crate::wire;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const LOG: &str = "s_server.log";

/// Ends what it runs when dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    _task: Task,
    /// Killed when dropped.
    _child: Option<Child>,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn plaintext(seen: Arc<Seen>) -> anyhow::Result<Server> {
    listen(move |stream| {
        let seen = Arc::clone(&seen);
        async move { answer(stream, &seen, |chunk| wire::level_of(chunk).is_some()).await }
    })
    .await
}

pub(super) async fn rustls(identity: &Identity, seen: Arc<Seen>) -> anyhow::Result<Server> {
    let acceptor = tls::acceptor(identity)?;
    listen(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, &seen, |_| true).await;
            }
        }
    })
    .await
}

async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> anyhow::Result<Server> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a server")?;
    let address = listener.local_addr().context("ask for the server's address")?;
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    Ok(Server { address, _task: Task(task), _child: None })
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Seen,
    is_application: impl Fn(&[u8]) -> bool,
) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let chunk = &buffer[..read];
        // Whatever else comes without TLS, a TLS hello above all, is welcomed as if it were a CONNECT.
        let answer = if is_application(chunk) { seen.take(chunk) } else { Some(wire::connack(4, "")) };
        if let Some(answer) = answer
            && stream.write_all(&answer).await.is_err()
        {
            return;
        }
    }
}

impl Seen {
    /// Counts, and answers a CONNECT: it is the first thing behind a handshake, so it begins a read.
    fn take(&self, chunk: &[u8]) -> Option<Vec<u8>> {
        self.bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        let level = wire::level_of(chunk)?;
        self.connects.fetch_add(1, Ordering::SeqCst);
        Some(wire::connack(level, ""))
    }
}

/// `openssl s_server -quiet` writes what comes out of TLS to its standard output, and sends what it reads from its
/// standard input to the client it serves. It listens on a unix socket, for which no port need be guessed.
pub(super) async fn openssl(
    pki: &Pki,
    identity: Option<&Identity>,
    options: &[&str],
    seen: Arc<Seen>,
) -> anyhow::Result<Server> {
    let socket = pki.path().join("s_server.sock");
    let mut child = spawn_openssl(pki, identity, options, &socket)?;
    wait_listening(&mut child, pki, &socket).await?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let mut stdout = child.stdout.take().context("standard output is piped")?;
    // Ends with the child.
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
            if let Some(connack) = seen.take(&buffer[..read]) {
                // It fails when the server has been ended.
                stdin.write_all(&connack).await.ok();
            }
        }
    });
    let server = listen(move |mut client| {
        let socket = socket.clone();
        async move {
            if let Ok(mut openssl) = UnixStream::connect(socket).await {
                // Either side may end it as it likes; what passed was counted behind TLS.
                copy_bidirectional(&mut client, &mut openssl).await.ok();
            }
        }
    })
    .await?;
    Ok(Server { _child: Some(child), ..server })
}

fn spawn_openssl(
    pki: &Pki,
    identity: Option<&Identity>,
    options: &[&str],
    socket: &Path,
) -> anyhow::Result<Child> {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-unix"]).arg(socket).args(options);
    match identity {
        None => {
            command.arg("-nocert");
        }
        Some(identity) => {
            command.arg("-cert").arg(&identity.cert).arg("-key").arg(&identity.key);
            // Of the file with the certificate it sends the first one only.
            let chain = fs::read_to_string(&identity.cert).context("read the chain")?;
            if let Some((_, issuers)) = chain.split_once("-----END CERTIFICATE-----\n")
                && !issuers.is_empty()
            {
                let file = pki.path().join("issuers.pem");
                fs::write(&file, issuers).context("write the chain")?;
                command.arg("-cert_chain").arg(file);
            }
        }
    }
    let log = fs::File::create(pki.path().join(LOG)).context("create the server's log")?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
    installed("openssl", "openssl", command.spawn()).context("start openssl")
}

async fn wait_listening(child: &mut Child, pki: &Pki, socket: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    while UnixStream::connect(socket).await.is_err() {
        if let Some(status) = child.try_wait().context("look at openssl")? {
            let log = fs::read_to_string(pki.path().join(LOG)).unwrap_or_default();
            bail!("openssl s_server ended with {status}: {log}");
        }
        ensure!(Instant::now() < deadline, "openssl does not listen within {START_TIMEOUT:?}");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
