//! The installed files that patches are for: each read once, and it is these bytes that are hashed and used.

use std::{fs::File, io::Read as _, os::fd::OwnedFd};

use super::same;
use crate::launch::PROGRAM;
use crate::services::update::package::{Bases, Entry, Error, Result, hex, whole};

/// This program, where no version of it was installed by an update yet.
const SELF: &str = "/proc/self/exe";

/// What is in use of a software.
pub(super) struct Current {
    root: Option<OwnedFd>,
    memory: u64,
    itself: bool,
}

impl Current {
    /// The folder in use, if there is one; `itself` where it is this program that is updated.
    pub(super) fn new(root: Option<OwnedFd>, memory: u64, itself: bool) -> Self {
        Self { root, memory, itself }
    }

    fn open(&self, path: &str) -> Option<File> {
        match &self.root {
            Some(root) => same::open(root, path),
            None if self.itself && path == PROGRAM => File::open(SELF).ok(),
            None => None,
        }
    }
}

impl Bases for Current {
    fn base(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        let path = || entry.path.as_str().to_owned();
        let file = self.open(entry.path.as_str()).ok_or_else(|| Error::BaseMissing(path()))?;
        let found = file.metadata().map_err(Error::Read)?;
        if !found.is_file() {
            return Err(Error::BaseMissing(path()));
        }
        let (needed, limit) = (found.len(), self.memory);
        if needed > limit {
            return Err(Error::PatchMemory { path: path(), needed, limit });
        }
        // No more than it was, should it grow meanwhile.
        let mut bytes = Vec::with_capacity(usize::try_from(needed).unwrap_or(0));
        file.take(needed).read_to_end(&mut bytes).map_err(Error::Read)?;
        let sha256 = whole(bytes.as_slice()).map_err(Error::Read)?.sha256;
        let wanted = entry.base.unwrap_or_default();
        if sha256 == wanted {
            return Ok(bytes);
        }
        Err(Error::BaseDiffers { path: path(), wanted: hex(&wanted), found: hex(&sha256) })
    }

    fn memory(&self) -> u64 {
        self.memory
    }
}
