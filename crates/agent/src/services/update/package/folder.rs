//! A package from a folder: what is in it becomes the payload.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use protocol::Timestamp;
use ring::digest::{Context, SHA256};
use serde::Serialize;

use super::{
    Entry, Error, MAX_MANIFEST, Manifest, MetaData, Mode, Patches, Place, Result, Sink, inflate::digest,
};

/// What a package is to be, besides its files. The text of each field is held against the rules when the manifest is made.
#[derive(Debug, Clone, Serialize)]
pub struct Draft {
    /// What the software is called.
    pub name: String,
    /// Its version.
    pub version: String,
    /// For which hardware; none means for any.
    pub hardware_ids: Vec<String>,
    /// The oldest version that it may replace.
    pub min_version: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// `files`, `command`, `module`, `rauc` or `agent`.
    pub kind: String,
    /// Where the folder for its versions is, for `files`.
    pub target: Option<String>,
    /// What installs it, for `module`.
    pub module: Option<String>,
    /// What that is told besides the files.
    pub meta_data: Option<MetaData>,
    /// Where the same lies as a package without patches, for one that has some.
    pub full_url: Option<String>,
    /// Its size in bytes.
    pub full_size: Option<u64>,
    /// Its SHA-256, in small hexadecimal digits.
    pub full_sha256: Option<String>,
    /// Whether it may be older than what it replaces.
    pub allow_downgrade: bool,
    /// The scripts: pre_install, post_install, health, each the path of an entry.
    pub scripts: std::collections::BTreeMap<&'static str, String>,
}

/// The manifest of a draft, as it is read.
#[derive(Serialize)]
struct Whole<'a> {
    schema: u64,
    #[serde(flatten)]
    draft: &'a Draft,
    entries: Vec<Entry>,
}

impl Draft {
    /// The manifest for the files of a folder: reads all of them.
    ///
    /// # Errors
    /// A file cannot be read or cannot be in a package, or a field is not what it must be.
    pub fn manifest(&self, folder: &Path) -> Result<Manifest> {
        let mut paths = Vec::new();
        walk(folder, String::new(), &mut paths)?;
        let mut entries = Vec::new();
        for path in paths {
            entries.push(look(folder, path)?);
        }
        let whole = Whole { schema: 1, draft: self, entries };
        // By the same rules as on the device: what it would refuse is not made.
        let manifest = Manifest::parse(&serde_json::to_vec(&whole).map_err(Error::Manifest)?)?;
        let size = manifest.to_bytes()?.len() as u64;
        if size > MAX_MANIFEST {
            return Err(Error::TooLong { what: "the manifest", size, limit: MAX_MANIFEST });
        }
        Ok(manifest)
    }

    /// Hands on all entries of a manifest that was made from this folder.
    ///
    /// # Errors
    /// A file is not any more what it was, or the sink does not take it.
    pub fn pack(manifest: &Manifest, folder: &Path, patches: &Patches, sink: &mut impl Sink) -> Result<()> {
        for entry in manifest.entries() {
            if let Some(patch) = patches.of(entry.path.as_str()) {
                sink.begin_patch(entry, patch.len() as u64)?;
                sink.write(patch)?;
                sink.end()?;
                continue;
            }
            sink.begin(entry)?;
            let mut left = entry.size;
            let path = folder.join(entry.path.as_str());
            let (size, sha256) = read(&path, |bytes| match left.checked_sub(bytes.len() as u64) {
                Some(rest) => {
                    left = rest;
                    sink.write(bytes)
                }
                None => Err(changed(&path)),
            })?;
            if (size, sha256) != (entry.size, entry.sha256) {
                return Err(changed(&path));
            }
            sink.end()?;
        }
        Ok(())
    }
}

pub(super) fn changed(path: &Path) -> Error {
    Error::Unfit { path: path.to_owned(), why: "was changed while it was packed: try again when it rests" }
}

/// The paths of all files below, relative to the folder.
fn walk(folder: &Path, below: String, paths: &mut Vec<String>) -> Result<()> {
    let here = folder.join(&below);
    let file = |what| {
        let path = here.clone();
        move |source| Error::File { what, path: path.clone(), source }
    };
    let mut empty = true;
    for item in fs::read_dir(&here).map_err(file("read"))? {
        let item = item.map_err(file("read"))?;
        empty = false;
        let unfit = |why| Error::Unfit { path: item.path(), why };
        let name = item.file_name().into_string().map_err(|_| unfit("has a name that is no UTF-8"))?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = item.file_type().map_err(file("look into"))?;
        if kind.is_dir() {
            walk(folder, path, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        } else {
            return Err(unfit("is a link, a device or the like; only plain files can be in a package"));
        }
    }
    if empty {
        let why = "is an empty folder, which no package can have: put a file into it, or remove it";
        return Err(Error::Unfit { path: here, why });
    }
    Ok(())
}

fn look(folder: &Path, path: String) -> Result<Entry> {
    let file: PathBuf = folder.join(&path);
    let path = Place::new(path).map_err(|(path, why)| Error::EntryPath { path, why })?;
    let metadata = fs::symlink_metadata(&file).map_err(|source| Error::File {
        what: "look at",
        path: file.clone(),
        source,
    })?;
    let bits = metadata.permissions().mode() & 0o7777;
    let mode = Mode::new(bits).map_err(|why| {
        let (path, mode) = (path.as_str().to_owned(), format!("{bits:04o}"));
        Error::EntryMode { path, mode, why }
    })?;
    let (size, sha256) = read(&file, |_| Ok(()))?;
    Ok(Entry { path, size, sha256, mode, base: None })
}

/// Reads a file to its end: its size in bytes and its SHA-256.
pub(super) fn read(path: &Path, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<(u64, [u8; 32])> {
    let error = |what| move |source| Error::File { what, path: path.to_owned(), source };
    // What was a file a moment ago may be a link or a pipe now.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let mut file: File = File::options().read(true).custom_flags(flags).open(path).map_err(error("open"))?;
    let (mut hash, mut size, mut chunk) = (Context::new(&SHA256), 0, vec![0; 128 << 10]);
    loop {
        let count = match file.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.map_err(error("read"))?,
        };
        if count == 0 {
            return Ok((size, digest(hash)));
        }
        hash.update(&chunk[..count]);
        size += count as u64;
        each(&chunk[..count])?;
    }
}
