//! Files below `/proc`, by process. Nothing here asks for memory but a buffer that has to grow.

use std::{
    fs::File,
    io::{self, ErrorKind, Seek as _, SeekFrom, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, fstatfs, openat, statat},
    io::Errno,
};

use crate::services::metrics::{files::Root, text::number};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What is read of one file at most. Arguments may be longer; nobody looks for what comes so late.
const MOST: usize = 64 * 1024;

/// What most files fit in.
const FIRST: usize = 2048;

/// `/proc`, kept open.
#[derive(Debug)]
pub(super) struct Proc {
    root: Root,
    folder: Option<File>,
    /// Whether it is the kernel's, and not a tree of files that somebody has written.
    real: bool,
    entries: Box<[MaybeUninit<u8>]>,
}

impl Proc {
    /// What cannot be opened is tried again when it is listed.
    pub(super) fn new(root: &Root) -> Self {
        let entries = vec![MaybeUninit::uninit(); 8192].into_boxed_slice();
        let mut proc = Self { root: root.clone(), folder: None, real: false, entries };
        if let Err(error) = proc.open_folder() {
            tracing::debug!(%error, "/proc cannot be opened yet");
        }
        proc
    }

    fn open_folder(&mut self) -> io::Result<()> {
        if self.folder.is_none() {
            let opened = openat(CWD, self.root.path("proc"), OPEN.union(OFlags::DIRECTORY), Mode::empty())?;
            self.real = fstatfs(&opened)?.f_type == PROC_SUPER_MAGIC;
            self.folder = Some(File::from(opened));
        }
        Ok(())
    }

    /// Whether a file of a process that is kept open tells of that process only, and fails when it is gone.
    pub(super) fn real(&self) -> bool {
        self.real
    }

    /// Where a file outside of `/proc` is.
    pub(super) fn outside(&self, path: &std::path::Path) -> PathBuf {
        self.root.path(path.to_str().unwrap_or_default().trim_start_matches('/'))
    }

    /// Tells the number and the inode of each process.
    pub(super) fn list(&mut self, mut tell: impl FnMut(u32, u64)) -> io::Result<()> {
        self.open_folder()?;
        let Some(folder) = &mut self.folder else { return Err(ErrorKind::NotFound.into()) };
        folder.seek(SeekFrom::Start(0))?;
        let mut entries = RawDir::new(folder.as_fd(), &mut self.entries);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Some(pid) = number(entry.file_name().to_bytes())
                && let Ok(pid) = u32::try_from(pid)
            {
                tell(pid, entry.ino());
            }
        }
        Ok(())
    }

    /// Opens `/proc/PID/NAME`.
    pub(super) fn open(&self, pid: u32, name: &str) -> io::Result<File> {
        Ok(File::from(self.open_as(pid, name, OPEN)?))
    }

    fn open_as(&self, pid: u32, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let folder = self.folder.as_ref().ok_or(Errno::NOENT)?;
        let mut buffer = [0; 64];
        openat(folder, path(&mut buffer, pid, name), flags, Mode::empty())
    }

    /// Reads `/proc/PID/NAME`, once.
    pub(super) fn read(&self, pid: u32, name: &str, into: &mut Vec<u8>) -> io::Result<()> {
        fill(&self.open(pid, name)?, into)
    }

    /// Reads `/proc/NAME`, once.
    pub(super) fn read_plain(&self, name: &str, into: &mut Vec<u8>) -> io::Result<()> {
        let folder = self.folder.as_ref().ok_or(Errno::NOENT)?;
        fill(&File::from(openat(folder, name, OPEN, Mode::empty())?), into)
    }

    /// Where `/proc/PID/NAME` points to.
    pub(super) fn link(&self, pid: u32, name: &str) -> io::Result<Vec<u8>> {
        let folder = self.folder.as_ref().ok_or(Errno::NOENT)?;
        let mut buffer = [0; 64];
        let target = rustix::fs::readlinkat(folder, path(&mut buffer, pid, name), Vec::new())?;
        Ok(target.into_bytes())
    }

    /// Whether there is such a process; not what it is.
    pub(super) fn exists(&self, pid: u32) -> bool {
        let Some(folder) = &self.folder else { return false };
        statat(folder, path(&mut [0; 64], pid, ""), AtFlags::empty()).is_ok()
    }

    /// How many files a process has open. From Linux 6.2 on the folder's size says so; before, it is 0 and they are counted.
    pub(super) fn open_files(&mut self, pid: u32) -> io::Result<u64> {
        let folder = self.folder.as_ref().ok_or(Errno::NOENT)?;
        if self.real {
            let size = statat(folder, path(&mut [0; 64], pid, "fd"), AtFlags::empty())?.st_size;
            if let Ok(count @ 1..) = u64::try_from(size) {
                return Ok(count);
            }
        }
        let folder = self.open_as(pid, "fd", OPEN.union(OFlags::DIRECTORY))?;
        let mut entries = RawDir::new(&folder, &mut self.entries);
        let mut count = 0;
        while let Some(entry) = entries.next() {
            count += u64::from(!entry?.file_name().to_bytes().starts_with(b"."));
        }
        Ok(count)
    }
}

/// What a file says now. One call where it ends before the buffer does, as a file of `/proc` is made in one go.
pub(super) fn fill(file: &File, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(FIRST, 0);
    let mut length = 0;
    loop {
        let read = file.read_at(&mut into[length..], length as u64)?;
        length += read;
        if length < into.len() || length >= MOST {
            into.truncate(length);
            return Ok(());
        }
        into.resize(2 * length, 0);
    }
}

/// Reads a regular file, never waiting for one that is a pipe.
pub(super) fn read_file(path: &std::path::Path, into: &mut Vec<u8>) -> io::Result<()> {
    let file = File::from(openat(CWD, path, OPEN, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    fill(&file, into)
}

/// `PID/NAME`, without the heap.
fn path<'b>(buffer: &'b mut [u8; 64], pid: u32, name: &str) -> &'b [u8] {
    let mut rest = &mut buffer[..];
    write!(rest, "{pid}/{name}").expect("a number and a short word fit");
    let left = rest.len();
    &buffer[..64 - left]
}

/// Whether the process is gone, rather than what was asked refused.
pub(super) fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}
