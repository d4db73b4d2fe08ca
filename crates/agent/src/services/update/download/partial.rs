//! The file on the disk, as far as it is there, and beside it what is known of it.
//!
//! The note beside it is written before the first byte, and again only after a reboot, so what there is of the file is
//! told by its length. That can be believed within one boot of the machine. After a power cut a file system may show bytes that
//! never were on the disk; those since the last sync that is sure to have ended are given up then. The hash of the whole
//! decides in the end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::{self, Scope, ScopedJoinHandle},
};

use hyper::body::Bytes;
use ring::digest::{Context, SHA256};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    identity::boot_id,
    store::{make_folder, replace, sync_folder},
};

const FILE: &str = "file";
const NOTE: &str = "file.json";
/// Of the note. One of another version is as good as none: all that is lost is some time.
const VERSION: u64 = 1;
/// The longest note, in bytes.
const LONGEST: u64 = 16 << 10;
/// The file is synced at each multiple of this, in bytes. A power cut costs two of them at most.
const STEP: u64 = 8 << 20;
/// What is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kind {
    /// Its length, in bytes.
    pub(super) size: u64,
    /// Its hash.
    pub(super) sha256: [u8; 32],
}

/// What is known of the file. The boot is the one in which it was last opened.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u64,
    #[serde(flatten)]
    kind: Kind,
    validator: Option<String>,
    /// The most bytes that were there before it was begun anew.
    most: u64,
    boot: String,
}

/// The file; while this lives no other try has it, in this process or another.
pub(super) struct Partial {
    folder: PathBuf,
    lock: File,
    file: File,
    note: Note,
    length: u64,
    hash: Context,
}

impl Drop for Partial {
    fn drop(&mut self) {
        unlock(&self.lock);
    }
}

/// Closing it alone would leave the lock to a child that has the descriptor until its exec.
fn unlock(lock: &File) {
    if let Err(error) = flock(lock, FlockOperation::Unlock) {
        tracing::debug!(%error, "left the folder of downloads locked");
    }
}

/// Where the file is.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Removes file and note. A try that still has it writes on into nothing.
///
/// # Errors
/// Those of the disk.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    for name in [FILE, NOTE] {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    if folder.is_dir() { sync_folder(folder) } else { Ok(()) }
}

impl Partial {
    /// What there is of this file, read and hashed; nothing of any other. `None` while another try has it.
    ///
    /// # Errors
    /// Those of the disk, and [`io::ErrorKind::Interrupted`] once nobody waits for it any more.
    pub(super) fn open(folder: PathBuf, kind: Kind, gone: &dyn Fn() -> bool) -> io::Result<Option<Self>> {
        make_folder(&folder)?;
        let lock = File::open(&folder)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        let mut partial = begin(folder, lock, kind)?;
        partial.read(gone)?;
        Ok(Some(partial))
    }

    /// Hashes what is there.
    fn read(&mut self, gone: &dyn Fn() -> bool) -> io::Result<()> {
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        while at < self.length {
            if gone() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let most = usize::try_from(self.length - at).map_or(PIECE, |left| left.min(PIECE));
            let count = self.file.read_at(&mut piece[..most], at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hash.update(&piece[..count]);
            at += count as u64;
        }
        Ok(())
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The most that there ever were.
    pub(super) fn most(&self) -> u64 {
        self.note.most.max(self.length)
    }

    /// What says that the server's file is still this one.
    pub(super) fn validator(&self) -> Option<&str> {
        self.note.validator.as_deref()
    }

    /// Bytes that the disk has room for.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn free(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.file)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// From the start again, from a server's file with this validator.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn clear(&mut self, validator: Option<String>) -> io::Result<()> {
        let most = self.most();
        if self.length > 0 {
            cut(&self.file, 0)?;
        }
        (self.length, self.hash) = (0, Context::new(&SHA256));
        self.note.validator = validator;
        self.note.most = most;
        self.write_note()
    }

    /// Writes what comes until no more comes.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn take(&mut self, mut parts: mpsc::Receiver<Bytes>) -> io::Result<()> {
        let file = self.file.try_clone()?;
        thread::scope(|scope| {
            let mut behind = Behind { scope, file: &file, running: None };
            // What an earlier try has left behind.
            behind.step()?;
            while let Some(part) = parts.blocking_recv() {
                self.append(&part, || behind.step())?;
            }
            behind.wait()
        })
    }

    fn append(&mut self, mut bytes: &[u8], mut step: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = usize::try_from(STEP - self.length % STEP).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.file.write_all_at(now, self.length)?;
            self.hash.update(now);
            self.length += now.len() as u64;
            if self.length.is_multiple_of(STEP) {
                step()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// The hash of all that is there, which outlasts a power cut from here on.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn finish(&mut self) -> io::Result<[u8; 32]> {
        self.file.sync_all()?;
        sync_folder(&self.folder)?;
        let digest = self.hash.clone().finish();
        Ok(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn write_note(&self) -> io::Result<()> {
        replace(&self.folder.join(NOTE), &serde_json::to_vec(&self.note)?)
    }
}

/// Syncs a file while more is written to it, so that neither the disk nor the network waits for the other.
struct Behind<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    file: &'env File,
    running: Option<ScopedJoinHandle<'scope, io::Result<()>>>,
}

impl Behind<'_, '_> {
    /// Begins with what is there by now, after all from before the last step is safe.
    fn step(&mut self) -> io::Result<()> {
        self.wait()?;
        let file = self.file;
        let thread = thread::Builder::new().name("sync".to_owned());
        self.running = Some(thread.spawn_scoped(self.scope, || file.sync_data())?);
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn begin(folder: PathBuf, lock: File, kind: Kind) -> io::Result<Partial> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path(&folder))?;
    let boot = boot_id().map_err(io::Error::other)?;
    let found = read_note(&folder).filter(|note| (note.version, note.kind) == (VERSION, kind));
    let length = file.metadata()?.len();
    let keep = match &found {
        None => 0,
        Some(_) if length > kind.size => 0,
        Some(note) if note.boot == boot => length,
        // Before it went beyond a multiple, all up to the one before was synced.
        Some(_) => (length.saturating_sub(1) / STEP).saturating_sub(1) * STEP,
    };
    if keep < length {
        cut(&file, keep)?;
    }
    let is_older = found.as_ref().is_some_and(|note| note.boot != boot);
    let fresh = Note { version: VERSION, kind, validator: None, most: 0, boot: String::new() };
    let note = Note { boot, ..found.unwrap_or(fresh) };
    let partial = Partial { folder, lock, file, note, length: keep, hash: Context::new(&SHA256) };
    // A fresh one is written with the first answer.
    if is_older {
        partial.write_note()?;
    }
    Ok(partial)
}

/// Before the note says anything else: after a power cut it must not be about bytes that are back.
fn cut(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    file.sync_all()
}

fn read_note(folder: &Path) -> Option<Note> {
    let mut bytes = Vec::new();
    File::open(folder.join(NOTE)).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests;
