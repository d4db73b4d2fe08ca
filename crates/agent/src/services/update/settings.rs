//! What is under `services.update`.

mod argv;
mod window;

use std::{fs, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{download, package::Keys};
use crate::{
    config::{ByteSize, Delivery, FilePath, Interval, KeyOrFile, Qos, Span, Topic},
    http::Url,
    log::chain,
    service::Invalid,
};
pub(super) use argv::Argv;
pub(super) use window::Window;

/// What is missing where nobody is trusted.
pub(super) const NO_KEYS: &str =
    "no trusted keys: name the public keys of minisign whose packages are installed in `trusted_keys`";
/// More tries are no patience but a fault.
const MAX_RETRIES: u32 = 1000;
/// More versions are an archive.
const MAX_VERSIONS: u32 = 1000;

/// Settings under `services.update`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic of the requests; by default that of the layout. Where it lacks {device_id}, that is appended.
    pub(super) topic: Option<Topic>,
    /// Quality of service of the status.
    pub(super) qos: Qos,
    /// What becomes of a status while the broker is out of reach.
    pub(super) delivery: Delivery,
    /// Where updates are offered, besides the topic: a signed JSON document.
    pub(super) update_url: Option<String>,
    /// How often it is looked at.
    pub(super) update_interval: Interval,
    /// How many more times a download, or an `update_command`, is tried that has failed.
    pub(super) max_retry_attempts: u32,
    /// What installs a plain file, or a package of the kind `command`: a line for the shell, or a program with its arguments.
    pub(super) update_command: Option<Argv>,
    /// Where the update modules lie: programs that install packages of the kind `module`.
    pub(super) modules_path: FilePath,
    /// What restarts the machine, where an update needs that.
    pub(super) reboot_command: Argv,
    /// Whether the slot that runs is marked good for RAUC at each start, unless a bundle has to prove itself there first: for boot
    /// loaders that count the tries of each slot down.
    pub(super) mark_booted_slot: bool,
    /// Whose packages are installed: public keys of minisign, or files with some.
    pub(super) trusted_keys: Vec<KeyOrFile>,
    /// Whether a plain file without a signature is given to `update_command`.
    pub(super) allow_unsigned: bool,
    /// Which hardware this is; without it, what names hardware is refused.
    pub(super) hardware_id: Option<String>,
    /// How files are fetched.
    pub(super) download: Download,
    /// How much memory a patch may take: the installed file, and the window of zstd. Above that the whole package is fetched.
    pub(super) delta_memory: ByteSize,
    /// When updates are begun, in UTC; by default at any time.
    pub(super) window: Option<Window>,
    /// While this file is there, no update is begun.
    pub(super) hold_file: Option<FilePath>,
    /// How a new version proves itself.
    pub(super) health: Health,
    /// How many versions of one software are kept, with the current one.
    pub(super) keep_versions: u32,
}

/// How files are fetched.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Download {
    /// Bytes a second, at most.
    pub(super) bandwidth_limit: Option<ByteSize>,
    /// After so long without a byte it is broken off, and tried again.
    pub(super) stall_timeout: Interval,
    /// The largest file.
    pub(super) max_size: ByteSize,
}

/// How a new version proves itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    /// Exits with 0 when all is well; run again and again until then.
    pub(super) command: Option<Argv>,
    /// How long the new version has.
    pub(super) timeout: Interval,
    /// Whether the broker has to be reached from it.
    pub(super) need_connection: bool,
    /// How much longer it has while there is no network.
    pub(super) network_grace: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            update_url: None,
            update_interval: Interval::seconds(3600),
            max_retry_attempts: 5,
            update_command: None,
            modules_path: PathBuf::from("/usr/share/iot-agent/modules.d").into(),
            reboot_command: Argv::of(&["shutdown", "-r", "now"]),
            mark_booted_slot: false,
            trusted_keys: Vec::new(),
            allow_unsigned: false,
            hardware_id: None,
            download: Download::default(),
            delta_memory: ByteSize::bytes(64 << 20),
            window: None,
            hold_file: None,
            health: Health::default(),
            keep_versions: 2,
        }
    }
}

impl Default for Download {
    fn default() -> Self {
        Self {
            bandwidth_limit: None,
            stall_timeout: Interval::seconds(60),
            max_size: ByteSize::bytes(4 << 30),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            command: None,
            timeout: Interval::seconds(300),
            need_connection: true,
            network_grace: Span::seconds(24 * 3600),
        }
    }
}

impl Config {
    /// What can be said without looking at any file.
    ///
    /// # Errors
    /// The key that cannot work.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(Err(why)) = self.update_url.as_ref().map(|url| url.parse::<Url>()) {
            return Err(Invalid::key("update_url", why));
        }
        if self.max_retry_attempts > MAX_RETRIES {
            return Err(Invalid::key("max_retry_attempts", format!("must be at most {MAX_RETRIES}")));
        }
        if self.keep_versions == 0 || self.keep_versions > MAX_VERSIONS {
            return Err(Invalid::key("keep_versions", format!("must be from 1 to {MAX_VERSIONS}")));
        }
        let sound = |id: &String| id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        if self.hardware_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 128 || !sound(id)) {
            let why = "must be 1 to 128 visible ASCII characters without a comma";
            return Err(Invalid::key("hardware_id", why));
        }
        Ok(())
    }

    /// The keys that are trusted, as a text of such keys; empty where there are none.
    ///
    /// # Errors
    /// A file that cannot be read, or no key.
    pub(super) fn keys(&self) -> Result<String, String> {
        let (mut all, mut read) = (String::new(), Keys::default());
        for item in &self.trusted_keys {
            let (text, place) = match item {
                KeyOrFile::Key(key) => (key.clone(), String::new()),
                KeyOrFile::File(path) => {
                    let place = path.display();
                    let text = fs::read_to_string(path).map_err(|error| {
                        format!("{place} is no public key, and no file with one: {error}")
                    })?;
                    (text, format!("{place}: "))
                }
            };
            read.add(&text).map_err(|error| format!("{place}{}", chain(&error)))?;
            all.push_str(&text);
            all.push('\n');
        }
        Ok(all)
    }

    /// Why nothing can be installed as it is.
    pub(super) fn trouble(&self) -> Option<String> {
        match self.keys() {
            Err(why) => Some(format!("trusted_keys: {why}")),
            Ok(keys) if keys.is_empty() && !self.allow_unsigned => Some(NO_KEYS.to_owned()),
            Ok(_) => None,
        }
    }

    pub(super) fn rules(&self) -> download::Rules {
        download::Rules {
            bandwidth_limit: self.download.bandwidth_limit.map(ByteSize::get),
            stall_timeout: self.download.stall_timeout.get(),
            max_size: self.download.max_size.get(),
        }
    }

    /// Why an update is not begun now.
    pub(super) fn held(&self, now: std::time::SystemTime) -> Option<String> {
        if let Some(file) = self.hold_file.as_ref().filter(|file| file.exists()) {
            return Some(format!("{} is there", file.display()));
        }
        let window = self.window.as_ref().filter(|window| !window.is_open(now))?;
        Some(format!("the window is {window} (UTC)"))
    }
}
