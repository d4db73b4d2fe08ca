//! Reads the fleet's secret from its file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::proof::{Psk, PskError};

/// The largest secret file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the secret file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{} may be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds no usable key.
    #[error("the secret file {} cannot be used", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PskError,
    },
}

/// The key in a file that nobody but its owner may read.
pub fn read_psk(path: &Path) -> Result<Psk, SecretError> {
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Psk::from_file_bytes(&bytes).map_err(|source| SecretError::Unfit { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_private_file_with_enough_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psk");
        assert!(matches!(read_psk(&path), Err(SecretError::Read { .. })));
        fs::write(&path, "long enough to be a secret\n").unwrap();
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_psk(&path), Err(SecretError::Exposed { mode: m, .. }) if m == mode));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_psk(&path).unwrap().is(b"long enough to be a secret"));
        fs::write(&path, "too short      \n").unwrap();
        assert!(matches!(read_psk(&path), Err(SecretError::Unfit { .. })));
    }
}
