//! A file whose absence is said once, not at each look.

use std::io;

use super::files::{Root, Source};

/// One file of `/proc` or `/sys`, and whether it has been told that it cannot be read.
#[derive(Debug)]
pub(super) struct Watched {
    source: Source,
    name: String,
    /// Not every kernel has it, so that its absence is no news.
    optional: bool,
    told: bool,
}

impl Watched {
    /// A file that every Linux has; its path without the leading slash.
    pub(super) fn new(root: &Root, path: &str) -> Self {
        Self { source: Source::new(root.path(path)), name: format!("/{path}"), optional: false, told: false }
    }

    /// A file that may be absent for good reason.
    pub(super) fn optional(root: &Root, path: &str) -> Self {
        Self { optional: true, ..Self::new(root, path) }
    }

    /// Its content now, if it can be read.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        match self.source.read() {
            Ok(content) => {
                self.told = false;
                Some(content)
            }
            Err(error) => {
                tell(&mut self.told, &self.name, &error, self.optional);
                None
            }
        }
    }
}

fn tell(told: &mut bool, file: &str, error: &io::Error, optional: bool) {
    if std::mem::replace(told, true) {
        return;
    }
    if optional && error.kind() == io::ErrorKind::NotFound {
        tracing::debug!(file, "this machine has no such file, so its metrics are absent");
    } else {
        tracing::warn!(file, %error, "cannot read the file, so its metrics are absent");
    }
}
