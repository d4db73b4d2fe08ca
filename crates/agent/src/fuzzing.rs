//! What must hold for any bytes at each boundary, in one place: `fuzz/` runs these bodies under cargo-fuzz, the tests
//! here over the committed seeds and mutations of them.
//!
//! A body takes whatever arrives and panics where a promise is broken. It is no part of the agent: it is only built
//! for tests and with the feature `fuzzing`.

mod audit;
mod config;
mod control;
mod frames;
mod orders;
mod outbox;
mod payloads;
mod policy;
mod topics;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

pub use crate::mqtt::fuzzing::packets;
pub use crate::services::location::fuzzing::{geolocation, nmea};
pub use crate::services::metrics::fuzzing::{names, procfs, settings};
pub use crate::services::ssh::fuzzing::{hosts, server};
pub use crate::services::update::package::fuzzing::{archive, manifest, patch};
pub use audit::audit;
pub use config::config;
pub use control::control;
pub use frames::frames;
pub use orders::orders;
pub use outbox::outbox;
pub use payloads::payloads;
pub use policy::policy;
pub use topics::topics;

/// A boundary: its name, which is also that of the folder with its seeds, and what must hold there.
pub type Target = (&'static str, fn(&[u8]));

/// Every boundary.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("payloads", payloads),
    ("topics", topics),
    ("packets", packets),
    ("control", control),
    ("outbox", outbox),
    ("settings", settings),
    ("procfs", procfs),
    ("names", names),
    ("policy", policy),
    ("audit", audit),
    ("frames", frames),
    ("orders", orders),
    ("nmea", nmea),
    ("geolocation", geolocation),
    ("manifest", manifest),
    ("archive", archive),
    ("patch", patch),
    ("server", server),
    ("hosts", hosts),
];

/// A folder of one's own, gone with this.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("iot-agent-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left lies in a folder for temporary files.
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests;
