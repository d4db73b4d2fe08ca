//! What is done with a package's entries, and what each kind of that needs.

use serde::Serialize;

use super::{Error, Manifest, Result};
use crate::launch::PROGRAM;

/// What a module is told besides the files: a JSON object.
pub type MetaData = serde_json::Map<String, serde_json::Value>;

/// What is done with the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// They become the folder of a version below the target.
    Files,
    /// They are given to the device's own `update_command`.
    Command,
    /// They are given to an update module of the device.
    Module,
    /// The only one is a bundle for RAUC.
    Rauc,
    /// One of them is this program.
    Agent,
}

const ALL: [Kind; 5] = [Kind::Files, Kind::Command, Kind::Module, Kind::Rauc, Kind::Agent];

impl Kind {
    /// As the manifest has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Command => "command",
            Self::Module => "module",
            Self::Rauc => "rauc",
            Self::Agent => "agent",
        }
    }

    pub(super) fn parse(text: String) -> Result<Self> {
        ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(Error::Kind(text))
    }

    /// Whether a manifest has what its kind needs, and nothing that only others know.
    pub(super) fn check(self, manifest: &Manifest) -> Result<()> {
        let has_agent = || {
            manifest.entries.iter().any(|entry| entry.path.as_str() == PROGRAM && entry.mode.is_executable())
        };
        let lacks = |what| Err(Error::KindLacks { kind: self.as_str(), what });
        match self {
            Self::Files if manifest.target.is_none() => lacks("has no target"),
            Self::Module if manifest.module.is_none() => lacks("names no module"),
            Self::Rauc if manifest.entries.len() != 1 => lacks("does not have exactly one entry, the bundle"),
            Self::Agent if !has_agent() => lacks("has no entry iot-agent that can be executed"),
            Self::Agent if manifest.target.is_some() => {
                lacks("has a target, but agents lie in their own state folder")
            }
            // Modules know names only.
            Self::Module if manifest.entries.iter().any(|entry| entry.path.folders().next().is_some()) => {
                lacks("has an entry in a folder, which modules cannot be given: put it into an archive")
            }
            Self::Command | Self::Module | Self::Rauc if manifest.is_delta() => {
                lacks("has an entry with a base, which only files and agent can have")
            }
            Self::Module => Ok(()),
            _ if manifest.module.is_some() => lacks("names a module"),
            _ if manifest.meta_data.is_some() => lacks("has meta_data, which only modules read"),
            _ => Ok(()),
        }
    }
}
