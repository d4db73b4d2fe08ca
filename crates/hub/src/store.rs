//! The hub's database: who enrolled, which nonces were seen, and how each device was last seen.
//!
//! One file, `hub.redb`, locked for one process. Enrolments and nonces are on disk when `commit` returns; after a
//! kill the file is what the last commit left. A file that cannot be read is an error, never a new empty one: new
//! ids for a known fleet would be worse than no hub.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::registration::Nonce;
use protocol::{ClientId, DeviceId, Timestamp};
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fleet::Seen;

/// How long a nonce is remembered. A signed timestamp is accepted for five minutes to either side, so no request
/// outlives its nonce.
pub const NONCE_AGE: Duration = Duration::from_secs(15 * 60);
/// How many nonces are remembered at most; then requests are refused rather than old nonces forgotten.
pub const MAX_NONCES: u64 = 100_000;

const FILE: &str = "hub.redb";
const SCHEMA: &str = "1";
const CACHE: usize = 8 << 20;

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const ENROLMENTS: TableDefinition<&str, &[u8]> = TableDefinition::new("enrolments");
const OWNERS: TableDefinition<&str, &str> = TableDefinition::new("owners");
const NONCES: TableDefinition<&str, i64> = TableDefinition::new("nonces");
const NONCES_BY_AGE: TableDefinition<(i64, &str), ()> = TableDefinition::new("nonces_by_age");
const SEEN: TableDefinition<&str, &[u8]> = TableDefinition::new("seen");

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder can be neither found nor made.
    #[error("cannot make the data folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no database in the folder.
    #[error("there is no hub's database in {}", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The database's file cannot be opened.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use: a hub is running with this data folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged, or no database.
    #[error("cannot read the database {}; restore it from a backup, or move it away to start anew", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DatabaseError,
    },
    /// A later hub wrote it.
    #[error("the database was written by a later version of the hub (schema {0})")]
    Newer(String),
    /// Reading or writing failed.
    #[error("the database failed")]
    Database(#[source] Box<redb::Error>),
    /// What was read is not what is written there.
    #[error("the record of {key:?} is damaged")]
    Record {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> StoreError {
        StoreError::Database(Box::new(error.into()))
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// What is known of an enrolled device from its requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its id.
    pub device_id: DeviceId,
    /// Under which it asked.
    pub client_id: ClientId,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Its organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// What its owner wrote down about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// The agent's version when it last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// When it got its id.
    pub enrolled_at: Timestamp,
}

/// What became of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceOutcome {
    /// Never seen; remembered from now on.
    Fresh,
    /// Seen before.
    Seen,
    /// There is no room to remember it.
    Full,
}

/// The open database.
pub struct Store {
    db: Database,
    max_nonces: u64,
}

impl Store {
    /// Opens the database in `folder`; makes both where they are missing.
    pub fn open(folder: &Path) -> Result<Store> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
        Store::open_file(&folder.join(FILE), true)
    }

    /// Opens the database in `folder`, which must be there.
    pub fn open_existing(folder: &Path) -> Result<Store> {
        let path = folder.join(FILE);
        // An empty file is what a hub leaves that was killed at its very first moment.
        if std::fs::metadata(&path).map_or(true, |file| file.len() == 0) {
            return Err(StoreError::Missing { path: folder.to_owned() });
        }
        Store::open_file(&path, false)
    }

    fn open_file(path: &Path, create: bool) -> Result<Store> {
        let file = OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(path);
        let file = file.map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let opened = FileBackend::new(file)
            .and_then(|file| Database::builder().set_cache_size(CACHE).create_with_backend(file));
        let db = opened.map_err(|source| match source {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
            source => StoreError::Open { path: path.to_owned(), source },
        })?;
        let store = Store { db, max_nonces: MAX_NONCES };
        store.check_schema()?;
        Ok(store)
    }

    /// A smaller bound, so that a test can reach it.
    #[cfg(test)]
    pub(crate) fn with_max_nonces(self, max_nonces: u64) -> Store {
        Store { max_nonces, ..self }
    }

    fn check_schema(&self) -> Result<()> {
        let tx = self.begin()?;
        let found = tx.tx.open_table(META)?.get("schema")?.map(|v| v.value().to_owned());
        match found.as_deref() {
            Some(SCHEMA) => return Ok(()),
            Some(other) => return Err(StoreError::Newer(other.to_owned())),
            None => {}
        }
        tx.tx.open_table(META)?.insert("schema", SCHEMA)?;
        // So that readers find every table.
        tx.tx.open_table(ENROLMENTS)?;
        tx.tx.open_table(OWNERS)?;
        tx.tx.open_table(NONCES)?;
        tx.tx.open_table(NONCES_BY_AGE)?;
        tx.tx.open_table(SEEN)?;
        tx.commit()
    }

    /// Begins to read and write; nothing is changed before [`Tx::commit`]. Waits for whoever else writes.
    pub fn begin(&self) -> Result<Tx<'_>> {
        Ok(Tx { tx: self.db.begin_write()?, store: self })
    }

    /// Every enrolled device, by client id.
    pub fn enrolments(&self) -> Result<Vec<Enrolment>> {
        self.all(ENROLMENTS)
    }

    /// How each device was last seen, by device id.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        self.all(SEEN)
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<T>> {
        let rows = self.db.begin_read()?.open_table(table)?;
        let rows = rows.iter()?.map(|row| {
            let (key, value) = row?;
            decode(key.value(), value.value())
        });
        rows.collect()
    }

    /// Writes down how devices were last seen.
    pub fn save_seen<'a>(&self, seen: impl IntoIterator<Item = &'a Seen>) -> Result<()> {
        let tx = self.begin()?;
        {
            let mut table = tx.tx.open_table(SEEN)?;
            for device in seen {
                table.insert(device.device_id.as_str(), encode(device).as_slice())?;
            }
        }
        tx.commit()
    }

    /// The name under which this hub connects to a broker: made once.
    pub fn client_id(&self, make: impl FnOnce() -> String) -> Result<String> {
        let tx = self.begin()?;
        let found = tx.tx.open_table(META)?.get("client_id")?.map(|v| v.value().to_owned());
        if let Some(found) = found {
            return Ok(found);
        }
        let made = make();
        tx.tx.open_table(META)?.insert("client_id", made.as_str())?;
        tx.commit()?;
        Ok(made)
    }
}

/// Reads and writes that happen together or not at all. Dropped without [`Tx::commit`], they have not happened.
pub struct Tx<'a> {
    tx: redb::WriteTransaction,
    store: &'a Store,
}

impl Tx<'_> {
    /// What is known of a client.
    pub fn enrolment(&self, client_id: &ClientId) -> Result<Option<Enrolment>> {
        let table = self.tx.open_table(ENROLMENTS)?;
        let found = table.get(client_id.as_str())?;
        found.map(|value| decode(client_id.as_str(), value.value())).transpose()
    }

    /// Whether a client has this device id.
    pub fn is_taken(&self, device_id: &DeviceId) -> Result<bool> {
        Ok(self.tx.open_table(OWNERS)?.get(device_id.as_str())?.is_some())
    }

    /// Writes a client's enrolment, new or changed. A client's device id never changes.
    pub fn enrol(&self, enrolment: &Enrolment) -> Result<()> {
        let (client, device) = (enrolment.client_id.as_str(), enrolment.device_id.as_str());
        self.tx.open_table(ENROLMENTS)?.insert(client, encode(enrolment).as_slice())?;
        self.tx.open_table(OWNERS)?.insert(device, client)?;
        Ok(())
    }

    /// Remembers a nonce, and forgets those older than [`NONCE_AGE`].
    pub fn remember(&self, nonce: &Nonce, now: Timestamp) -> Result<NonceOutcome> {
        let mut nonces = self.tx.open_table(NONCES)?;
        let mut by_age = self.tx.open_table(NONCES_BY_AGE)?;
        // Hexadecimal has two spellings, a nonce has one.
        let nonce = nonce.as_str().to_ascii_lowercase();
        let oldest = now.as_millis().saturating_sub(i64::try_from(NONCE_AGE.as_millis()).unwrap_or(i64::MAX));
        for row in by_age.extract_from_if(..(oldest, ""), |_, _| true)? {
            nonces.remove(row?.0.value().1)?;
        }
        if nonces.get(nonce.as_str())?.is_some() {
            return Ok(NonceOutcome::Seen);
        }
        if nonces.len()? >= self.store.max_nonces {
            return Ok(NonceOutcome::Full);
        }
        nonces.insert(nonce.as_str(), now.as_millis())?;
        by_age.insert((now.as_millis(), nonce.as_str()), ())?;
        Ok(NonceOutcome::Fresh)
    }

    /// On disk when it returns.
    pub fn commit(self) -> Result<()> {
        Ok(self.tx.commit()?)
    }
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("text keys and finite numbers make JSON")
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|source| StoreError::Record { key: key.to_owned(), source })
}

#[cfg(test)]
pub(crate) mod tests;
