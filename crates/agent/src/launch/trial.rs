//! The file about the latest version that came by an update: written by the agent that installs it, the one that it is, and the
//! launcher between them; by one at a time.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::program;
use crate::{
    services::update::installer::link,
    store::{VERSION, read_regular, replace},
};

/// Its name.
const FILE: &str = "trial.json";
/// The same once more: a version on trial may damage what it finds, and end whoever watches it before that has mended it.
const COPY: &str = "trial.copy";

/// What is known of the latest version that came by an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// As in all state files.
    version: u64,
    /// Which it is: the name of its folder.
    pub(crate) release: String,
    /// The update that brought it.
    pub(crate) update_id: String,
    /// What that asked for, as the service wrote it down.
    /// None once that is over.
    #[serde(default)]
    pub(crate) asked: Option<Box<RawValue>>,
    /// What the link said before; none where there was none.
    pub(crate) previous: Option<String>,
    /// The program that ran before.
    program: PathBuf,
    /// The version that was installed, and not by an update.
    #[serde(default)]
    pub(super) base: Option<String>,
    /// Seconds that it has to prove itself.
    pub(super) timeout: u64,
    /// How many more while there is no network.
    pub(super) grace: u64,
    /// The host and port that a connection to the broker begins at.
    pub(super) reach: Option<(String, u16)>,
    /// The services that were degraded before.
    pub(crate) degraded: Vec<String>,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Why it has failed.
    pub(crate) why: Option<String>,
    /// It says that there is no network.
    #[serde(default)]
    pub(crate) cut: bool,
    /// How often it was started without proving itself.
    #[serde(default)]
    pub(super) starts: u32,
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It has to prove itself.
    Trial,
    /// It has done so.
    Confirmed,
    /// It has not, and the one before comes back.
    Failed,
}

/// What is to be tried, and how; see [`Trial`].
#[derive(Debug)]
pub(crate) struct Of {
    pub(crate) release: String,
    pub(crate) update_id: String,
    pub(crate) asked: Box<RawValue>,
    pub(crate) previous: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) grace: Duration,
    pub(crate) reach: Option<(String, u16)>,
    pub(crate) degraded: Vec<String>,
}

impl Trial {
    /// Of a version that is about to be switched to.
    pub(crate) fn new(of: Of) -> Self {
        Self {
            version: VERSION,
            release: of.release,
            update_id: of.update_id,
            asked: Some(of.asked),
            previous: of.previous,
            program: std::env::current_exe().unwrap_or_else(|_| program(Path::new("/usr/bin"), "")),
            base: Some(super::base()),
            timeout: of.timeout.as_secs(),
            grace: of.grace.as_secs(),
            reach: of.reach,
            degraded: of.degraded,
            phase: Phase::Trial,
            why: None,
            cut: false,
            starts: 0,
        }
    }

    /// What is on the disk, if it can be read.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let read = |name| serde_json::from_slice(&read_regular(&folder.join(name)).ok()??).ok();
        read(FILE).or_else(|| read(COPY))
    }

    /// Puts it on the disk, in one step.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        replace(&folder.join(COPY), &bytes)?;
        replace(&folder.join(FILE), &bytes)
    }

    /// It has failed. The first reason is the one that counts.
    pub(crate) fn fail(&mut self, why: String) {
        self.phase = Phase::Failed;
        self.why.get_or_insert(why);
    }

    /// What the link says while it leads to this version.
    pub(crate) fn link(&self) -> String {
        link(&self.release)
    }

    /// The program that ran before.
    pub(super) fn before(&self, folder: &Path) -> PathBuf {
        match &self.previous {
            Some(link) => program(folder, link),
            None => self.program.clone(),
        }
    }

    /// Which version that is; none for the one that was installed.
    pub(super) fn release_before(&self) -> Option<&str> {
        self.previous.as_deref()?.rsplit('/').next()
    }
}
