//! What of updates is on disk: how far the current one is, what is installed, and what was.

use std::{cmp::Ordering, collections::BTreeMap, io};

use protocol::{
    Timestamp,
    update::{Report, Sha256, State},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    board::Turn,
    course::{Progress, Slots},
    installer::{Full, Installed, Scripts, Unpacked},
};
use crate::{outbox::apart, store::Store};

/// How far the current update is.
const RECORD: &str = "record.json";
/// What is installed.
const SOFTWARE: &str = "installed.json";
/// The floors once more.
const FLOORS: &str = "floors.json";
/// What came of the latest updates.
const HISTORY: &str = "history.json";
/// How many of them are remembered.
const REMEMBERED: usize = 100;

/// A state of the table. On disk before anything of it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// The file is waited for, and fetched.
    Downloading,
    /// It is verified and unpacked beside what is in use.
    Verifying,
    /// It becomes what is in use; or the owner's command does so.
    Installing,
    /// The machine has to be restarted.
    Rebooting,
    /// It has to prove itself.
    Confirming,
    /// What was in use before is to be again.
    Restoring,
    /// It is over.
    Ended,
}

/// How far an update is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Which.
    pub(super) id: String,
    /// Where it stands.
    pub(super) stage: Stage,
    /// How often that was entered in a row: by so many processes, or tries.
    pub(super) entered: u32,
    /// Which try of the download or the command.
    pub(super) attempt: u32,
    /// During which boot of the machine it was entered.
    pub(super) boot_id: String,
    /// It has begun: that it expires later is of no matter.
    #[serde(default)]
    pub(super) begun: bool,
    /// Seconds for which there was no network while it was to prove itself.
    #[serde(default)]
    pub(super) without_network: u64,
    /// What is in the file, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) package: Option<Unpacked>,
    /// The slots of RAUC, for a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rauc: Option<Slots>,
    /// How far the update module is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) module: Option<Progress>,
    /// What is fetched in place of a package with patches for other files than are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) full: Option<Full>,
    /// Why it goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Report>,
}

impl Record {
    /// Of an update that begins.
    pub(super) fn new(id: &str, stage: Stage, boot_id: &str) -> Self {
        let (id, boot_id) = (id.to_owned(), boot_id.to_owned());
        Self {
            id,
            stage,
            entered: 1,
            attempt: 1,
            boot_id,
            begun: false,
            without_network: 0,
            package: None,
            rauc: None,
            module: None,
            full: None,
            why: None,
            ended: None,
        }
    }
}

/// A version that is there, and what can be done with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Version {
    /// By semver.org.
    pub(super) version: String,
    /// Of the file that it came in.
    pub(super) sha256: String,
    /// Of what was in that, however it was packed, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<Sha256>,
    /// The programs in it.
    #[serde(default)]
    pub(super) scripts: Scripts,
}

/// One software of this device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Software {
    /// What is in use.
    #[serde(flatten)]
    pub(super) current: Version,
    /// Where its versions are; none where a command has installed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<std::path::PathBuf>,
    /// What was in use before, while it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) previous: Option<Version>,
    /// The slot of RAUC that ran before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slot_before: Option<String>,
}

/// The floors alone.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Floors {
    floors: BTreeMap<String, String>,
}

/// All software that came by updates, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Inventory {
    pub(super) software: BTreeMap<String, Software>,
    /// The versions that no software goes below but by what is signed for that: the highest that have proved themselves.
    #[serde(default)]
    pub(super) floors: BTreeMap<String, String>,
}

impl Inventory {
    /// For whoever judges a new one.
    pub(super) fn installed(&self) -> BTreeMap<String, Installed> {
        let installed = |name: &String, floor: &String| {
            let software = self.software.get(name);
            let current = software.map(|software| &software.current);
            Installed {
                version: current.map(|current| current.version.clone()),
                sha256: current.map(|current| current.sha256.clone()).unwrap_or_default(),
                content: current.and_then(|current| current.content),
                floor: floor.clone(),
                target: software.and_then(|software| software.target.clone()),
            }
        };
        self.floors.iter().map(|(name, floor)| (name.clone(), installed(name, floor))).collect()
    }

    /// A new version has proved itself.
    pub(super) fn confirm(&mut self, package: &Unpacked, sha256: Sha256) {
        let current = Version {
            version: package.version.clone(),
            sha256: sha256.to_string(),
            content: package.content,
            scripts: package.scripts.clone(),
        };
        let before = self.software.remove(&package.name);
        let previous = match before {
            // Again, after a restart.
            Some(before) if before.current.version == current.version => before.previous,
            // What lies elsewhere cannot be switched to.
            Some(before) if before.target == package.target => Some(before.current),
            _ => None,
        };
        // It moves back only with what is signed for that; anything else is not below it.
        self.floors.insert(package.name.clone(), current.version.clone());
        let target = package.target.clone();
        let software = Software { current, target, previous, slot_before: None };
        self.software.insert(package.name.clone(), software);
    }

    /// Which slot can be gone back to from what was confirmed.
    pub(super) fn note_slot(&mut self, name: &str, before: &str) {
        if let Some(software) = self.software.get_mut(name).filter(|_| !before.is_empty()) {
            software.slot_before = Some(before.to_owned());
        }
    }

    /// What was in use before is again.
    pub(super) fn restore(&mut self, name: &str, failed: &str) {
        let Some(software) = self.software.get_mut(name) else { return };
        if software.current.version != failed {
            return;
        }
        let Some(previous) = software.previous.take() else {
            self.software.remove(name);
            return;
        };
        // A downgrade that is taken back does not leave the floor below what is in use.
        let below = |floor: &String| order(floor, &previous.version) == Some(Ordering::Less);
        if self.floors.get(name).is_none_or(below) {
            self.floors.insert(name.to_owned(), previous.version.clone());
        }
        software.current = previous;
        software.slot_before = None;
    }
}

/// How two versions compare; none where one is none.
fn order(one: &str, other: &str) -> Option<Ordering> {
    let (one, other) = (semver::Version::parse(one).ok()?, semver::Version::parse(other).ok()?);
    Some(one.cmp_precedence(&other))
}

/// An update that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Past {
    /// Which.
    pub(crate) update_id: String,
    /// What the software is called, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// Which version was to be installed.
    pub(crate) version: String,
    /// How it ended.
    pub(crate) state: State,
    /// Why so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// When.
    pub(crate) timestamp: Timestamp,
}

/// The updates that are over, the latest last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct History {
    pub(crate) updates: Vec<Past>,
}

impl History {
    /// As it is in the state folder; nothing of it is changed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(folder: &std::path::Path) -> io::Result<Self> {
        match std::fs::read(folder.join(HISTORY)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn add(&mut self, past: Past) {
        // A second life of the same update has come to the same end.
        self.updates.retain(|known| known.update_id != past.update_id);
        self.updates.push(past);
        let over = self.updates.len().saturating_sub(REMEMBERED);
        self.updates.drain(..over);
    }
}

/// The service's files.
#[derive(Debug, Clone)]
pub(super) struct Files {
    store: Store,
    turn: Turn,
}

impl Files {
    pub(super) fn new(store: Store, turn: Turn) -> Self {
        Self { store, turn }
    }

    pub(super) async fn record(&self) -> Result<Option<Record>, String> {
        self.read(RECORD).await
    }

    pub(super) async fn keep(&self, record: &Record) -> Result<(), String> {
        self.write(RECORD, record.clone()).await
    }

    /// This process ends in good order: that is no life in which it did not come through its state. In one piece with what is
    /// being written meanwhile.
    pub(super) async fn leave(&self, id: String) -> Result<(), String> {
        let Self { store, turn } = self.clone();
        let leave = move || match store.read::<Record>(RECORD)? {
            Some(mut record) if record.id == id && record.entered > 0 => {
                record.entered -= 1;
                store.write(RECORD, &record)
            }
            _ => Ok(()),
        };
        let left = apart(move || turn.with(leave)).await.unwrap_or(Ok(()));
        left.map_err(|error| crate::log::chain(&error))
    }

    /// What is installed; of floors, what either of two files has of them: losing one must open no way back.
    pub(super) async fn inventory(&self) -> Result<Inventory, String> {
        if let Some(inventory) = self.read(SOFTWARE).await? {
            return Ok(inventory);
        }
        let Floors { floors } = self.read(FLOORS).await?.unwrap_or_default();
        Ok(Inventory { floors, ..Inventory::default() })
    }

    pub(super) async fn keep_inventory(&self, inventory: &Inventory) -> Result<(), String> {
        self.write(FLOORS, Floors { floors: inventory.floors.clone() }).await?;
        self.write(SOFTWARE, inventory.clone()).await
    }

    pub(super) async fn history(&self) -> Result<History, String> {
        Ok(self.read(HISTORY).await?.unwrap_or_default())
    }

    pub(super) async fn remember(&self, past: Past) -> Result<(), String> {
        let mut history = self.history().await?;
        history.add(past);
        self.write(HISTORY, history).await
    }

    /// What is damaged is as good as absent: the store has set it aside, and said so. What only cannot be read now is not.
    async fn read<T: DeserializeOwned + Send + 'static>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, String> {
        let store = self.store.clone();
        apart(move || store.read(name)).await.map_err(|error| crate::log::chain(&error))
    }

    async fn write<T: Serialize + Send + 'static>(&self, name: &'static str, value: T) -> Result<(), String> {
        let Self { store, turn } = self.clone();
        let written = apart(move || turn.with(|| store.write(name, &value))).await;
        let written = written.ok_or("another life of the service has taken over")?;
        written.map_err(|error| crate::log::chain(&error))
    }
}
