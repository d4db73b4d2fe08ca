//! The file about the latest version that came by an update: written by the agent that installs it, the one that it is, and the
//! launcher between them; by one at a time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::program;
use crate::store::replace;

/// Its name.
const FILE: &str = "trial.json";
/// A longer one is damaged, in bytes.
const MAX: u64 = 256 << 10;

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
    pub(crate) asked: Box<RawValue>,
    /// What the link said before; none where there was none.
    pub(crate) previous: Option<String>,
    /// The program that ran before.
    pub(crate) program: PathBuf,
    /// The version that was installed, and not by an update.
    #[serde(default)]
    pub(super) base: Option<String>,
    /// Seconds that it has to prove itself.
    pub(crate) timeout: u64,
    /// How many more while there is no network.
    pub(crate) grace: u64,
    /// The host and port that a connection to the broker begins at.
    pub(crate) reach: Option<(String, u16)>,
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
    pub(crate) starts: u32,
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

/// What is to be tried.
#[derive(Debug)]
pub(crate) struct Of {
    pub(crate) release: String,
    pub(crate) update_id: String,
    pub(crate) asked: Box<RawValue>,
    pub(crate) previous: Option<String>,
}

impl Trial {
    /// Of a version that is about to be switched to.
    pub(crate) fn new(Of { release, update_id, asked, previous }: Of) -> Self {
        let program = std::env::current_exe().unwrap_or_else(|_| program(Path::new("/usr/bin"), ""));
        Self {
            version: crate::store::VERSION,
            release,
            update_id,
            asked,
            previous,
            program,
            base: Some(super::base()),
            timeout: 0,
            grace: 0,
            reach: None,
            degraded: Vec::new(),
            phase: Phase::Trial,
            why: None,
            cut: false,
            starts: 0,
        }
    }

    /// What is on the disk, if it can be read.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let path = folder.join(FILE);
        let sound = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX);
        serde_json::from_slice(&fs::read(path).ok().filter(|_| sound)?).ok()
    }

    /// Puts it on the disk, in one step.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        replace(&folder.join(FILE), &serde_json::to_vec(self)?)
    }

    /// It has failed. The first reason is the one that counts.
    pub(crate) fn fail(&mut self, why: String) {
        self.phase = Phase::Failed;
        self.why.get_or_insert(why);
    }

    /// What the link says while it leads to this version.
    pub(crate) fn link(&self) -> String {
        format!("versions/{}", self.release)
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
