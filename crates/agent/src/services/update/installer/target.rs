//! A software's folder on the device, opened: `versions/…`, and `current`, a link to the one in use.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{
    Error, Result,
    error::disk,
    tree::{self, FOLDER},
};

/// Where the versions lie.
const VERSIONS: &str = "versions";
/// The link to the one in use.
const CURRENT: &str = "current";
/// The link that is about to be that.
const NEXT: &str = ".current.next";
/// What the names of folders begin with that are being filled.
const STAGING: &str = ".staging-";

/// What a link to a version says.
pub(crate) fn link(version: &str) -> String {
    format!("{VERSIONS}/{version}")
}

/// The opened folders of a software; for one process at a time.
pub(super) struct Target {
    path: PathBuf,
    root: OwnedFd,
    versions: OwnedFd,
}

impl Target {
    /// Opens what is there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let root = open(path).map_err(disk("open", path))?;
        Self::with(path, root)
    }

    /// The same, and makes what is not there yet, so that it outlasts a power cut.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let root = match open(path) {
            Err(Errno::NOENT) => make_all(path).map_err(disk("make", path)),
            result => result.map_err(disk("open", path)),
        }?;
        make_folder(&root, VERSIONS).map_err(disk("make", path.join(VERSIONS)))?;
        Self::with(path, root)
    }

    fn with(path: &Path, root: OwnedFd) -> Result<Self> {
        let this = Self::unlocked(path, root)?;
        // Whoever is still at work on it, without anybody who waits for that, ends first. Not every file system has locks.
        rustix::fs::flock(&this.versions, FlockOperation::LockExclusive).ok();
        Ok(this)
    }

    fn unlocked(path: &Path, root: OwnedFd) -> Result<Self> {
        let versions = rustix::fs::openat(&root, VERSIONS, FOLDER, Mode::empty())
            .map_err(disk("open", path.join(VERSIONS)))?;
        Ok(Self { path: path.to_owned(), root, versions })
    }

    /// Opens what is there for whoever changes nothing but the link, and waits for nobody.
    pub(super) fn peek(path: &Path) -> Result<Self> {
        let root = open(path).map_err(disk("open", path))?;
        Self::unlocked(path, root)
    }

    /// The opened folder of the versions.
    pub(super) fn versions(&self) -> &OwnedFd {
        &self.versions
    }

    /// The path of a version's folder.
    pub(super) fn version_path(&self, name: &str) -> PathBuf {
        self.path.join(VERSIONS).join(name)
    }

    /// The name of the folder that is filled with the file of this hash.
    pub(super) fn staging_name(sha256: protocol::update::Sha256) -> String {
        let digits = sha256.to_string();
        format!("{STAGING}{}", &digits[..16])
    }

    /// What `current` says, if there is one.
    pub(super) fn current(&self) -> Result<Option<String>> {
        let path = || self.path.join(CURRENT);
        match rustix::fs::readlinkat(&self.root, CURRENT, Vec::new()) {
            Ok(text) => text.into_string().map(Some).map_err(|_| Error::LinkName(path())),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => Err(Error::NoLink(path())),
            Err(error) => Err(disk("read", path())(error)),
        }
    }

    /// Whether there is such a folder among the versions.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        match rustix::fs::statat(&self.versions, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(disk("look at", self.version_path(name))(error)),
        }
    }

    /// Opens the folder in use, if there is one.
    pub(super) fn folder_in_use(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, CURRENT, flags, Mode::empty()).ok()
    }

    /// Opens a version's folder.
    pub(super) fn version(&self, name: &str) -> Result<OwnedFd> {
        rustix::fs::openat(&self.versions, name, FOLDER, Mode::empty())
            .map_err(disk("open", self.version_path(name)))
    }

    /// Whether `current`, however it says so, leads to this version.
    pub(super) fn in_use(&self, name: &str) -> Result<bool> {
        let current = match rustix::fs::statat(&self.root, CURRENT, AtFlags::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
            result => result.map_err(disk("look at", self.path.join(CURRENT)))?,
        };
        match rustix::fs::statat(&self.versions, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (current.st_dev, current.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(disk("look at", self.version_path(name))(error)),
        }
    }

    /// Whether what a link of this content would lead to is a folder.
    pub(super) fn leads_somewhere(&self, link: &str) -> Result<bool> {
        match rustix::fs::statat(&self.root, link, AtFlags::empty()) {
            Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(disk("look at", self.path.join(link))(error)),
        }
    }

    /// A folder among the versions gets another name, on the disk, too.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.versions, from, &self.versions, to)
            .map_err(disk("rename to", self.version_path(to)))?;
        self.sync_versions()
    }

    /// Makes `current` lead there, at once and for good.
    pub(super) fn lead(&self, to: &str) -> Result<()> {
        let next = || self.path.join(NEXT);
        tree::remove(&self.root, &name(NEXT)?).map_err(disk("remove", next()))?;
        rustix::fs::symlinkat(to, &self.root, NEXT).map_err(disk("make", next()))?;
        rustix::fs::renameat(&self.root, NEXT, &self.root, CURRENT)
            .map_err(disk("switch", self.path.join(CURRENT)))?;
        self.sync()
    }

    /// Takes `current` away.
    pub(super) fn lead_nowhere(&self) -> Result<()> {
        match rustix::fs::unlinkat(&self.root, CURRENT, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            result => result.map_err(disk("remove", self.path.join(CURRENT)))?,
        }
        self.sync()
    }

    /// What `current` is outlasts a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.root).map_err(disk("sync", &self.path))
    }

    /// The names of the versions outlast a power cut.
    pub(super) fn sync_versions(&self) -> Result<()> {
        rustix::fs::fsync(&self.versions).map_err(disk("sync", self.path.join(VERSIONS)))
    }

    /// Removes what has this name among the versions.
    pub(super) fn remove(&self, version: &str) -> Result<()> {
        tree::remove(&self.versions, &name(version)?).map_err(disk("remove", self.version_path(version)))
    }

    /// Removes what was left half done.
    pub(super) fn remove_leftovers(&self) -> Result<()> {
        for left in self.names()?.iter().filter(|name| name.starts_with(STAGING)) {
            self.remove(left)?;
        }
        tree::remove(&self.root, &name(NEXT)?).map_err(disk("remove", self.path.join(NEXT)))
    }

    /// What lies among the versions. Names that are no UTF-8 are none of ours.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let list = || -> rustix::io::Result<Vec<CString>> {
            let names = Dir::read_from(&self.versions)?.map(|item| Ok(item?.file_name().to_owned()));
            names.collect()
        };
        let names = list().map_err(disk("list", self.path.join(VERSIONS)))?;
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| name != "." && name != "..").collect())
    }
}

/// A version's folder is one name, and none that means another folder.
pub(super) fn sound(name: &str) -> Result<&str> {
    let hidden = name.is_empty() || name.starts_with('.');
    if hidden || name.bytes().any(|byte| matches!(byte, b'/' | 0)) {
        Err(Error::Name(name.to_owned()))
    } else {
        Ok(name)
    }
}

fn name(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Name(text.to_owned()))
}

/// Opens a folder. Links on the way are the owner's.
fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())
}

/// Makes the folders of an absolute path that are not there, and opens the last.
fn make_all(path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut folder = open(Path::new("/"))?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        make_folder(&folder, name)?;
        folder = rustix::fs::openat(&folder, name, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())?;
    }
    Ok(folder)
}

/// Makes a folder that all may enter, in one that is open. That it is there is on the disk after that.
fn make_folder(folder: &OwnedFd, name: impl AsRef<Path>) -> rustix::io::Result<()> {
    // Not made first and opened to all later: whoever was killed in between would leave it closed.
    let ours = rustix::process::umask(Mode::from_raw_mode(0o022));
    let made = rustix::fs::mkdirat(folder, name.as_ref(), Mode::from_raw_mode(0o755));
    rustix::process::umask(ours);
    match made {
        Err(Errno::EXIST) => Ok(()),
        result => result.and_then(|()| rustix::fs::fsync(folder.as_fd())),
    }
}

/// Makes an empty folder, only for us, in place of whatever has that name, and opens it.
pub(super) fn make_anew(folder: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    tree::remove(folder, name)?;
    rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
    Ok(rustix::fs::openat(folder, name, FOLDER, Mode::empty())?)
}
