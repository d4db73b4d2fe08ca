//! The folders of one command: where it works, and where its keeper leaves what it has to.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::chown},
    path::{Path, PathBuf},
};

use crate::{
    executor::{self, Login},
    mountinfo, store,
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
    // On systems without this file only root mounts anything, and a command that does so cleans up after itself.
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    at_or_below(&fs::canonicalize(folder).ok()?, &mounts)
}

fn at_or_below(folder: &Path, mounts: &[u8]) -> Option<PathBuf> {
    let places = mounts.split(|byte| *byte == b'\n').filter_map(mountinfo::place);
    places.map(|place| PathBuf::from(OsString::from_vec(place))).find(|place| place.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_not_removed() {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted_here = all.lines().filter_map(|line| mountinfo::place(line.as_bytes()));
        let mounted_here = mounted_here.map(|place| PathBuf::from(OsString::from_vec(place)));
        for place in mounted_here.filter(|place| place.parent().is_some_and(Path::is_dir)) {
            assert!(mounted(&place).is_some(), "{}", place.display());
            assert!(mounted(place.parent().unwrap()).is_some());
        }
        assert_eq!(mountinfo::place(b"1 2 3:4 / /a\\040b/\\134c rw"), Some(b"/a b/\\c".to_vec()));
    }

    /// Another's mount whose path is no text hides none of the others.
    #[test]
    fn what_is_mounted_is_found_among_paths_of_any_bytes() {
        let mounts = b"1 2 0:1 / /\xff\xfe rw - tmpfs none rw\n2 2 0:2 / /work/a\\040b rw - tmpfs none rw\n";
        assert_eq!(at_or_below(Path::new("/work"), mounts), Some("/work/a b".into()));
        assert_eq!(at_or_below(Path::new("/wor"), mounts), None);
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
