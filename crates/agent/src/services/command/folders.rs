//! The folders of one command: where it works, and where its keeper leaves what it has to.

use std::{
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use crate::{
    executor::{self, Login},
    store,
};

/// A folder for one command alone, and one for what its keeper may have to leave.
pub(super) fn make(work: &Path, spool: &Path, account: Option<&str>) -> anyhow::Result<Login> {
    let login = executor::login(account).map_err(anyhow::Error::msg)?;
    store::make_folder(work)?;
    spool.parent().map_or(Ok(()), store::make_folder)?;
    if account.is_some() {
        chown(work, Some(login.ids.0), Some(login.ids.1))?;
    }
    Ok(login)
}

/// Takes away what a command has left in its own folder. Never what it has mounted there: that is somebody else's.
///
/// # Errors
/// Those of the system; or something is mounted there, and everything is left as it is.
pub(super) fn remove(work: &Path) -> io::Result<()> {
    if let Some(place) = mounted(work) {
        let place = place.display();
        return Err(io::Error::other(format!("{place} is mounted, so nothing there is removed")));
    }
    fs::remove_dir_all(work)
}

/// Something that is mounted at `folder` or below; what stays mounted is seen by all.
fn mounted(folder: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(folder).ok()?;
    // On systems without this file only root mounts anything, and a command that does so cleans up after itself.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(place);
    places.into_iter().find(|place| place.starts_with(&folder))
}

/// A path, in which the system writes white space and backslashes as octal numbers.
fn place(written: &str) -> PathBuf {
    let named = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    named.iter().fold(written.to_owned(), |path, (octal, plain)| path.replace(octal, plain)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_not_removed() {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted_here = all.lines().filter_map(|line| line.split(' ').nth(4)).map(place);
        for place in mounted_here.filter(|place| place.parent().is_some_and(Path::is_dir)) {
            assert!(mounted(&place).is_some(), "{}", place.display());
            assert!(mounted(place.parent().unwrap()).is_some());
        }
        assert_eq!(place("/a\\040b/\\134c"), Path::new("/a b/\\c"));
    }

    #[test]
    fn a_link_is_removed_and_not_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (work, precious) = (dir.path().join("work"), dir.path().join("precious"));
        fs::create_dir_all(work.join("sub")).unwrap();
        fs::write(&precious, "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), work.join("sub/link")).unwrap();
        remove(&work).unwrap();
        assert!(precious.exists() && !work.exists());
        // The folder itself was replaced.
        std::os::unix::fs::symlink(dir.path(), &work).unwrap();
        remove(&work).unwrap();
        assert!(precious.exists() && !work.is_symlink());
    }
}
