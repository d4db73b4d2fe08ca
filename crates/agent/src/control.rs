//! The daemon's unix socket, `<run>/iot-agent.sock`: one JSON request a line, one JSON reply a line. Only after
//! `publish` it is the [`Desk`]'s to read and to reply.
//!
//! Only root and the daemon's own user are answered; there is no TCP port. Requests are short, clients few, and
//! neither a silent nor a talkative one costs the daemon more than a bounded buffer.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::update::Wanted;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{outbox::Class, publish};

mod client;
mod talk;

pub use client::{AskError, ask, connect};
pub(crate) use talk::Replies;
pub use talk::Talk;

/// The socket's name in the folder `paths.run`.
pub const SOCKET: &str = "iot-agent.sock";

/// The longest request, in bytes.
pub const MAX_REQUEST: u64 = 4096;

/// How many clients are served at a time; more wait to be accepted.
pub const MAX_CLIENTS: usize = 8;

/// How long a client may take to send a request, or to take its reply.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a command may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What can be asked of the daemon: `{"command": "status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Identity, connection, each service's state.
    Status,
    /// Lines to publish follow, until the client ends its half of the conversation; see [`publish::Reply`].
    Publish(publish::Request),
    /// What waits in the outbox, by class.
    OutboxStats,
    /// The next few messages of a class that wait, from this index on; see [`crate::desk`].
    OutboxList {
        /// Which class.
        class: Class,
        /// The first index of interest.
        #[serde(default)]
        from: u64,
    },
    /// Forgets what waits of these classes, and what was set aside.
    OutboxPurge {
        /// Which classes.
        #[serde(default)]
        classes: Vec<Class>,
        /// Also the messages that the broker has refused.
        #[serde(default)]
        refused: bool,
    },
    /// Ends something that was asked from outside before it ends by itself.
    Cancel {
        /// The service that does it.
        service: String,
        /// Its id.
        id: String,
    },
    /// Installs a file of this machine; the answer is its id.
    UpdateInstall {
        /// The file.
        path: PathBuf,
        /// What it is, from the file itself; nothing of it is believed.
        wanted: Wanted,
    },
    /// Takes an update back; the answer is its id.
    UpdateRollback {
        /// Of which software; of the only one.
        #[serde(default)]
        name: Option<String>,
    },
}

/// Who answers.
pub trait Desk: Send + Sync + 'static {
    /// Answers; an `Err` is the text for the user.
    fn answer(&self, command: Command) -> impl Future<Output = Result<Value, String>> + Send;

    /// Takes a conversation over.
    fn publish(&self, request: publish::Request, talk: Talk) -> impl Future<Output = io::Result<()>> + Send;
}

/// One reply: `{"ok": …}` or `{"error": "…"}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Ok(Value),
    Error(String),
}

/// Why the daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder for the socket is not there and cannot be made.
    #[error("cannot create the folder {}: create it, or name another in `paths.run`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another iot-agent{} uses the folder {}", pid.map(|pid| format!(", process {pid},")).unwrap_or_default(), path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other daemon, where it could leave its number.
        pid: Option<u32>,
    },
    /// The folder's lock cannot be had.
    #[error("cannot lock {}: make its folder writable, or name another in `paths.run`", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be made. Its whole path has to fit into about 100 bytes.
    #[error("cannot listen on {}: make its folder writable, or name another, with a short path, in `paths.run`", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The listening socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// What tells a dead daemon's socket from a living one's.
    lock: File,
}

impl Control {
    /// Listens in the folder `run`, replacing the socket of a daemon that is no more. Needs a runtime.
    pub fn bind(run: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run)
            .map_err(|source| Error::Folder { path: run.into(), source })?;
        let lock = lock(run)?;
        let path = run.join(SOCKET);
        let listener = listen(&path).map_err(|source| Error::Listen { path: path.clone(), source })?;
        Ok(Self { listener, path, lock })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has `desk` answer requests for as long as the future lives.
    pub async fn serve<D: Desk>(self, desk: D) {
        let (desk, places) = (Arc::new(desk), Arc::new(Semaphore::new(MAX_CLIENTS)));
        let mut clients = JoinSet::new();
        loop {
            let (stream, place) = tokio::select! {
                accepted = self.accept(&places) => accepted,
                Some(ended) = clients.join_next() => {
                    if let Err(e) = ended {
                        tracing::error!(error = %e, "serving a control client failed");
                    }
                    continue;
                }
            };
            let desk = Arc::clone(&desk);
            clients.spawn(async move {
                if let Err(e) = converse(stream, &*desk, place).await {
                    tracing::debug!(error = %e, "a control client went away");
                }
            });
        }
    }

    async fn accept(&self, places: &Arc<Semaphore>) -> (UnixStream, OwnedSemaphorePermit) {
        let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                Err(e) => {
                    // Out of descriptors, most likely. The client waits in the queue meanwhile.
                    tracing::warn!(error = %e, "cannot accept a control client");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::debug!(socket = %self.path.display(), error = %e, "left the control socket");
        }
        // After the socket is gone. Closing alone would leave the lock to a child that has the descriptor until
        // its exec.
        if let Err(e) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::debug!(error = %e, "left the control socket locked");
        }
    }
}

fn lock(run: &Path) -> Result<File, Error> {
    let path = run.join(format!("{SOCKET}.lock"));
    let failed = |source| Error::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = io::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            return Err(Error::InUse { path: run.into(), pid });
        }
        Err(e) => return Err(failed(e.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// Listens under another name first: the socket is nobody else's before it is found under its own.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let temp = path.with_extension("new");
    match fs::remove_file(&temp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&temp)?;
    fs::set_permissions(&temp, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temp, path)?;
    Ok(listener)
}

async fn converse<D: Desk>(stream: UnixStream, desk: &D, place: OwnedSemaphorePermit) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let allowed = peer == 0 || peer == rustix::process::geteuid().as_raw();
    let mut talk = Talk::new(stream);
    while let Some(request) = talk.receive().await? {
        let reply = match request {
            _ if !allowed => {
                tracing::warn!(uid = peer, "refused a control client: it is another user");
                Reply::Error("only root and the agent's own user are answered".into())
            }
            Ok(Command::Publish(request)) => {
                // It may go on for days, and keeps nobody else from asking.
                drop(place);
                return desk.publish(request, talk).await;
            }
            Ok(command) => answer(desk.answer(command)).await,
            Err(why) => Reply::Error(why),
        };
        talk.send(&reply, PATIENCE).await?;
    }
    Ok(())
}

async fn answer(handled: impl Future<Output = Result<Value, String>>) -> Reply {
    match timeout(ANSWER_WITHIN, handled).await {
        Ok(Ok(value)) => Reply::Ok(value),
        Ok(Err(why)) => Reply::Error(why),
        Err(_) => Reply::Error("the agent took too long to answer".into()),
    }
}

#[cfg(test)]
mod tests;
