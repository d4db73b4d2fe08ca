//! Patches instead of whole files, for devices that have an earlier version.

use std::{collections::BTreeMap, io::Write as _, path::Path};

use zstd::stream::{raw::CParameter, write::Encoder};

use super::{
    Error, Manifest, Result,
    folder::{changed, read},
};

/// Windows of zstd, as binary logarithms of bytes.
const WINDOW_LOG: std::ops::RangeInclusive<u32> = 10..=30;

/// The patches of a package, by the paths of their entries.
#[derive(Debug, Default)]
pub struct Patches(BTreeMap<String, Vec<u8>>);

impl Patches {
    /// Of the files of a folder against those of the same names in the folder of an earlier version, where a patch is smaller
    /// than the file. The manifest says which they are. Each file, its earlier version and its patch are in memory once.
    ///
    /// # Errors
    /// A file cannot be read, or is not any more what the manifest says.
    pub fn make(manifest: &mut Manifest, folder: &Path, old: &Path, level: i32) -> Result<Self> {
        let mut patches = BTreeMap::new();
        for entry in &mut manifest.entries {
            let (path, before) = (folder.join(entry.path.as_str()), old.join(entry.path.as_str()));
            if !before.symlink_metadata().is_ok_and(|found| found.is_file()) {
                continue;
            }
            let ((new, sha256), (base, from)) = (content(&path)?, content(&before)?);
            if sha256 != entry.sha256 {
                return Err(changed(&path));
            }
            let patch = patch(&base, &new, level).map_err(Error::Write)?;
            if patch.len() < new.len() {
                entry.base = Some(from);
                patches.insert(entry.path.as_str().to_owned(), patch);
            }
        }
        Ok(Self(patches))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn of(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }
}

/// As `zstd --patch-from`: the earlier content goes before the new one, in one window.
fn patch(base: &[u8], new: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut encoder = Encoder::with_ref_prefix(Vec::new(), level, base)?;
    let log = base.len().max(new.len()).max(1).ilog2() + 1;
    encoder.set_parameter(CParameter::WindowLog(log.clamp(*WINDOW_LOG.start(), *WINDOW_LOG.end())))?;
    encoder.long_distance_matching(true)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(new.len() as u64))?;
    encoder.write_all(new)?;
    encoder.finish()
}

/// A file, and its SHA-256.
fn content(path: &Path) -> Result<(Vec<u8>, [u8; 32])> {
    let mut bytes = Vec::new();
    let (_, sha256) = read(path, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok((bytes, sha256))
}
