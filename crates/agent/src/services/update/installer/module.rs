//! Which programs are taken for update modules: those that nobody but root and the agent's user could have put there.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Any of the three bits that let a file be executed.
const EXECUTABLE: u32 = 0o111;
/// Whether others than the owner can write.
const OTHERS: u32 = 0o022;

/// The module of this name.
///
/// # Errors
/// Why there is none, or why it is not run; in words that say what to do.
pub(crate) fn usable(folder: &Path, name: &str) -> Result<PathBuf, String> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(format!("{name:?} cannot be the name of an update module"));
    }
    let found = fs::metadata(folder)
        .map_err(|error| format!("modules_path {} cannot be looked at: {error}", folder.display()))?;
    if !found.is_dir() {
        return Err(format!("modules_path {} is no folder", folder.display()));
    }
    keepers(folder, &found)?;
    let path = folder.join(name);
    let found = fs::symlink_metadata(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no update module {name} in {}: put it there", folder.display())
        }
        _ => format!("the update module {} cannot be looked at: {error}", path.display()),
    })?;
    if !found.is_file() {
        return Err(format!("the update module {} is no regular file", path.display()));
    }
    if found.mode() & EXECUTABLE == 0 {
        return Err(format!("the update module {} is not executable: chmod 755 it", path.display()));
    }
    keepers(&path, &found)?;
    Ok(path)
}

/// Nobody else can change it.
fn keepers(path: &Path, found: &Metadata) -> Result<(), String> {
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != user {
        let path = path.display();
        return Err(format!("{path} belongs to the user {owner}: it has to be root's, or {user}'s"));
    }
    let mode = found.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let path = path.display();
        return Err(format!("{path} has the mode {mode:04o}, so others could change it: chmod go-w it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn put(path: &Path, mode: u32) {
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_programs_that_nobody_else_can_change_are_modules() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        put(&at("good"), 0o755);
        put(&at("plain"), 0o644);
        put(&at("open"), 0o757);
        put(&at("group"), 0o775);
        symlink(at("good"), at("link")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        assert_eq!(usable(folder.path(), "good"), Ok(at("good")));
        for (name, said) in [
            ("plain", "not executable"),
            ("open", "mode 0757"),
            ("group", "mode 0775"),
            ("link", "no regular file"),
            ("folder", "no regular file"),
            ("none", "there is no update module none"),
            ("", "cannot be the name"),
            ("..", "cannot be the name"),
            ("a/b", "cannot be the name"),
        ] {
            let why = usable(folder.path(), name).unwrap_err();
            assert!(why.contains(said), "{name}: {why}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(usable(folder.path(), "good").unwrap_err().contains("mode 0777"));
        assert!(usable(&at("good"), "x").unwrap_err().contains("is no folder"));
        assert!(usable(&at("absent"), "x").unwrap_err().contains("cannot be looked at"));
    }
}
