//! RAUC in a program without D-Bus: it is never there.

use std::path::Path;

use serde::Serialize;

const WHY: &str = "this build of iot-agent cannot speak to RAUC: it has no D-Bus";

pub(super) enum Rauc {}

#[allow(dead_code, reason = "nobody ever makes one")]
pub(super) struct Now {
    pub(super) busy: bool,
    pub(super) percent: Option<u8>,
    pub(super) trouble: String,
    pub(super) booted: String,
}

pub(super) enum Results {}

/// A slot, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Slot {
    pub(crate) slot: String,
    pub(crate) facts: std::collections::BTreeMap<&'static str, String>,
}

impl Rauc {
    pub(super) async fn open() -> Result<Self, String> {
        Err(WHY.to_owned())
    }

    pub(super) async fn now(&self) -> Result<Now, String> {
        match *self {}
    }

    pub(super) async fn results(&self) -> Result<Results, String> {
        match *self {}
    }

    pub(super) async fn install(&self, _: &Path) -> Result<(), String> {
        match *self {}
    }

    pub(super) async fn mark(&self, _: &str, _: &str) -> Result<(), String> {
        match *self {}
    }
}

impl Results {
    pub(super) async fn next(&mut self) -> Option<i32> {
        match *self {}
    }
}

/// The slots of this machine: none are known.
///
/// # Errors
/// Always.
pub(crate) async fn slots() -> Result<Vec<Slot>, String> {
    Err(WHY.to_owned())
}
