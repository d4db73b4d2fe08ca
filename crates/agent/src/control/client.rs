//! The other end of the socket, for `iot-agent status` and its like. Blocking: there is nothing else to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{ANSWER_WITHIN, Command, Reply};

/// The longest reply, in bytes.
const MAX_REPLY: u64 = 1 << 20;

/// Why there is no answer, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon listens there.
    #[error("no agent at {}: is it running (`systemctl status iot-agent`), and with this `paths.run`?", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to another user.
    #[error("not allowed to ask the agent at {}: try again as root (`sudo`)", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// A daemon is there, but the conversation failed.
    #[error("the agent at {} does not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("the agent says: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
}

/// Asks the daemon that listens on `socket`.
///
/// # Errors
/// Why there is no answer.
pub fn ask(socket: &Path, command: &Command) -> Result<Value, AskError> {
    match exchange(connect(socket)?, command) {
        Ok(Reply::Ok(value)) => Ok(value),
        Ok(Reply::Error(message)) => Err(AskError::Refused { message }),
        Err(source) => Err(AskError::Silent { path: socket.to_owned(), source }),
    }
}

/// Connects to the daemon that listens on `socket`.
///
/// # Errors
/// [`AskError::Refused`] excepted.
pub fn connect(socket: &Path) -> Result<UnixStream, AskError> {
    let path = socket.to_owned();
    UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning { path },
        io::ErrorKind::PermissionDenied => AskError::Denied { path },
        _ => AskError::Silent { path, source },
    })
}

fn exchange(mut stream: UnixStream, command: &Command) -> io::Result<Reply> {
    let patience = Some(ANSWER_WITHIN + Duration::from_secs(5));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut request = serde_json::to_vec(command)?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
