//! A file that is there whole or not at all, and how far it is.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    services::update::package::{Entry, Result, Sink},
    store::sync_folder,
};

/// A file beside the one that it becomes in the end. Dropped before that, it goes.
pub(super) struct Output {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Output {
    pub(super) fn new(path: &Path) -> anyhow::Result<Self> {
        if let Ok(found) = fs::metadata(path) {
            // It would be replaced, and the machine have no /dev/null any more.
            anyhow::ensure!(found.is_file(), "{} is no plain file: name another", path.display());
        }
        let name = path.file_name().with_context(|| format!("{} cannot be a file", path.display()))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&temporary)
            .with_context(|| format!("make {}", temporary.display()))?;
        let this = Self { path: path.to_owned(), temporary, file };
        // Who could read the file that is replaced still can.
        if let Ok(before) = fs::metadata(path) {
            this.file
                .set_permissions(before.permissions())
                .with_context(|| format!("make {}", path.display()))?;
        }
        Ok(this)
    }

    pub(super) fn writer(&mut self) -> anyhow::Result<File> {
        self.file.try_clone().context("write the package")
    }

    /// On the disk, and under its name.
    pub(super) fn keep(self) -> anyhow::Result<()> {
        let what = || format!("write {}", self.path.display());
        self.file.sync_all().with_context(what)?;
        fs::rename(&self.temporary, &self.path).with_context(what)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new("."))).with_context(what)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After `keep` it is not there any more, and otherwise only in the way.
        fs::remove_file(&self.temporary).ok();
    }
}

/// How much of the work is done, to a terminal.
pub(super) struct Progress {
    what: &'static str,
    all: u64,
    done: u64,
    shown: Option<u64>,
}

/// Less than this is over before anybody has read a line, in bytes.
const SOON: u64 = 64 << 20;

impl Progress {
    pub(super) fn new(what: &'static str, all: u64) -> Self {
        let shown = (all >= SOON && io::stderr().is_terminal()).then_some(u64::MAX);
        Self { what, all, done: 0, shown }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let percent = self.done.saturating_mul(100) / self.all.max(1);
        if self.shown.is_some_and(|shown| shown != percent) {
            self.shown = Some(percent);
            // Nobody misses a line of progress.
            write!(io::stderr(), "\r{} {percent} %", self.what).ok();
        }
    }

    pub(super) fn done(&self) {
        if self.shown.is_some() {
            writeln!(io::stderr()).ok();
        }
    }
}

/// Tells how much goes into a sink.
pub(super) struct Watched<S, F> {
    pub(super) sink: S,
    pub(super) told: F,
}

impl<S: Sink, F: FnMut(u64)> Sink for Watched<S, F> {
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.sink.begin(entry)
    }

    fn begin_patch(&mut self, entry: &Entry, size: u64) -> Result<()> {
        self.sink.begin_patch(entry, size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (self.told)(bytes.len() as u64);
        self.sink.write(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.sink.end()
    }
}
