//! Files of `/proc` and `/sys`, kept open: read again from their beginning at each look.

use std::{fs::File, io, os::unix::fs::FileExt, path::PathBuf};

/// Where `/proc` and `/sys` are: `/`, or a tree that a test has written.
#[derive(Debug, Clone)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// The machine's own.
    pub(crate) fn system() -> Self {
        Self(PathBuf::from("/"))
    }

    /// The tree under this folder.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn at(folder: &std::path::Path) -> Self {
        Self(folder.to_owned())
    }

    /// A path below it, given without the leading slash: `proc/stat`.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }
}

/// One file that is read again and again.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Source {
    /// Opens nothing yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, buffer: Vec::new() }
    }

    /// Its content now. After an error it is opened anew the next time.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub(crate) fn read(&mut self) -> io::Result<&[u8]> {
        let read = self.try_read();
        if read.is_err() {
            self.file = None;
        }
        read.map(|length| &self.buffer[..length])
    }

    fn try_read(&mut self) -> io::Result<usize> {
        if self.file.is_none() {
            self.file = Some(File::open(&self.path)?);
        }
        let Some(file) = &self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if self.buffer.is_empty() {
            self.buffer.resize(1024, 0);
        }
        let mut length = 0;
        loop {
            // A file of /proc is made at each read from 0; what a short read leaves is read on.
            let read = file.read_at(&mut self.buffer[length..], length as u64)?;
            length += read;
            if read == 0 {
                return Ok(length);
            }
            if length == self.buffer.len() {
                self.buffer.resize(2 * length, 0);
            }
        }
    }
}
