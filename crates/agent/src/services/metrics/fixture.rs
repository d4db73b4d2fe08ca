//! Trees of `/proc` and `/sys` as tests need them.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use super::{files::Root, sample::Values};

/// A folder in place of `/`.
pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn root(&self) -> Root {
        Root::at(self.0.path())
    }

    /// Writes a file, as the kernel does: in place, so that a reader that has it open sees it.
    pub(super) fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(Path::new(target), path).unwrap();
    }

    pub(super) fn folder(&self, path: &str) {
        fs::create_dir_all(self.0.path().join(path)).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
}

/// What a look by `collect` puts.
pub(super) fn look<T>(collect: impl FnOnce(&mut Values) -> T) -> BTreeMap<String, f64> {
    let mut values = Values::default();
    values.begin();
    collect(&mut values);
    values.iter().map(|(name, value)| (name.to_owned(), value.value)).collect()
}

/// The text with some of its bytes changed, moved, doubled or cut: what a kernel would not write.
pub(super) fn spoil(text: &[u8], rng: &mut testkit::Rng) -> Vec<u8> {
    let mut text = text.to_owned();
    for _ in 0..=rng.below(6) {
        if text.is_empty() {
            break;
        }
        let at = rng.below(text.len() as u64) as usize;
        match rng.below(6) {
            0 => text[at] = rng.next_u64() as u8,
            1 => text.truncate(at),
            2 => drop(text.remove(at)),
            3 => text.splice(at..at, *b"99999999999999999999999").for_each(drop),
            4 => text[at] = *rng.pick(b" \n\t:-./\\\0()"),
            _ => text.extend_from_within(at..),
        }
        text.truncate(1 << 16);
    }
    text
}
