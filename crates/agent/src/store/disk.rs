//! Single files: whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{KEPT_ASIDE, MAX_SIZE};

/// What a power cut left behind. Whatever cannot be removed is overwritten or reported by the next write.
pub(super) fn remove_temps(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".")
            && name.ends_with(b".tmp")
            && let Err(e) = fs::remove_file(entry.path())
        {
            tracing::debug!(file = %entry.path().display(), error = %e, "left a stale temporary file");
        }
    }
}

/// The bytes of a regular file of reasonable length; `None` for anything else that stands there.
pub(crate) fn read_regular(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Not blocking: opening a pipe would otherwise wait for its writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_SIZE).then_some(bytes))
}

/// Makes `dir` and what it lies in, for this user alone, unless it is there.
pub(crate) fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    sync_folder(&place(dir)?.0)
}

/// The folder and name behind `path`, links followed: a link is the user's way to put a file elsewhere.
fn place(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.into();
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    Ok((dir.into(), name))
}

/// Gives the file these bytes, or leaves it as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (dir, name) = place(path)?;
    let temp = dir.join(format!(".{}.tmp", name.display()));
    if let Err(e) = write_temp(&temp, bytes).and_then(|()| fs::rename(&temp, dir.join(&name))) {
        // The first error is the one to tell; the next write or start tries again to remove the rest.
        remove(&temp).ok();
        return Err(e);
    }
    sync_folder(&dir)
}

fn write_temp(temp: &Path, bytes: &[u8]) -> io::Result<()> {
    remove(temp)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temp)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some file systems cannot sync a folder and do not need to.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Renames the file to `<name>.damaged-<n>`, with the next free number, and forgets the oldest such.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let (dir, name) = place(path)?;
    let prefix = format!("{}.damaged-", name.display());
    let mut kept: Vec<u32> = Vec::new();
    for entry in fs::read_dir(&dir)? {
        let found = entry?.file_name();
        kept.extend(found.to_str().and_then(|n| n.strip_prefix(&prefix)).and_then(|n| n.parse::<u32>().ok()));
    }
    kept.sort_unstable();
    let next = kept.last().map_or(1, |last| last.saturating_add(1));
    let target = dir.join(format!("{prefix}{next}"));
    fs::rename(dir.join(&name), &target)?;
    for old in kept.iter().rev().skip(KEPT_ASIDE - 1) {
        // The new one is safe; an old one too many harms nobody.
        remove(&dir.join(format!("{prefix}{old}"))).ok();
    }
    sync_folder(&dir)?;
    Ok(target)
}
