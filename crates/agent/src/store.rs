//! The state folder: the only place that writes state.
//!
//! A write is temp + fsync + rename + fsync(dir), so that after a power cut a file holds the old content or the
//! new, never a mixture. A damaged file is set aside as `<name>.damaged-<n>` and reads as absent: it never stops
//! the agent. Each file carries `"version"`; a newer one, met after a rollback, is copied to
//! `<name>.version-<v>` and what this agent understands of it is used.
//!
//! One process at a time: the folder is locked for as long as a [`Store`] of it lives.
//! Calls block for as long as the disk does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::log::chain;
pub(crate) use disk::{make_folder, read_regular, replace, sync_folder};
use disk::{move_aside, remove_temps};

mod disk;

/// The shape of state files this agent writes, in their field `"version"`.
pub const VERSION: u64 = 1;

/// How many damaged copies of one file are kept; the oldest go first.
pub const KEPT_ASIDE: usize = 3;

/// A state file longer than this is taken for damaged, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// Holds the pid of the folder's owner, for the message to a second one. Not state: the lock is what counts.
const PID_FILE: &str = "pid";

/// What could not be done, and with which file or folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is not there and cannot be made, or is no folder.
    #[error("cannot create the state folder {}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder belongs to neither the agent's user nor root.
    #[error(
        "the state folder {} belongs to user {owner}, but the agent runs as user {user}: change its owner, or name another folder in `paths.state`",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who the agent is.
        user: u32,
    },
    /// Others may write to the folder and that cannot be taken from them.
    #[error("the state folder {} can be written by other users and its mode cannot be changed", path.display())]
    Mode {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent uses the folder.
    #[error(
        "the state folder {} is in use by another iot-agent{}",
        path.display(),
        pid.map(|pid| format!(", process {pid}")).unwrap_or_default()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other agent, where it could leave its number.
        pid: Option<u32>,
    },
    /// The folder cannot be locked.
    #[error("cannot lock the state folder {}", path.display())]
    Lock {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A value that JSON cannot hold, or that is no object.
    #[error("cannot encode {}", path.display())]
    Encode {
        /// The file it was meant for.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file cannot be written. Its old content stands, unless only the folder's own sync failed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A damaged file cannot be moved out of the way.
    #[error("cannot set {} aside", path.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that could lead out of the folder, or be taken for one of the store's own files.
    #[error("`{name}` cannot be the name of a state file")]
    Name {
        /// The name.
        name: String,
    },
}

/// A [`Result`](std::result::Result) of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// A folder of state files. Cheap to clone; the lock is given back when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The opened folder, which holds the lock. The folder and not a file in it: a full or read-only disk
    /// must not keep the agent from starting. None in a store that is nowhere.
    lock: Option<File>,
    /// One writer at a time: the temporary file's name is the same for each.
    writing: Mutex<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that has the descriptor until its exec.
        if let Some(lock) = &self.lock
            && let Err(e) = flock(lock, FlockOperation::Unlock)
        {
            tracing::debug!(error = %e, "left the state folder locked");
        }
    }
}

impl Store {
    /// Opens `dir` for this process alone, making it (0700) where it is missing and taking it from others where
    /// its mode is looser. Temporary files that a power cut left are removed.
    pub fn open(dir: &Path) -> Result<Self> {
        make_folder(dir).map_err(|source| Error::Create { path: dir.into(), source })?;
        let handle = lock(dir)?;
        keep_private(dir, &handle)?;
        note_pid(dir);
        remove_temps(dir);
        let shared = Shared { lock: Some(handle), writing: Mutex::new(()) };
        Ok(Self { dir: dir.into(), shared: Arc::new(shared) })
    }

    /// A store without a folder, for checking a configuration: nothing is in it and nothing can be written.
    pub fn nowhere() -> Self {
        let shared = Shared { lock: None, writing: Mutex::new(()) };
        Self { dir: PathBuf::from("/nonexistent"), shared: Arc::new(shared) }
    }

    /// A folder inside this one, say a service's own. It is made by the first write, so that on a read-only disk
    /// its owner still runs.
    pub fn folder(&self, name: &str) -> Result<Self> {
        let dir = self.file(name)?;
        let _turn = self.turn();
        remove_temps(&dir);
        Ok(Self { dir, shared: Arc::clone(&self.shared) })
    }

    /// Where this folder is.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The content of `name`, or `None` where there is none or it was damaged (and is now set aside).
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.file(name)?;
        let Some(content) = self.read_object(&path)? else { return Ok(None) };
        let (version, fields) = match split_version(content.clone()) {
            Ok(split) => split,
            Err(why) => return Ok(self.put_aside(&path, why)),
        };
        let value = serde_json::from_value(Value::Object(fields.clone())).ok();
        if version > VERSION {
            self.adopt_newer(&path, version, &content, value.is_some().then_some(fields))?;
        } else if value.is_none() {
            return Ok(self.put_aside(&path, "its fields are not those of this file"));
        }
        Ok(value)
    }

    /// Replaces the content of `name` by `value`, which has to be a struct or a map. On any error the old
    /// content stands and no temporary file is left.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.file(name)?;
        let fields: Map<String, Value> = serde_json::to_value(value)
            .and_then(serde_json::from_value)
            .map_err(|source| Error::Encode { path: path.clone(), source })?;
        self.write_versioned(&path, fields)
    }

    /// Moves `name` out of the way, to be looked at by a human, and says so in the log.
    pub fn set_aside(&self, name: &str, why: &str) -> Result<()> {
        self.set_aside_at(&self.file(name)?, why)
    }

    /// The JSON object in a file anywhere, or `None` where there is none or it was damaged (and is now set
    /// aside). For files whose place is the user's choice and whose shape is the contract's: no version.
    pub(crate) fn read_object(&self, path: &Path) -> Result<Option<Map<String, Value>>> {
        match read_regular(path) {
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(object) => Ok(Some(object)),
                // The parser's own words may quote the file, and the log is no place for its content.
                Err(e) => {
                    let why = format!("no JSON object: line {} column {}", e.line(), e.column());
                    Ok(self.put_aside(path, &why))
                }
            },
            Ok(None) => Ok(self.put_aside(path, "no regular file, or too long")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // A dead sector: as damaged as a file can be.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                Ok(self.put_aside(path, "the disk cannot read it"))
            }
            Err(source) => Err(Error::Read { path: path.into(), source }),
        }
    }

    /// [`Store::write`] for a file anywhere, without a version.
    pub(crate) fn write_object(&self, path: &Path, object: &Map<String, Value>) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(object)
            .map_err(|source| Error::Encode { path: path.into(), source })?;
        bytes.push(b'\n');
        let _turn = self.turn();
        replace(path, &bytes).map_err(|source| Error::Write { path: path.into(), source })
    }

    /// [`Store::set_aside`] for a file anywhere.
    pub(crate) fn set_aside_at(&self, path: &Path, why: &str) -> Result<()> {
        let _turn = self.turn();
        let kept_as = move_aside(path).map_err(|source| Error::SetAside { path: path.into(), source })?;
        tracing::warn!(file = %path.display(), reason = why, kept_as = %kept_as.display(), "set a file aside");
        Ok(())
    }

    /// Sets aside what cannot be used. Where even that fails (a read-only disk) the file is as good as absent.
    pub(crate) fn put_aside<T>(&self, path: &Path, why: &str) -> Option<T> {
        if let Err(e) = self.set_aside_at(path, why) {
            tracing::warn!(file = %path.display(), reason = why, error = chain(&e), "ignored a file that cannot be set aside");
        }
        None
    }

    /// Keeps a newer agent's file for its return, and goes on with what of it could be read.
    fn adopt_newer(
        &self,
        path: &Path,
        version: u64,
        content: &Map<String, Value>,
        readable: Option<Map<String, Value>>,
    ) -> Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".version-{version}"));
        let kept = self.write_object(Path::new(&aside), content);
        tracing::warn!(
            file = %path.display(), version, kept = kept.is_ok(), usable = readable.is_some(),
            "a newer agent wrote this file"
        );
        // Without the copy the original has to stay as it is; the caller can use what was read all the same.
        let rewritten = kept.and_then(|()| match readable {
            Some(fields) => self.write_versioned(path, fields),
            None => fs::remove_file(path).map_err(|source| Error::SetAside { path: path.into(), source }),
        });
        if let Err(e) = rewritten {
            tracing::warn!(file = %path.display(), error = chain(&e), "left a newer file in place");
        }
        Ok(())
    }

    fn write_versioned(&self, path: &Path, mut fields: Map<String, Value>) -> Result<()> {
        fields.insert("version".into(), VERSION.into());
        make_folder(&self.dir).map_err(|source| Error::Create { path: self.dir.clone(), source })?;
        self.write_object(path, &fields)
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let reserved = name.is_empty() || name.starts_with('.') || name == PID_FILE;
        if reserved || !name.bytes().all(plain) {
            return Err(Error::Name { name: name.into() });
        }
        Ok(self.dir.join(name))
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        // The guarded thing is the disk, which a panic of another writer leaves as a power cut would.
        self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(dir: &Path) -> Result<File> {
    let handle = File::open(dir).map_err(|source| Error::Lock { path: dir.into(), source })?;
    match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(handle),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(dir.join(PID_FILE)).ok().and_then(|text| text.trim().parse().ok());
            Err(Error::InUse { path: dir.into(), pid })
        }
        Err(e) => Err(Error::Lock { path: dir.into(), source: e.into() }),
    }
}

/// Makes sure that nobody else can write here and, where the file system can say so, that nobody else can read.
fn keep_private(dir: &Path, handle: &File) -> Result<()> {
    let found = handle.metadata().map_err(|source| Error::Lock { path: dir.into(), source })?;
    let (owner, user) = (found.uid(), geteuid().as_raw());
    if owner != user && owner != 0 {
        return Err(Error::Owner { path: dir.into(), owner, user });
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let changed = handle.set_permissions(fs::Permissions::from_mode(0o700));
    let found = format!("{mode:04o}");
    match changed {
        Ok(()) => tracing::warn!(folder = %dir.display(), found, "took the state folder from other users"),
        Err(source) if mode & 0o022 != 0 => return Err(Error::Mode { path: dir.into(), source }),
        Err(e) => {
            tracing::warn!(folder = %dir.display(), found, error = %e, "other users can read the state folder");
        }
    }
    Ok(())
}

fn note_pid(dir: &Path) {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(dir.join(PID_FILE))
        .and_then(|mut file| writeln!(file, "{}", std::process::id()));
    if let Err(e) = written {
        tracing::debug!(folder = %dir.display(), error = %e, "left no pid in the state folder");
    }
}

type Split = (u64, Map<String, Value>);

fn split_version(mut content: Map<String, Value>) -> std::result::Result<Split, &'static str> {
    match content.remove("version").and_then(|version| version.as_u64()) {
        Some(version) if version > 0 => Ok((version, content)),
        _ => Err("it has no version"),
    }
}

#[cfg(test)]
mod tests;
