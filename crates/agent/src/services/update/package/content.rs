//! What a version is, however it was packed: the same files at the same place are the same.

use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::{Error, Kind, Manifest, Mode, Place, Result, Scripts, hex};

/// Neither when it was packed, nor for whom, nor whether some of it came as patches.
#[derive(Serialize)]
struct Content<'a> {
    kind: Kind,
    target: Option<&'a str>,
    scripts: &'a Scripts,
    entries: Vec<(&'a Place, u64, String, Mode)>,
}

impl Manifest {
    /// SHA-256 over what there is of it once it is installed here: its kind, its place, its scripts, and of each entry path,
    /// size, SHA-256 and mode. None where others install it, who may do anything with it.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it cannot be JSON, which does not happen.
    pub fn content(&self) -> Result<Option<[u8; 32]>> {
        if !matches!(self.kind, Kind::Files | Kind::Agent) {
            return Ok(None);
        }
        let entries = self.entries.iter();
        let entries = entries.map(|entry| (&entry.path, entry.size, hex(&entry.sha256), entry.mode));
        let content = Content {
            kind: self.kind,
            target: self.target.as_deref(),
            scripts: &self.scripts,
            entries: entries.collect(),
        };
        let text = serde_json::to_vec(&content).map_err(Error::Manifest)?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, &text).as_ref());
        Ok(Some(sha256))
    }
}
