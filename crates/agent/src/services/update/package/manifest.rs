//! The manifest: what a package is, for which devices, and each of its entries. Read only after its signature.
//! Long because each field stands here three times: as it is read, as it is kept, and as it is asked for.

use std::{borrow::Cow, fmt};

use protocol::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize, Serializer};

use super::{Error, Kind, Place, Result, entries, kind::MetaData};

/// The format that this agent reads and writes.
const SCHEMA: u64 = 1;
/// The longest name, version or hardware id, in bytes.
const MAX_WORD: usize = 128;
/// The longest target, in bytes.
const MAX_TARGET: usize = 1024;
/// The most hardware ids.
const MAX_HARDWARE_IDS: usize = 256;

/// A manifest that holds what it must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    pub(super) schema: u64,
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) hardware_ids: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_version: Option<Version>,
    pub(super) created: Timestamp,
    pub(super) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta_data: Option<MetaData>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) allow_downgrade: bool,
    #[serde(flatten)]
    pub(super) full: Option<Full>,
    /// In the order of their paths.
    pub(super) entries: Vec<Entry>,
    #[serde(skip_serializing_if = "Scripts::is_empty")]
    pub(super) scripts: Scripts,
}

/// One file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Below `payload/`.
    pub path: Place,
    /// In bytes.
    pub size: u64,
    /// Of the content.
    #[serde(serialize_with = "hexadecimal")]
    pub sha256: [u8; 32],
    /// Who may do what with the file.
    pub mode: Mode,
    /// What the package has of it is a patch: against the file of this SHA-256 that is installed at its path.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_hexadecimal")]
    pub base: Option<[u8; 32]>,
}

/// Where the same software lies as a package without patches, for devices that have another base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Full {
    /// Where it is.
    #[serde(rename = "full_url")]
    pub url: String,
    /// Its size in bytes, if that was known.
    #[serde(rename = "full_size", skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of the whole file, if that was known.
    #[serde(
        rename = "full_sha256",
        skip_serializing_if = "Option::is_none",
        serialize_with = "some_hexadecimal"
    )]
    pub sha256: Option<[u8; 32]>,
}

/// The permissions of a file: at most 0777, and its owner may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

/// Programs among the entries that are run at their time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scripts {
    /// Before the switch to the new version; its failure leaves the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_install: Option<Place>,
    /// After the switch; its failure leads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_install: Option<Place>,
    /// Says whether the new version works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Place>,
}

/// As it stands in the file. Fields of a newer backend are passed over.
#[derive(Deserialize)]
struct Raw<'a> {
    name: String,
    version: String,
    hardware_ids: Vec<String>,
    min_version: Option<String>,
    created: Timestamp,
    kind: String,
    target: Option<String>,
    module: Option<String>,
    meta_data: Option<MetaData>,
    allow_downgrade: Option<bool>,
    full_url: Option<String>,
    full_size: Option<u64>,
    full_sha256: Option<String>,
    #[serde(borrow)]
    entries: Vec<RawEntry<'a>>,
    scripts: Option<RawScripts>,
}

#[derive(Deserialize)]
pub(super) struct RawEntry<'a> {
    pub(super) path: String,
    pub(super) size: u64,
    #[serde(borrow)]
    pub(super) sha256: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) mode: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) base: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
pub(super) struct RawScripts {
    pub(super) pre_install: Option<String>,
    pub(super) post_install: Option<String>,
    pub(super) health: Option<String>,
}

impl Manifest {
    /// Reads a manifest. Whose it is has to be known already.
    ///
    /// # Errors
    /// A reason of its own for each thing that must hold and does not.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        // A later format may have another shape: the first thing to look at.
        let Schema { schema } = serde_json::from_slice(bytes).map_err(Error::Manifest)?;
        if schema != SCHEMA {
            return Err(Error::Schema(schema));
        }
        Self::check(serde_json::from_slice(bytes).map_err(Error::Manifest)?)
    }

    fn check(raw: Raw<'_>) -> Result<Self> {
        let kind = Kind::parse(raw.kind)?;
        let entries = entries::check(raw.entries)?;
        let manifest = Self {
            schema: SCHEMA,
            name: name("name", raw.name)?,
            version: version("version", raw.version)?,
            hardware_ids: hardware_ids(raw.hardware_ids)?,
            min_version: raw.min_version.map(|text| version("min_version", text)).transpose()?,
            created: raw.created,
            kind,
            target: raw.target.map(target).transpose()?,
            module: raw.module.map(|module| name("module", module)).transpose()?,
            meta_data: raw.meta_data,
            allow_downgrade: raw.allow_downgrade.unwrap_or(false),
            full: full(raw.full_url, raw.full_size, raw.full_sha256)?,
            scripts: entries::scripts(raw.scripts.unwrap_or_default(), &entries)?,
            entries,
        };
        kind.check(&manifest)?;
        Ok(manifest)
    }

    /// What the software is called: letters, digits and `._+-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// For which hardware; none means for any.
    pub fn hardware_ids(&self) -> &[String] {
        &self.hardware_ids
    }

    /// The oldest version that it may replace.
    pub fn min_version(&self) -> Option<&Version> {
        self.min_version.as_ref()
    }

    /// When it was made, as its maker says.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// What is done with the entries.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The absolute path of the folder for its versions; there is one for [`Kind::Files`].
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// The executable that installs it; there is one for [`Kind::Module`].
    pub fn module(&self) -> Option<&str> {
        self.module.as_deref()
    }

    /// What that is told, besides the files.
    pub fn meta_data(&self) -> Option<&MetaData> {
        self.meta_data.as_ref()
    }

    /// Whether it may be older than what it replaces.
    pub fn allow_downgrade(&self) -> bool {
        self.allow_downgrade
    }

    /// Where the same lies without patches.
    pub fn full(&self) -> Option<&Full> {
        self.full.as_ref()
    }

    /// Whether some entries are patches against what is installed.
    pub fn is_delta(&self) -> bool {
        self.entries.iter().any(|entry| entry.base.is_some())
    }

    /// The files, in the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The programs among them that are run.
    pub fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// All entries together, in bytes.
    pub fn size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// Whether it is for this device.
    ///
    /// # Errors
    /// It names hardware, and this is other or does not know what it is.
    pub fn fits(&self, hardware_id: Option<&str>) -> Result<()> {
        fits(&self.hardware_ids, hardware_id)
    }

    /// As the bytes that are signed.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it cannot be JSON, which does not happen.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(Error::Manifest)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

impl Mode {
    /// From `0755` or `755`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let digits = text.len() == 3 || text.len() == 4;
        if !digits || !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
            return Err("is not three or four octal digits");
        }
        let bits = text.bytes().fold(0, |bits, digit| bits << 3 | u32::from(digit - b'0'));
        Self::new(bits)
    }

    /// From a file's permissions.
    ///
    /// # Errors
    /// What is wrong with them, as the end of a sentence.
    pub fn new(bits: u32) -> std::result::Result<Self, &'static str> {
        if bits & !0o777 != 0 {
            return Err("is setuid, setgid or sticky");
        }
        if bits & 0o400 == 0 {
            return Err("does not let its owner read it");
        }
        Ok(Self(bits))
    }

    /// As the system has it.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether the owner may execute the file.
    pub fn is_executable(self) -> bool {
        self.0 & 0o100 != 0
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Scripts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each one with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Place)> {
        let all = [
            ("pre_install", &self.pre_install),
            ("post_install", &self.post_install),
            ("health", &self.health),
        ];
        all.into_iter().filter_map(|(name, place)| place.as_ref().map(|place| (name, place)))
    }
}

/// Whether what is for these is for this device; what names none is for any.
pub(super) fn fits(wanted: &[String], device: Option<&str>) -> Result<()> {
    match device {
        _ if wanted.is_empty() => Ok(()),
        Some(device) if wanted.iter().any(|id| id == device) => Ok(()),
        Some(device) => Err(Error::Hardware { wanted: wanted.join(", "), device: device.to_owned() }),
        None => Err(Error::HardwareUnset(wanted.join(", "))),
    }
}

pub(super) fn name(field: &'static str, value: String) -> Result<String> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    let begins = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && value.len() <= MAX_WORD && value.bytes().all(sound) {
        return Ok(value);
    }
    let why = "is not 1 to 128 letters, digits and ._+-, with a letter or digit first";
    Err(Error::Field { field, value, why })
}

pub(super) fn version(field: &'static str, value: String) -> Result<Version> {
    match Version::parse(&value) {
        Ok(version) if value.len() <= MAX_WORD => Ok(version),
        _ => Err(Error::Field { field, value, why: "is no semantic version such as 1.2.3 or 1.2.3-rc.1" }),
    }
}

pub(super) fn hardware_ids(ids: Vec<String>) -> Result<Vec<String>> {
    let field = "hardware_ids";
    if ids.len() > MAX_HARDWARE_IDS {
        return Err(Error::Field { field, value: ids.len().to_string(), why: "are more than 256" });
    }
    let sound = |id: &&String| {
        (1..=MAX_WORD).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
    };
    match ids.iter().find(|id| !sound(id)) {
        Some(id) => Err(Error::Field {
            field,
            value: id.clone(),
            why: "is not 1 to 128 visible ASCII characters without a comma",
        }),
        None => Ok(ids),
    }
}

fn target(value: String) -> Result<String> {
    let why = match value.strip_prefix('/') {
        None => Some("is not absolute"),
        Some(_) if value.len() > MAX_TARGET => Some("is longer than 1024 bytes"),
        Some(rest) => super::place::fault(rest),
    };
    why.map_or(Ok(value.clone()), |why| Err(Error::Field { field: "target", value, why }))
}

fn full(url: Option<String>, size: Option<u64>, sha256: Option<String>) -> Result<Option<Full>> {
    let Some(url) = url else { return Ok(None) };
    if url.parse::<crate::http::Url>().is_err() {
        let why = "is no URL that a device would fetch from: https, or http from itself";
        return Err(Error::Field { field: "full_url", value: url, why });
    }
    let digest = |value: String| {
        let why = "is not 64 small hexadecimal digits";
        entries::digest(&value).ok_or(Error::Field { field: "full_sha256", value, why })
    };
    Ok(Some(Full { url, size, sha256: sha256.map(digest).transpose()? }))
}

fn some_hexadecimal<S: Serializer>(
    bytes: &Option<[u8; 32]>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => hexadecimal(bytes, serializer),
        None => serializer.serialize_none(),
    }
}

fn hexadecimal<S: Serializer>(bytes: &[u8; 32], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&entries::hex(bytes))
}
