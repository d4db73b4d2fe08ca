//! RAUC, which writes root file systems into slots: asked over D-Bus, where this program has that.

#[cfg(not(all(feature = "dbus", target_os = "linux")))]
mod absent;
#[cfg(all(feature = "dbus", target_os = "linux"))]
mod service;

use std::collections::BTreeMap;

#[cfg(not(all(feature = "dbus", target_os = "linux")))]
pub(crate) use absent::slots;
#[cfg(not(all(feature = "dbus", target_os = "linux")))]
pub(super) use absent::{Rauc, Results};
#[cfg(all(feature = "dbus", target_os = "linux"))]
pub(crate) use service::slots;
#[cfg(all(feature = "dbus", target_os = "linux"))]
pub(super) use service::{Rauc, Results};

/// What it says of itself.
#[derive(Debug)]
#[cfg_attr(not(all(feature = "dbus", target_os = "linux")), allow(dead_code, reason = "nobody says it"))]
pub(super) struct Now {
    /// It is installing a bundle, ours or another.
    pub(super) busy: bool,
    /// How much of that it has done, in percent.
    pub(super) percent: Option<u8>,
    /// Why the latest one failed.
    pub(super) trouble: String,
    /// The slot that the machine runs from.
    pub(super) booted: String,
}

/// A slot, as it is shown.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// By which it is known: "rootfs.0".
    pub(crate) slot: String,
    /// What is said of it, where it is said: class, state ("booted", "inactive"), boot-status ("good", "bad"), bundle.version,
    /// installed.timestamp, with these names of RAUC's.
    pub(crate) facts: BTreeMap<&'static str, String>,
}

impl Slot {
    /// Whether this is said of it.
    pub(super) fn says(&self, fact: &str, value: &str) -> bool {
        self.facts.get(fact).is_some_and(|said| said == value)
    }
}
