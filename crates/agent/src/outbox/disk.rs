//! The few things the outbox asks of a disk, so that tests can put one that fails in its place.

use std::{
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
};

use crate::store;

/// Does what waits for a disk on another thread, and takes its panic as one's own.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("the runtime ends before its tasks: {error}"),
    })
}

/// A folder of files. By name and without open files: nothing stays open between two calls.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Every regular file with its length; makes the folder where it is missing.
    ///
    /// # Errors
    /// Those of the system, here and below.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Reads at most `buf.len()` bytes; 0 at the end.
    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes at `offset` of a file that may not exist yet, and waits until the bytes are safe. The name of a new
    /// file is safe after [`Disk::sync_names`].
    fn write_synced(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes without waiting for the disk: safe from the end of this process, not from that of the machine.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Gives the file this content, or leaves it as it was; safe on return.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Renames, over what may be there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file that may be gone already.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes new, renamed and removed names safe.
    fn sync_names(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug, Clone)]
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// This folder, which need not exist.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn open(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.dir.join(name))
    }

    fn open_to_write(&self, name: &str) -> io::Result<File> {
        self.open(name, OpenOptions::new().write(true).create(true).truncate(false))
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        store::make_folder(&self.dir)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if let (true, Ok(name)) = (found.is_file(), entry.file_name().into_string()) {
                files.push((name, found.len()));
            }
        }
        Ok(files)
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.open(name, OpenOptions::new().read(true))?.read_at(buf, offset)
    }

    fn write_synced(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open_to_write(name)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.open_to_write(name)?.write_all_at(bytes, offset)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        store::replace(&self.dir.join(name), bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        store::sync_folder(&self.dir)
    }
}
