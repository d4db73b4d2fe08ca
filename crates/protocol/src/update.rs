//! Updates: the software a device is to have, and how far it is with that.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    DeviceId, IdError, Timestamp,
    fields::{Fields, kind},
    hex,
    id::check,
};

/// The longest URL, in bytes.
const MAX_URL: usize = 4096;
/// The longest version, in bytes.
const MAX_VERSION: usize = 128;
/// The longest signature, in bytes.
const MAX_SIGNATURE: usize = 4096;

/// The id of an update: chosen by the backend, once for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpdateId(String);

impl UpdateId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UpdateId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<UpdateId> for String {
    fn from(id: UpdateId) -> Self {
        id.0
    }
}

impl fmt::Display for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The SHA-256 of a file; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    /// Capitals are taken too: it is compared as bytes.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = hex::decode(&text.to_ascii_lowercase());
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("expected 64 hexadecimal digits")
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        digest.to_string()
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub update_id: UpdateId,
    /// After which it is not to begin any more.
    pub expires_at: Option<Timestamp>,
    /// Which software.
    pub wanted: Wanted,
}

/// Software that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its version, by semver.org.
    pub version: String,
    /// Where it is.
    pub update_url: String,
    /// Of the file that is there.
    pub sha256: Sha256,
    /// Its size, in bytes.
    pub size: u64,
    /// Of a plain file: its signature, as `minisign` writes it. A package has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// What a device finds at its `update_url`: the same without an id, which is the SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// For which hardware; none means for any.
    pub hardware_ids: Vec<String>,
    /// Which software.
    pub wanted: Wanted,
}

/// Why a payload is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Whom to answer, where that can be told.
    pub update_id: Option<String>,
    /// The id can be one, so that the answer can be kept.
    pub valid_id: bool,
    /// What is wrong.
    pub reason: String,
}

impl Request {
    /// Reads a payload. Unknown fields are ignored, and `null` is as good as absent.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |reason: String| Malformed { update_id: None, valid_id: false, reason };
        let value = object(payload).map_err(unreadable)?;
        let id = match value.get("update_id") {
            Some(Value::String(id)) => id.clone(),
            Some(Value::Null) | None => return Err(unreadable("update_id: missing".to_owned())),
            Some(other) => {
                return Err(unreadable(format!("update_id: expected a string, found {}", kind(other))));
            }
        };
        let update_id = UpdateId::try_from(id.clone()).map_err(|error| Malformed {
            update_id: Some(id.clone()),
            valid_id: false,
            reason: format!("update_id: {error}"),
        })?;
        let malformed = |reason| Malformed { update_id: Some(id), valid_id: true, reason };
        let fields = Fields(&value);
        let read = || {
            let wanted = fields.software()?;
            Ok(Self { update_id, expires_at: fields.time("expires_at")?, wanted })
        };
        read().map_err(malformed)
    }
}

impl Offer {
    /// Reads what was found at the `update_url`. Whose it is has to be known already.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        let value = object(text)?;
        let fields = Fields(&value);
        Ok(Self { hardware_ids: fields.words("hardware_ids")?, wanted: fields.software()? })
    }
}

fn object(payload: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
    match serde_json::from_slice(payload).map_err(|error| format!("not JSON: {error}"))? {
        Value::Object(fields) => Ok(fields),
        _ => Err("not a JSON object".to_owned()),
    }
}

impl Fields<'_> {
    fn software(&self) -> Result<Wanted, String> {
        let needed = |key: &str| self.text(key)?.ok_or_else(|| format!("{key}: missing"));
        let version = needed("version")?;
        if !(1..=MAX_VERSION).contains(&version.len()) {
            return Err(format!("version: must have 1 to {MAX_VERSION} bytes, found {}", version.len()));
        }
        let update_url = needed("update_url")?;
        if update_url.len() > MAX_URL {
            return Err(format!("update_url: longer than {MAX_URL} bytes"));
        }
        let sha256 = Sha256::try_from(needed("sha256")?).map_err(|why| format!("sha256: {why}"))?;
        let size = match self.get("size") {
            None => return Err("size: missing".to_owned()),
            Some(Value::Number(number)) => number.as_u64().filter(|size| *size > 0).ok_or_else(|| {
                format!("size: must be a whole number of bytes, at least 1, found {number}")
            })?,
            Some(other) => return Err(format!("size: expected a number, found {}", kind(other))),
        };
        let signature = self.text("signature")?;
        if signature.as_ref().is_some_and(|text| text.len() > MAX_SIGNATURE) {
            return Err(format!("signature: longer than {MAX_SIGNATURE} bytes"));
        }
        Ok(Wanted { version, update_url, sha256, size, signature })
    }

    fn words(&self, key: &str) -> Result<Vec<String>, String> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else {
            return Err(format!("{key}: expected a list, found {}", kind(value)));
        };
        let word = |item: &Value| match item {
            Value::String(word) => Ok(word.clone()),
            other => Err(format!("{key}: expected strings, found {}", kind(other))),
        };
        items.iter().map(word).collect()
    }
}

/// How far an update is. The last three are final: one of them, once, for each id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is written down and will be done.
    Received,
    /// It waits for its time; `error` says for what.
    Waiting,
    /// The file is fetched; `progress` says how much of it is there.
    Downloading,
    /// Signature and content are checked.
    Verifying,
    /// It becomes the software of this device.
    Installing,
    /// It waits for the machine to be restarted.
    Rebooting,
    /// The new version runs, and has to prove itself.
    Confirming,
    /// It has.
    Success,
    /// It was not installed, or what was installed cannot be taken back: `error` says why.
    Failed,
    /// It was installed and taken back, the old version is in use again: `error` says why.
    RolledBack,
}

impl State {
    /// As it stands in payloads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Waiting => "waiting",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Installing => "installing",
            Self::Rebooting => "rebooting",
            Self::Confirming => "confirming",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Nothing comes after it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::RolledBack)
    }
}

/// The payload of `{prefix}/{device_id}/update/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub device_id: DeviceId,
    /// Which update: as it was asked, even where it cannot be an id.
    pub update_id: String,
    /// How far it is.
    #[serde(flatten)]
    pub report: Report,
}

/// What is told of an update, once or again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version that is wanted, where the request could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How far it is.
    pub state: State,
    /// Of the state, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// Which try of a download or of the `update_command`, from 1; 0 before the first.
    pub attempt: u32,
    /// Why it does not go on, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Since when.
    pub timestamp: Timestamp,
}

impl Report {
    /// That, of no version and before the first try.
    pub fn of(state: State, timestamp: Timestamp) -> Self {
        Self { version: None, state, progress: None, attempt: 0, error: None, timestamp }
    }

    /// The same of what was asked.
    #[must_use]
    pub fn on(self, wanted: &Wanted) -> Self {
        Self { version: Some(wanted.version.clone()), ..self }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(self, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..self }
    }
}

#[cfg(test)]
mod tests;
