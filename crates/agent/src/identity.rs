//! Who this device is: its client id, made here, and its device id, given by the backend.
//!
//! The client id is 128 random bits, kept in the state folder together with a keyed hash of the machine id. When
//! the machine id is another one, the disk was copied to another machine: a new client id is made and
//! `device.json` is set aside, wherever it lies, so that no two devices ever share an id. A client id that is
//! configured as a whole is used as it stands; two machines with such a copied configuration can no longer be
//! told apart by it, only their `device.json` can.
//!
//! Never the machine id itself is stored or shown.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::{ClientId, DeviceId, IdError};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::log::chain;
use crate::store::{self, Store};

mod machine;

pub(crate) use machine::boot_id;
pub use machine::machine_id;

/// The agent's own part of the identity, in the state folder.
const FILE: &str = "identity.json";

/// Keys the hash that binds a client id to its machine.
const BINDING_KEY: &[u8] = b"iot-agent/machine-binding/v1";

/// Why it cannot be said who this device is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured client id, or what became of it as a prefix, cannot be one.
    #[error("`mqtt.client_id` cannot be used")]
    ClientId {
        /// Why not.
        source: IdError,
    },
    /// The state is there but cannot be read.
    #[error("cannot read the identity")]
    Read {
        /// Which file, and why not.
        source: store::Error,
    },
    /// The system gave no random bits.
    #[error("cannot make an id: no random bits from the system")]
    Random {
        /// What the system said.
        source: getrandom::Error,
    },
}

/// Why [`Identity::enrol`] did not do all it should.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The device has another id already, and keeps it.
    #[error("this device is {current}, not {offered}")]
    Taken {
        /// The id it has.
        current: DeviceId,
        /// The id that was refused.
        offered: DeviceId,
    },
    /// The id is in use, but it could not be written down: after a restart the device has to enrol again.
    #[error("the device id is used but cannot be kept")]
    NotKept {
        /// Which file, and why not.
        source: store::Error,
    },
}

/// What its owner wrote about the device into `device.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// A name for people.
    pub device_name: Option<String>,
    /// The organisation it belongs to.
    pub org_id: Option<String>,
    /// Whatever else.
    pub metadata: Option<Map<String, Value>>,
}

/// An enrolled device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// The id the backend has given it.
    pub device_id: DeviceId,
    /// What its owner wrote about it.
    pub profile: Profile,
}

/// Who this device is. One per process, shared by reference.
#[derive(Debug)]
pub struct Identity {
    client_id: ClientId,
    profile: Profile,
    boot_id: String,
    run_id: String,
    device: watch::Sender<Option<Device>>,
    store: Store,
    device_file: PathBuf,
    records: Mutex<Records>,
}

/// The two files, as they should be on disk.
#[derive(Debug)]
struct Records {
    own: Own,
    own_kept: bool,
    /// `device.json` with the fields that mean nothing to this agent.
    device: Map<String, Value>,
    device_kept: bool,
}

impl Identity {
    /// Finds out who this device is, making a client id where there is none or where this is a copy of another
    /// machine's disk. `device_file` is `device.json`; `configured` is the key `mqtt.client_id`; `machine` comes
    /// from [`machine_id`]. What cannot be written is logged, and tried again by [`Identity::keep`].
    pub fn load(
        store: &Store,
        device_file: &Path,
        configured: &str,
        machine: Option<String>,
    ) -> Result<Self, Error> {
        let machine = machine.as_deref().and_then(machine::usable);
        let found = store.read(FILE).map_err(|source| Error::Read { source })?;
        let mut file = DeviceFile::read(store, device_file)?;
        let (mut own, mut own_kept) = settle(found, machine, &file)?;
        if file.id.is_some() && file.id == own.disowned {
            // Before the new client id is written: a crash in between must not leave the old device id in use.
            match store.set_aside_at(device_file, "it is another machine's") {
                Ok(()) => (own.disowned, own_kept) = (None, false),
                Err(e) => tracing::warn!(error = chain(&e), "ignored another machine's device id"),
            }
            file = DeviceFile::default();
        }
        let client_id = client_id(configured, &own.client_id).map_err(|source| Error::ClientId { source })?;
        let device = file.id.map(|device_id| Device { device_id, profile: file.profile.clone() });
        let identity = Self {
            client_id,
            profile: file.profile,
            boot_id: machine::boot_id()?,
            run_id: random()?,
            device: watch::Sender::new(device),
            store: store.clone(),
            device_file: device_file.into(),
            records: Mutex::new(Records { own, own_kept, device: file.fields, device_kept: true }),
        };
        if let Err(e) = identity.keep() {
            tracing::warn!(
                error = chain(&e),
                "the client id cannot be kept; it will be another after a restart"
            );
        }
        Ok(identity)
    }

    /// Nobody in particular, for checking a configuration: a client id like any other, no device, nothing kept.
    pub fn unknown(configured: &str) -> Result<Self, Error> {
        let own = Own::new(None, None)?;
        let client_id = client_id(configured, &own.client_id).map_err(|source| Error::ClientId { source })?;
        Ok(Self {
            client_id,
            profile: Profile::default(),
            boot_id: machine::boot_id()?,
            run_id: random()?,
            device: watch::Sender::new(None),
            store: Store::nowhere(),
            device_file: PathBuf::new(),
            records: Mutex::new(Records { own, own_kept: true, device: Map::new(), device_kept: true }),
        })
    }

    /// The id under which this device connects and asks for its device id.
    pub fn client_id(&self) -> &ClientId {
        &self.client_id
    }

    /// What its owner wrote about the device; needed before it is enrolled.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The device, now and from now on: `None` until it is enrolled.
    pub fn device(&self) -> watch::Receiver<Option<Device>> {
        self.device.subscribe()
    }

    /// The device's id; waits for the enrolment.
    pub async fn device_id(&self) -> DeviceId {
        let mut device = self.device.subscribe();
        let enrolled = device.wait_for(Option::is_some).await.expect("the sender is a field of self");
        enrolled.as_ref().map(|device| device.device_id.clone()).expect("waited for exactly this")
    }

    /// The kernel's id of this boot; a random one where the kernel has none.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The id of this process.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Takes the id that the backend has given: written down first, then told to all who wait for it. The same id
    /// again changes nothing; another is refused.
    pub fn enrol(&self, id: DeviceId) -> Result<(), EnrolError> {
        match &*self.device.borrow() {
            Some(Device { device_id: current, .. }) if *current != id => {
                return Err(EnrolError::Taken { current: current.clone(), offered: id });
            }
            _ => {}
        }
        self.replace(id)
    }

    /// Takes the id that the backend has given even where the device had another: for an operator who asked anew.
    pub fn replace(&self, id: DeviceId) -> Result<(), EnrolError> {
        let mut records = self.records();
        let known = self.device.borrow().as_ref().is_some_and(|device| device.device_id == id);
        if !known {
            records.device.remove("deviceID");
            records.device.insert("device_id".into(), id.as_str().into());
            records.device_kept = false;
        }
        let kept = records.keep(&self.store, &self.device_file);
        if !known {
            self.device.send_replace(Some(Device { device_id: id, profile: self.profile.clone() }));
        }
        kept.map_err(|source| EnrolError::NotKept { source })
    }

    /// Writes down what could not be written before, say on a full disk. Does nothing where nothing is left.
    pub fn keep(&self) -> store::Result<()> {
        self.records().keep(&self.store, &self.device_file)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // Each change is whole before anything that could panic.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records {
    fn keep(&mut self, store: &Store, device_file: &Path) -> store::Result<()> {
        if !self.device_kept {
            store.write_object(device_file, &self.device)?;
            self.device_kept = true;
            // The file that could not be set aside has been replaced.
            self.own_kept &= self.own.disowned.take().is_none();
        }
        if !self.own_kept {
            store.write(FILE, &self.own)?;
            self.own_kept = true;
        }
        Ok(())
    }
}

/// [`FILE`].
#[derive(Debug, Serialize, Deserialize)]
struct Own {
    /// As it was made, without a configured prefix.
    client_id: ClientId,
    /// Keyed hash of the machine id; absent while there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    /// The id in a `device.json` of another machine that could not be set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disowned: Option<DeviceId>,
}

impl Own {
    fn new(machine: Option<&str>, disowned: Option<DeviceId>) -> Result<Self, Error> {
        let client_id = ClientId::try_from(random()?).expect("hexadecimal digits make an id");
        let machine = machine.map(|machine| bind(&client_id, machine));
        Ok(Self { client_id, machine, disowned })
    }
}

/// What is to be in [`FILE`], and whether it is there already.
fn settle(found: Option<Own>, machine: Option<&str>, file: &DeviceFile) -> Result<(Own, bool), Error> {
    let Some(mut own) = found else {
        let own = Own::new(machine, None)?;
        tracing::info!(client_id = %own.client_id, bound = machine.is_some(), "made a client id");
        return Ok((own, false));
    };
    let Some(machine) = machine else {
        // Unreadable for now, perhaps: not a reason to become another device.
        tracing::warn!("no machine id: a copy of this disk in another machine would not be noticed");
        return Ok((own, true));
    };
    let binding = bind(&own.client_id, machine);
    match own.machine.replace(binding.clone()) {
        Some(bound) if bound == binding => Ok((own, true)),
        Some(_) => {
            let new = Own::new(Some(machine), file.id.clone())?;
            tracing::warn!(old = %own.client_id, new = %new.client_id, "this is a copy of another machine's disk: made a new client id");
            Ok((new, false))
        }
        None => {
            tracing::info!(client_id = %own.client_id, "bound the client id to the machine id, which there was none of before");
            Ok((own, false))
        }
    }
}

fn bind(client_id: &ClientId, machine: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, BINDING_KEY);
    let tag = hmac::sign(&key, format!("{client_id}\n{machine}").as_bytes());
    protocol::hex::encode(tag.as_ref())
}

fn client_id(configured: &str, made: &ClientId) -> Result<ClientId, IdError> {
    match configured {
        "" => Ok(made.clone()),
        prefix if prefix.ends_with('-') => format!("{prefix}{made}").parse(),
        whole => whole.parse(),
    }
}

/// `device.json`.
#[derive(Debug, Default)]
struct DeviceFile {
    id: Option<DeviceId>,
    profile: Profile,
    fields: Map<String, Value>,
}

impl DeviceFile {
    /// What the file says; nothing where there is none, or where it has been set aside.
    fn read(store: &Store, path: &Path) -> Result<Self, Error> {
        let Some(fields) = store.read_object(path).map_err(|source| Error::Read { source })? else {
            return Ok(Self::default());
        };
        match id_in(&fields) {
            Ok(id) => Ok(Self { id, profile: Profile::of(&fields), fields }),
            Err(why) => Ok(store.put_aside(path, &why).unwrap_or_default()),
        }
    }
}

/// The id in `device.json`, under either spelling. Empty and null count as absent, as the Go agent wrote them.
fn id_in(fields: &Map<String, Value>) -> Result<Option<DeviceId>, String> {
    let mut found = None;
    for key in ["device_id", "deviceID"] {
        let id = match fields.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) if text.is_empty() => continue,
            Some(Value::String(text)) => text.parse::<DeviceId>().map_err(|e| format!("its {key}: {e}"))?,
            Some(_) => return Err(format!("its {key} is not text")),
        };
        if found.as_ref().is_some_and(|other| *other != id) {
            return Err("its device_id and its deviceID differ".into());
        }
        found = Some(id);
    }
    Ok(found)
}

impl Profile {
    /// A field of the wrong kind is left out: no reason to give up the id beside it.
    fn of(fields: &Map<String, Value>) -> Self {
        fn field<T: serde::de::DeserializeOwned>(fields: &Map<String, Value>, key: &str) -> Option<T> {
            let value = fields.get(key).filter(|value| !value.is_null())?;
            let read = serde_json::from_value(value.clone()).ok();
            if read.is_none() {
                tracing::warn!(field = key, "ignored a field of device.json: it is of the wrong type");
            }
            read
        }
        Self {
            device_name: field(fields, "device_name"),
            org_id: field(fields, "org_id"),
            metadata: field(fields, "metadata"),
        }
    }
}

/// 128 random bits.
pub(crate) fn random_bits() -> Result<u128, Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|source| Error::Random { source })?;
    Ok(u128::from_be_bytes(bits))
}

/// The same in hexadecimal.
fn random() -> Result<String, Error> {
    Ok(format!("{:032x}", random_bits()?))
}

#[cfg(test)]
mod tests;
