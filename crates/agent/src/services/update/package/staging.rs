//! Entries into a folder that is open, and never outside it: whatever the package says, and whatever lies there already.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, RawMode},
    io::Errno,
};

use super::{Entry, Error, Manifest, Result, Sink};

/// The permissions of folders that are made.
const FOLDER_MODE: RawMode = 0o755;
/// What the file system keeps beside the content of a file, at most, in bytes.
const BLOCK: u64 = 4096;

/// A folder that is filled with entries. Where that fails, what is in it is of no use to anybody.
pub struct Staging {
    root: OwnedFd,
    /// What was made, below the root. All else that is found was not ours, and is not entered.
    folders: BTreeSet<String>,
    file: Option<(File, Entry)>,
}

impl Staging {
    /// Will write into the opened folder, which should be empty and nobody else's.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, folders: BTreeSet::new(), file: None }
    }

    /// Looks whether there is room for all entries.
    ///
    /// # Errors
    /// [`Error::Space`] when there is not.
    pub fn room(&self, manifest: &Manifest) -> Result<()> {
        let stage = stage("look for room for", ".");
        let free = rustix::fs::fstatvfs(&self.root).map_err(stage)?;
        let entries = manifest.entries();
        let folders: BTreeSet<&str> = entries.iter().flat_map(|entry| entry.path.folders()).collect();
        let files = (entries.len() + folders.len()) as u64;
        let content: u64 = entries.iter().map(|entry| entry.size.next_multiple_of(BLOCK)).sum();
        let needed = content + files * BLOCK;
        let space = free.f_bavail.saturating_mul(free.f_frsize);
        if space < needed {
            return Err(Error::Space { needed, free: space, unit: "bytes" });
        }
        // Some file systems have no table of files that could be full, and say 0.
        if free.f_files > 0 && free.f_favail < files {
            return Err(Error::Space { needed: files, free: free.f_favail, unit: "files" });
        }
        Ok(())
    }

    /// Puts the folders on the disk, too: after it all of it outlasts a power cut.
    ///
    /// # Errors
    /// The disk did not take it.
    pub fn finish(self) -> Result<OwnedFd> {
        // Those below come behind those that they are in.
        for path in self.folders.iter().rev() {
            let folder = self.folder(path)?;
            rustix::fs::fsync(folder).map_err(stage("sync", path))?;
        }
        rustix::fs::fsync(&self.root).map_err(stage("sync", "."))?;
        Ok(self.root)
    }

    /// Makes a folder, in one that is there.
    fn make(&mut self, path: &str) -> Result<()> {
        if self.folders.contains(path) {
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => return Err(Error::Occupied { path: path.to_owned() }),
            result => result.map_err(stage("make", path))?,
        }
        let folder = beneath(parent.as_fd(), name).map_err(stage("open", path))?;
        // Whatever the umask is.
        rustix::fs::fchmod(folder, Mode::from_raw_mode(FOLDER_MODE))
            .map_err(stage("set the mode of", path))?;
        self.folders.insert(path.to_owned());
        Ok(())
    }

    /// The opened folder that something lies in, and its name there.
    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        match path.rsplit_once('/') {
            Some((folder, name)) => Ok((self.folder(folder)?, name)),
            None => Ok((self.root.try_clone().map_err(stage_io("open", "."))?, path)),
        }
    }

    fn folder(&self, path: &str) -> Result<OwnedFd> {
        beneath(self.root.as_fd(), path).map_err(stage("open", path))
    }
}

impl Sink for Staging {
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        for folder in entry.path.folders() {
            self.make(folder)?;
        }
        let path = entry.path.as_str();
        let (parent, name) = self.parent(path)?;
        // With EXCL not even a link that is there is followed.
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::EXIST) => return Err(Error::Occupied { path: path.to_owned() }),
            result => result.map_err(stage("make", path))?,
        };
        self.file = Some((File::from(file), entry.clone()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((file, entry)) = &mut self.file else { return Ok(()) };
        file.write_all(bytes).map_err(stage_io("write", entry.path.as_str()))
    }

    fn end(&mut self) -> Result<()> {
        let Some((file, entry)) = self.file.take() else { return Ok(()) };
        let path = entry.path.as_str();
        // Only now, when the content is what it should be, may anybody execute it.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(bits(entry.mode)))
            .map_err(stage("set the mode of", path))?;
        file.sync_all().map_err(stage_io("sync", path))
    }
}

/// A file's permissions, as wide as the system has them.
#[allow(
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "at most 0777, which fits everywhere"
)]
fn bits(mode: super::Mode) -> RawMode {
    mode.bits() as RawMode
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the folder of that relative path: no link on the way is followed, and nothing leads up.
fn beneath(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, FOLDER, Mode::empty(), resolve) {
            // Before Linux 5.6, and where a container's filter does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => {}
            result => return result,
        }
    }
    step_by_step(root, path)
}

/// The same where there is no such call: a name at a time, none of which is a link.
fn step_by_step(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut folder = None;
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") {
            return Err(Errno::XDEV);
        }
        let from = folder.as_ref().map_or(root, OwnedFd::as_fd);
        folder = Some(rustix::fs::openat(from, name, FOLDER, Mode::empty())?);
    }
    folder.ok_or(Errno::NOENT)
}

fn stage(what: &'static str, path: &str) -> impl Fn(Errno) -> Error {
    move |errno| stage_io(what, path)(errno.into())
}

fn stage_io(what: &'static str, path: &str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Stage { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Both ways down hold against whatever lies in the folder.
    #[test]
    fn no_way_leads_out() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("a", dir.path().join("in")).unwrap();
        symlink("..", dir.path().join("a/up")).unwrap();
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        for open in [beneath, step_by_step] {
            assert!(open(root.as_fd(), "a/b").is_ok());
            for path in ["out", "in", "in/b", "a/up", "a/up/a", "../x", "..", "a/../..", "/etc", "/"] {
                assert!(open(root.as_fd(), path).is_err(), "{path}");
            }
        }
    }
}
