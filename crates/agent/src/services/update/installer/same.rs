//! A folder held against a package: whether it has all entries as they are, whoever put them there.

use std::{
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
};

use rustix::fs::{Mode, OFlags};

use super::tree::FOLDER;
use crate::services::update::package::{Entry, Place, Result, Sink, whole};

/// Takes entries, keeps none, and remembers the first that is another in the folder.
pub(super) struct Same {
    root: OwnedFd,
    file: Option<File>,
    other: Option<Place>,
    entry: Option<Entry>,
}

impl Same {
    /// As that folder, which is open.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, file: None, other: None, entry: None }
    }

    /// An entry that is not there, or is another.
    pub(super) fn other(self) -> Option<String> {
        self.other.map(|place| place.as_str().to_owned())
    }

    fn open(&self, entry: &Entry) -> Option<File> {
        let file = open(&self.root, entry.path.as_str())?;
        let found = file.metadata().ok()?;
        let fits = found.is_file() && found.len() == entry.size;
        (fits && found.permissions().mode() & 0o7777 == entry.mode.bits()).then_some(file)
    }

    fn differs(&mut self) {
        self.file = None;
        if self.other.is_none() {
            self.other = self.entry.as_ref().map(|entry| entry.path.clone());
        }
    }
}

/// Opens what has this path below a folder; no link is followed.
pub(super) fn open(root: &OwnedFd, path: &str) -> Option<File> {
    let mut folder = None;
    let open = |folder: &Option<OwnedFd>, path: &str, flags| {
        let from = folder.as_ref().map_or(root.as_fd(), |folder| folder.as_fd());
        rustix::fs::openat(from, path, flags, Mode::empty()).ok()
    };
    let (folders, name) = path.rsplit_once('/').map_or(("", path), |(folders, name)| (folders, name));
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        folder = Some(open(&folder, part, FOLDER)?);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(&folder, name, flags).map(File::from)
}

impl Sink for Same {
    /// Of a patch there is nothing to compare with but the hash of what it makes.
    fn begin_patch(&mut self, entry: &Entry, _: u64) -> Result<()> {
        self.begin(entry)?;
        let same =
            self.file.as_ref().is_none_or(|file| whole(file).is_ok_and(|found| found.sha256 == entry.sha256));
        if !same {
            self.differs();
        }
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<()> {
        (self.file, self.entry) = (self.open(entry), Some(entry.clone()));
        if self.file.is_none() {
            self.differs();
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.entry.as_ref().is_some_and(|entry| entry.base.is_some()) {
            return Ok(());
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut found = vec![0; bytes.len()];
        if file.read_exact(&mut found).is_err() || found != bytes {
            self.differs();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        // Whoever wrote it may not have waited for the disk.
        if self.file.take().is_some_and(|file| file.sync_all().is_err()) {
            self.differs();
        }
        Ok(())
    }
}
