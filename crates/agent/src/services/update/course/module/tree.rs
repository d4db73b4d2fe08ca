//! The folder that a module works in: what it is told of the update, as files.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    services::update::{absent, package::MetaData},
    store::sync_folder,
};

/// The format that Mender's artifacts have, and with them the modules.
const VERSION: &str = "3";

/// What a module is told.
#[derive(Debug)]
pub(super) struct Told {
    /// The folder.
    pub(super) tree: PathBuf,
    /// Which module it is.
    pub(super) module: String,
    /// What it is to install: a name and a version.
    pub(super) artifact: String,
    /// The same of what it replaces; empty at first.
    pub(super) current: String,
    /// What hardware this is; empty where that is not set.
    pub(super) device_type: String,
    /// What the package says besides.
    pub(super) meta_data: Option<MetaData>,
}

impl Told {
    /// Makes the folder anew, and puts it on the disk.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn write(&self) -> io::Result<()> {
        remove(&self.tree)?;
        for folder in [self.tree.clone(), self.tree.join("header"), self.tree.join("tmp")] {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        let Self { module, artifact, device_type, .. } = self;
        let types: Vec<&str> = [device_type.as_str()].into_iter().filter(|name| !name.is_empty()).collect();
        let info = json!({ "payloads": [{ "type": module }], "artifact_provides": { "artifact_name": artifact },
            "artifact_depends": { "device_type": types } });
        let meta_data = serde_json::Value::Object(self.meta_data.clone().unwrap_or_default());
        for (name, text) in [
            ("version", VERSION.to_owned()),
            ("current_artifact_name", self.current.clone()),
            ("current_artifact_group", String::new()),
            ("current_device_type", device_type.clone()),
            ("header/artifact_group", String::new()),
            ("header/artifact_name", artifact.clone()),
            ("header/payload_type", module.clone()),
            ("header/header-info", info.to_string()),
            ("header/type-info", json!({ "type": module }).to_string()),
            ("header/meta-data", meta_data.to_string()),
        ] {
            let path = self.tree.join(name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
        }
        sync_folder(&self.tree.join("header"))?;
        sync_folder(&self.tree)?;
        sync_folder(self.tree.parent().unwrap_or(Path::new("/")))
    }
}

/// Moves the folder of verified files, and that is on the disk after it.
///
/// # Errors
/// What the system said.
pub(super) fn give(payload: &Path, place: &Path) -> io::Result<()> {
    fs::rename(payload, place)?;
    for folder in [payload, place] {
        sync_folder(folder.parent().unwrap_or(Path::new("/")))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// What the system said.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    absent(fs::remove_dir_all(folder))
}
