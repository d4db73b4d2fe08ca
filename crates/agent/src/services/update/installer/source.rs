//! The file of an update: opened once, and read from that descriptor only.

use std::{
    fs::File,
    io::{self, Read, Seek as _, Write as _},
};

use protocol::update::Sha256;
use ring::digest::{Context, SHA256};
use rustix::fs::{Mode, OFlags};

use super::{Error, Result, Unpack, error::disk};
use crate::services::update::package::{self, Whole};

/// The opened file, of the size that it should have.
pub(super) struct Source<'a> {
    file: File,
    order: &'a Unpack,
}

impl<'a> Source<'a> {
    pub(super) fn open(order: &'a Unpack) -> Result<Self> {
        let path = &order.file;
        // A pipe would not be waited for, and is refused below.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::MLINK) => {
                return Err(Error::NoFile(path.clone()));
            }
            result => File::from(result.map_err(disk("open", path))?),
        };
        let metadata = file.metadata().map_err(disk("look at", path))?;
        if !metadata.is_file() {
            return Err(Error::NoFile(path.clone()));
        }
        let found = metadata.len();
        let wanted = order.full.as_ref().map_or(order.size, |full| full.size.unwrap_or(found));
        if found != wanted { Err(Error::Size { found, wanted }) } else { Ok(Self { file, order }) }
    }

    /// Whether it is a package; if not, why not.
    pub(super) fn is_package(&mut self) -> Result<std::result::Result<(), package::Error>> {
        let first = package::begins(&self.file);
        self.file.rewind().map_err(disk("read", &self.order.file))?;
        match first {
            Err(package::Error::Read(error)) => Err(disk("read", &self.order.file)(error)),
            other => Ok(other),
        }
    }

    /// From the beginning to the end, once.
    pub(super) fn reader(&self) -> &File {
        &self.file
    }

    /// Whether what was read is what the request says.
    pub(super) fn check(&self, whole: Whole) -> Result<()> {
        let Unpack { mut size, mut sha256, .. } = *self.order;
        // What is not known of it its signature vouches for.
        if let Some(full) = &self.order.full {
            size = full.size.unwrap_or(whole.size);
            sha256 = full.sha256.unwrap_or(Sha256(whole.sha256));
        }
        if whole.size != size {
            return Err(Error::Size { found: whole.size, wanted: size });
        }
        let found = Sha256(whole.sha256);
        if found == sha256 { Ok(()) } else { Err(Error::Digest { found, wanted: sha256 }) }
    }

    /// The same, for a plain file: hashed, and written to another file, as it is read.
    pub(super) fn copied<'b>(&'b self, copy: Option<&'b File>) -> Copied<'b> {
        Copied { source: &self.file, copy, failed: None, hash: Context::new(&SHA256), size: 0 }
    }
}

/// A file as it is read, hashed and copied.
pub(super) struct Copied<'a> {
    source: &'a File,
    copy: Option<&'a File>,
    failed: Option<io::Error>,
    hash: Context,
    size: u64,
}

impl Copied<'_> {
    /// What was read.
    pub(super) fn finish(self) -> Whole {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.finish().as_ref());
        Whole { size: self.size, sha256 }
    }

    /// Why nothing more could be written.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }
}

impl Read for Copied<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(bytes)?;
        if let Some(mut copy) = self.copy
            && let Err(error) = copy.write_all(&bytes[..count])
        {
            let again = error.kind().into();
            self.failed = Some(error);
            return Err(again);
        }
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }
}
