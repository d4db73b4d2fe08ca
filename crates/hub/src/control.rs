//! How `iot-hub devices` asks a running hub: a unix socket in the data folder, since the database admits one
//! process only.
//!
//! One question a connection, `devices` and a newline; the answer is the JSON array of `--json`.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::devices::Device;

const SOCKET: &str = "hub.sock";
const QUESTION: &[u8] = b"devices\n";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Someone wants the list of devices.
pub type Query = oneshot::Sender<Vec<Device>>;

/// The listening socket; its file goes when it is dropped.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in the data folder. The caller holds the database, so a socket that is there is a dead hub's.
    pub fn bind(data: &Path) -> io::Result<Control> {
        let path = data.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Control { listener, path })
    }

    /// Passes every question on. Runs until dropped.
    pub async fn run(self, queries: mpsc::Sender<Query>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let queries = queries.clone();
                    tokio::spawn(async move {
                        match tokio::time::timeout(TIMEOUT, answer(stream, queries)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => debug!(%error, "control connection failed"),
                            Err(_) => debug!("control connection timed out"),
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: give the others time to go.
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A file that is left behind is removed by the next hub.
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "cannot remove the control socket");
        }
    }
}

async fn answer(mut stream: UnixStream, queries: mpsc::Sender<Query>) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != rustix::process::geteuid().as_raw() && peer != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} may not ask")));
    }
    let mut question = [0; QUESTION.len()];
    stream.read_exact(&mut question).await?;
    if question != QUESTION {
        return stream.write_all(b"{\"error\":\"unknown question\"}\n").await;
    }
    let (query, devices) = oneshot::channel();
    let gone = || io::Error::other("the hub is stopping");
    queries.send(query).await.map_err(|_| gone())?;
    let devices = devices.await.map_err(|_| gone())?;
    stream.write_all(&serde_json::to_vec(&devices)?).await?;
    stream.shutdown().await
}

/// The devices of the hub that runs with this data folder; `None` where none runs.
pub fn ask(data: &Path) -> io::Result<Option<Vec<Device>>> {
    let mut stream = match std::os::unix::net::UnixStream::connect(data.join(SOCKET)) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(QUESTION)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map(Some).map_err(io::Error::from)
}
