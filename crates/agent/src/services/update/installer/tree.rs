//! A folder with all that is in it, removed: name by name from opened folders, so that no link leads anywhere else.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// What opens a folder, and nothing else.
pub(super) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How deep folders may lie in each other: an opened one each.
const MAX_DEPTH: u32 = 128;

/// Removes what has this name in an opened folder, whatever it is. What is not there is as good as removed.
pub(super) fn remove(folder: impl AsFd, name: &CStr) -> io::Result<()> {
    below(folder.as_fd(), name, MAX_DEPTH)
}

fn below(folder: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
    let found = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?);
    }
    let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders lie too deep in each other"))?;
    let opened = rustix::fs::openat(folder, name, FOLDER, Mode::empty())?;
    loop {
        let removed = content(&opened, depth)?;
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            // Some systems pass over names while others are removed.
            Err(Errno::NOTEMPTY | Errno::EXIST) if removed > 0 => {}
            result => return Ok(result?),
        }
    }
}

fn content(folder: &OwnedFd, depth: u32) -> io::Result<usize> {
    let mut removed = 0;
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = item.file_name();
        if name != c"." && name != c".." {
            below(folder.as_fd(), name, depth)?;
            removed += 1;
        }
    }
    Ok(removed)
}
