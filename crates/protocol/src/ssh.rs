//! Tunnels: ports of a server that lead to a device, and what it is told of them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    DeviceId, IdError, Timestamp,
    fields::{Fields, kind},
    id::check,
};

/// The id of a tunnel: chosen by the backend, once for each; where it has not, by the device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RequestId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Open a tunnel.
    Open {
        /// Its id, where it was given one.
        request_id: Option<RequestId>,
        /// After which it is not to be opened any more.
        expires_at: Option<Timestamp>,
        /// From where to where.
        wanted: Wanted,
    },
    /// Close one.
    Close {
        /// Which.
        request_id: RequestId,
    },
}

/// A tunnel that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The port on the device's side.
    pub lport: u16,
    /// The host on the device's side, a name or an address without brackets; by default the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lhost: Option<String>,
    /// The port on the server; 0 for any.
    pub rport: u16,
    /// The server, a name or an address without brackets; by default the one of the device's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_host: Option<String>,
    /// The port of its sshd; by default that of the device's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_port: Option<u16>,
    /// In the IOT-Cloud layout, who else is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// How long it may be open, in seconds; at most as long as the device allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<f64>,
}

/// Why a payload is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Whom to answer, where that can be told.
    pub request_id: Option<String>,
    /// The id can be one, so that the answer can be kept.
    pub valid_id: bool,
    /// What is wrong.
    pub reason: String,
}

/// The longest name of a host.
const MAX_HOST: usize = 253;

impl Request {
    /// Reads a payload. Unknown fields are ignored, and `null` is as good as absent; but for `device_id`: what has that
    /// is what a device says, and no request.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |reason: String| Malformed { request_id: None, valid_id: false, reason };
        let value =
            serde_json::from_slice(payload).map_err(|error| unreadable(format!("not JSON: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(unreadable("not a JSON object".to_owned()));
        };
        let id = match fields.get("request_id") {
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Null) | None => None,
            Some(other) => {
                return Err(unreadable(format!("request_id: expected a string, found {}", kind(other))));
            }
        };
        let request_id = id.clone().map(RequestId::try_from).transpose().map_err(|error| Malformed {
            request_id: id.clone(),
            valid_id: false,
            reason: format!("request_id: {error}"),
        })?;
        let valid_id = request_id.is_some();
        let malformed = |reason| Malformed { request_id: id, valid_id, reason };
        Fields(&fields).tunnel(request_id).map_err(malformed)
    }
}

impl Fields<'_> {
    fn tunnel(&self, request_id: Option<RequestId>) -> Result<Request, String> {
        if self.0.contains_key("device_id") {
            return Err("device_id: has no place in a request; the topic says which device".to_owned());
        }
        if self.flag("close")? {
            let request_id = request_id.ok_or("request_id: missing; it says what to close")?;
            return Ok(Request::Close { request_id });
        }
        let wanted = Wanted {
            lport: self.port("lport", 1)?.ok_or("lport: missing")?,
            lhost: self.host("lhost")?,
            rport: self.port("rport", 0)?.ok_or("rport: missing; 0 lets the server choose")?,
            backend_host: self.host("backend_host")?,
            backend_port: self.port("backend_port", 1)?,
            server_id: self.server_id()?,
            ttl_s: self.seconds("ttl_s")?,
        };
        Ok(Request::Open { request_id, expires_at: self.time("expires_at")?, wanted })
    }

    fn port(&self, key: &str, least: u16) -> Result<Option<u16>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                let port = number.as_u64().and_then(|port| u16::try_from(port).ok());
                port.filter(|port| *port >= least).map(Some).ok_or_else(|| {
                    format!("{key}: must be a whole number from {least} to 65535, found {number}")
                })
            }
            Some(other) => Err(format!("{key}: expected a number, found {}", kind(other))),
        }
    }

    /// A name, or an address; one of IPv6 with brackets or without.
    fn host(&self, key: &str) -> Result<Option<String>, String> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(&text);
        if inner.parse::<std::net::Ipv6Addr>().is_ok() {
            return Ok(Some(inner.to_owned()));
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let is_name = !text.is_empty() && text.len() <= MAX_HOST && !text.starts_with(['-', '.']);
        if is_name && text.bytes().all(plain) {
            return Ok(Some(text));
        }
        Err(format!("{key}: {:?} is no host", text.chars().take(80).collect::<String>()))
    }

    fn server_id(&self) -> Result<Option<String>, String> {
        let Some(id) = self.text("server_id")? else { return Ok(None) };
        check(&id).map_err(|error| format!("server_id: {error}"))?;
        Ok(Some(id))
    }
}

/// How a tunnel is. All but the first are final: one of them, once, for each id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The server listens.
    Open,
    /// It was to be opened, and it is over: `reason` says why.
    Closed,
    /// It is not opened: `reason` says why.
    Refused,
    /// It could not be opened: `reason` says why.
    Failed,
}

impl State {
    /// As it stands in payloads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The payload of `{prefix}/{device_id}/ssh/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub device_id: DeviceId,
    /// Which tunnel: as it was asked, even where it cannot be an id.
    pub request_id: String,
    /// How it is.
    #[serde(flatten)]
    pub report: Report,
}

/// What is told of a tunnel, once or again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How it is.
    pub state: State,
    /// The port on the device's side, where the request could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lport: Option<u16>,
    /// The port on the server; of one that never was open as it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rport: Option<u16>,
    /// Why. Of a closed one `ttl`, `idle`, `requested`, `shutdown`, `interrupted`, or more words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes from the server to the device.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes from the device to the server.
    #[serde(default)]
    pub bytes_out: u64,
    /// From when it was asked for to its end, in milliseconds; where it was open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Since when.
    pub timestamp: Timestamp,
}

impl Report {
    /// That, with nothing of a request or of traffic.
    pub fn of(state: State, timestamp: Timestamp) -> Self {
        let (lport, rport, reason, duration_ms) = (None, None, None, None);
        Self { state, lport, rport, reason, bytes_in: 0, bytes_out: 0, duration_ms, timestamp }
    }

    /// The same of what was asked.
    #[must_use]
    pub fn on(self, wanted: &Wanted) -> Self {
        Self { lport: Some(wanted.lport), rport: Some(wanted.rport), ..self }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

/// What a server is told in the IOT-Cloud layout, on `iot-ssh/{server_id}` and `iot-ssh/{server_id}/disconnect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whose tunnel.
    pub device_id: DeviceId,
    /// The port on the device's side.
    pub lport: u16,
    /// The port on the server.
    pub rport: u16,
}

#[cfg(test)]
mod tests;
