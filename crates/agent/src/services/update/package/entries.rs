//! What must hold of a manifest's entries among each other, and of the scripts that name them.

use std::fmt::Write as _;

use super::{
    Entry, Error, MAX_PAYLOAD, Mode, Place, Result, Scripts,
    manifest::{RawEntry, RawScripts},
};

/// The entries in the order of their paths, when each is sound and none is in another's way.
pub(super) fn check(raw: Vec<RawEntry<'_>>) -> Result<Vec<Entry>> {
    let mut entries = raw.into_iter().map(one).collect::<Result<Vec<Entry>>>()?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(Error::EntryTwice(pair[0].path.as_str().to_owned()));
    }
    for entry in &entries {
        if let Some(file) = entry.path.folders().find(|folder| find(&entries, folder).is_some()) {
            let path = entry.path.as_str().to_owned();
            return Err(Error::EntryBelowFile { path, file: file.to_owned() });
        }
    }
    let sum = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.size));
    if sum.is_none_or(|sum| sum > MAX_PAYLOAD) {
        return Err(Error::PayloadSize);
    }
    Ok(entries)
}

/// Where the entry of that path is, among those in order.
pub(super) fn find(entries: &[Entry], path: &str) -> Option<usize> {
    entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()
}

fn one(raw: RawEntry<'_>) -> Result<Entry> {
    let path = Place::new(raw.path).map_err(|(path, why)| Error::EntryPath { path, why })?;
    let Some(sha256) = digest(&raw.sha256) else {
        return Err(Error::EntryDigest(path.as_str().to_owned()));
    };
    let mode = Mode::parse(&raw.mode).map_err(|why| {
        let (path, mode) = (path.as_str().to_owned(), raw.mode.into_owned());
        Error::EntryMode { path, mode, why }
    })?;
    let base = match raw.base.as_deref().map(digest) {
        None => None,
        Some(None) => return Err(Error::EntryBase(path.as_str().to_owned())),
        Some(base) => base,
    };
    Ok(Entry { path, size: raw.size, sha256, mode, base })
}

/// 64 small hexadecimal digits.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// As 64 small hexadecimal digits.
pub(in crate::services::update) fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // To a string: it cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// The scripts, when each is an entry that can be executed.
pub(super) fn scripts(raw: RawScripts, entries: &[Entry]) -> Result<Scripts> {
    let one = |name, path: Option<String>| {
        let Some(path) = path else { return Ok(None) };
        match find(entries, &path).map(|at| &entries[at]) {
            None => Err(Error::Script { name, path, why: "is no entry" }),
            Some(entry) if !entry.mode.is_executable() => {
                Err(Error::Script { name, path, why: "cannot be executed: its mode lacks 0100" })
            }
            Some(entry) => Ok(Some(entry.path.clone())),
        }
    };
    Ok(Scripts {
        pre_install: one("pre_install", raw.pre_install)?,
        post_install: one("post_install", raw.post_install)?,
        health: one("health", raw.health)?,
    })
}
