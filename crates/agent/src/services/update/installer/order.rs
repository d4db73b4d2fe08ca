//! What the installer is told, and what it says.

use std::{collections::BTreeMap, path::PathBuf};

use protocol::update::Sha256;
use serde::{Deserialize, Serialize};

use crate::services::update::package::MetaData;

/// One step of an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Verify a file and unpack it beside what is in use.
    Unpack(Box<Unpack>),
    /// What was unpacked becomes `<target>/versions/<version>`, and `<target>/current` leads there.
    Switch {
        /// Where this software lies.
        target: PathBuf,
        /// Its new version.
        version: String,
        /// The folder that was unpacked; its name in `<target>/versions` is what counts.
        staged: PathBuf,
    },
    /// `current` leads to what it did before, and the version that failed is removed.
    Back {
        /// Where this software lies.
        target: PathBuf,
        /// The version that failed.
        version: String,
        /// What `current` was before, as a link has it; none where there was none.
        previous: Option<String>,
    },
    /// Old versions and what was left half unpacked are removed.
    Clean {
        /// Where this software lies.
        target: PathBuf,
        /// How many versions stay, the one in use included.
        keep: u32,
        /// What `current` was before: stays in any case.
        previous: Option<String>,
    },
}

/// Which file is to be unpacked, what it has to be, and where to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unpack {
    /// The file: a package or a plain file.
    pub(crate) file: PathBuf,
    /// Of the whole file, as the request says.
    pub(crate) sha256: Sha256,
    /// Its size in bytes, as the request says.
    pub(crate) size: u64,
    /// Its version, as the request says.
    pub(crate) version: String,
    /// The public keys that are trusted, a line each, as in minisign's `.pub` files.
    pub(crate) keys: String,
    /// A plain file's signature: the text of its `.minisig`.
    pub(crate) signature: Option<String>,
    /// Whether a plain file may come without one.
    pub(crate) allow_unsigned: bool,
    /// What hardware this is.
    pub(crate) hardware_id: Option<String>,
    /// The folder for what is not installed here but given to the owner's command. Made anew.
    pub(crate) stage: PathBuf,
    /// The folder for versions of this program.
    #[serde(default)]
    pub(crate) own: PathBuf,
    /// The folder of update modules.
    #[serde(default)]
    pub(crate) modules: PathBuf,
    /// How much memory a patch may take, in bytes.
    #[serde(default)]
    pub(crate) delta_memory: u64,
    /// The file is not the one of the request, but this one in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) full: Option<Full>,
    /// What is on this device, by name.
    pub(crate) installed: BTreeMap<String, Installed>,
}

/// A software that is, or was, on this device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// Its version; none where only the floor is left of it.
    pub(crate) version: Option<String>,
    /// Of the file that it came as, in hexadecimal digits.
    pub(crate) sha256: String,
    /// Of what was in it, where that is known: another file may have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Sha256>,
    /// The version that it must not go below.
    pub(crate) floor: String,
    /// Where it is installed, where that is done here.
    pub(crate) target: Option<PathBuf>,
}

/// How it went.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The file is what it should be, and lies ready.
    Unpacked(Box<Unpacked>),
    /// The file is sound, but has patches for other files than are installed: this one is needed in its place.
    NeedsFull(Full),
    /// It is done.
    Done,
    /// It could not be done; what was in use still is.
    Error {
        /// Why.
        reason: String,
        /// Another try comes to the same.
        #[serde(default)]
        lasting: bool,
    },
}

/// A package without patches that stands for one with such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Full {
    /// Where it lies.
    pub(crate) url: String,
    /// Its size in bytes, where that is known.
    pub(crate) size: Option<u64>,
    /// Of the whole file, where that is known.
    pub(crate) sha256: Option<Sha256>,
    /// What the software is called.
    pub(crate) name: String,
    /// For which hardware.
    pub(crate) hardware_ids: Vec<String>,
    /// Why it is needed.
    pub(crate) reason: String,
}

/// What an update is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A package that is installed here.
    Files,
    /// A package for the owner's command.
    Command,
    /// A plain file for the owner's command.
    Plain,
    /// A package for an update module.
    Module,
    /// A bundle for RAUC.
    Rauc,
    /// This program.
    Agent,
}

/// Programs of a package, by their paths below its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scripts {
    /// Before the switch.
    pub(crate) pre_install: Option<String>,
    /// After it.
    pub(crate) post_install: Option<String>,
    /// Says whether the new version works.
    pub(crate) health: Option<String>,
}

/// A file that was verified, and what it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// What the software is called.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// What is done with it.
    pub(crate) kind: Kind,
    /// Where it is installed, where that is done here.
    pub(crate) target: Option<PathBuf>,
    /// The folder of what was unpacked, or the plain file.
    pub(crate) path: PathBuf,
    /// Its programs.
    pub(crate) scripts: Scripts,
    /// The update module that installs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) module: Option<String>,
    /// What that is told besides the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta_data: Option<MetaData>,
    /// It is older than this device would go, and its signer allows that.
    pub(crate) downgrade: bool,
    /// What `current` leads to now, as the link has it.
    pub(crate) previous: Option<String>,
    /// This very file is installed already, or one with the same in it; nothing was unpacked.
    pub(crate) already: bool,
    /// Of what is in it, however it was packed; none where that is not installed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Sha256>,
}
