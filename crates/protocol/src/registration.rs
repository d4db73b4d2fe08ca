//! Enrolment: a device asks for its id and proves that it knows the secret; the backend proves it likewise.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::proof::{self, Psk};
use crate::{ClientId, DeviceId, IdError, Timestamp};

/// The only `method` of a [`Proof`].
pub const METHOD: &str = "psk-hmac-sha256";

/// What a device asks with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub client_id: ClientId,
    /// The id it had, or wishes to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// The organisation it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// Whatever its owner wrote down about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// The agent's version.
    pub agent_version: String,
    /// Added by [`Request::signed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// The proof that a request comes from one who knows the secret, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// [`METHOD`].
    pub method: String,
    /// Unique to this request; echoed by the reply.
    pub nonce: Nonce,
    /// When it was signed.
    pub timestamp: Timestamp,
    /// See [`proof::sign_request`].
    pub mac: String,
}

/// 32 hexadecimal digits, never used twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a nonce is 32 hexadecimal digits")]
pub struct NonceError;

impl Nonce {
    /// A nonce of 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Nonce {
        Nonce(crate::hex::encode(&bytes))
    }

    /// The digits, as they were received.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Nonce {
    type Error = NonceError;

    fn try_from(text: String) -> Result<Nonce, NonceError> {
        let ok = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if ok { Ok(Nonce(text)) } else { Err(NonceError) }
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> String {
        nonce.0
    }
}

/// What a device with `proof: plain` asks with: these two fields and no other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainRequest {
    /// Who asks.
    pub client_id: ClientId,
    /// The secret itself, readable by the broker and by whoever may subscribe.
    pub device_secret: String,
}

impl fmt::Debug for PlainRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainRequest").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// What a backend answers: an id, or an error. Where both stand, it is an error.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reply {
    /// The device's id from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// Whatever the device needs to log in with; never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Value>,
    /// Why not, for programs: `clock`, `replay`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The backend's clock, with `error: clock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<Timestamp>,
    /// The request's nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
    /// Added by [`Reply::signed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("device_id", &self.device_id)
            .field("error", &self.error)
            .field("message", &self.message)
            .field("server_time", &self.server_time)
            .finish_non_exhaustive()
    }
}

/// Why a request cannot be answered with an id.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No JSON.
    #[error("the request is not JSON")]
    Malformed(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("the request is not a JSON object")]
    NotAnObject,
    /// No `proof`.
    #[error("the request has no proof")]
    MissingProof,
    /// A `proof` that lacks a field, or has one of the wrong kind.
    #[error("the proof of the request is malformed")]
    MalformedProof(#[source] serde_json::Error),
    /// A `method` other than [`METHOD`].
    #[error("the proof's method is unknown; known is {METHOD}")]
    UnknownMethod,
    /// A `mac` that is not this request's: another secret, or an altered request.
    #[error("the mac is wrong: the device has another secret, or the request was altered")]
    BadMac,
    /// Properly signed, but a field is missing or of the wrong kind.
    #[error("a field of the request is missing or wrong")]
    Fields(#[source] serde_json::Error),
}

/// Why a reply is not to be believed, or says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// No JSON object, or a field of the wrong kind.
    #[error("the reply is malformed")]
    Malformed(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("the reply is not a JSON object")]
    NotAnObject,
    /// No `mac`.
    #[error("the reply has no mac")]
    MissingMac,
    /// A `mac` that is not this reply's: another secret, another client's reply, or an altered one.
    #[error("the mac is wrong: the backend has another secret, or the reply was altered")]
    BadMac,
    /// Authentic, but the answer to another request, or to none.
    #[error("the reply answers another request")]
    WrongNonce,
    /// Neither `device_id` nor `error`.
    #[error("the reply has neither a device_id nor an error")]
    Empty,
    /// A `device_id` that cannot be one.
    #[error("the reply's device_id cannot be used")]
    InvalidId(#[source] IdError),
    /// A `device_id` that is not even text.
    #[error("the reply's device_id is not a string")]
    IdNotText,
}

impl Request {
    /// The request with its proof, as JSON.
    pub fn signed(mut self, psk: &Psk, nonce: Nonce, timestamp: Timestamp) -> Vec<u8> {
        self.proof = None;
        let body = serde_json::to_value(&self).expect("text keys and finite numbers make JSON");
        let mac =
            proof::sign_request(psk, self.client_id.as_str(), nonce.as_str(), &timestamp.to_string(), &body);
        self.proof = Some(Proof { method: METHOD.into(), nonce, timestamp, mac });
        serde_json::to_vec(&self).expect("text keys and finite numbers make JSON")
    }
}

impl Reply {
    /// The reply to `client_id`'s request with `nonce`, with its mac, as JSON.
    pub fn signed(mut self, psk: &Psk, client_id: &ClientId, nonce: Nonce) -> Vec<u8> {
        self.mac = None;
        self.nonce = Some(nonce.clone());
        let body = serde_json::to_value(&self).expect("text keys and finite numbers make JSON");
        self.mac = Some(proof::sign_reply(psk, client_id.as_str(), nonce.as_str(), &body));
        self.unsigned()
    }

    /// The reply to a device that asks with `proof: plain`, as JSON.
    pub fn unsigned(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text keys and finite numbers make JSON")
    }
}

/// A request that proves knowledge of `psk`. Whether it is fresh and no replay is for the caller to find out.
///
/// The mac is checked over the object as received, unknown fields included, and over the strings of the proof as
/// received.
pub fn open_request(psk: &Psk, bytes: &[u8]) -> Result<Request, RequestError> {
    let Value::Object(mut body) = serde_json::from_slice(bytes).map_err(RequestError::Malformed)? else {
        return Err(RequestError::NotAnObject);
    };
    let received = body.remove("proof").filter(|p| !p.is_null()).ok_or(RequestError::MissingProof)?;
    let proof: Proof = Deserialize::deserialize(&received).map_err(RequestError::MalformedProof)?;
    if proof.method != METHOD {
        return Err(RequestError::UnknownMethod);
    }
    let timestamp = received["timestamp"].as_str().unwrap_or_default();
    let client_id = body.get("client_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let body = Value::Object(body);
    if !proof::verify_request(psk, [&client_id, proof.nonce.as_str(), timestamp], &body, &proof.mac) {
        return Err(RequestError::BadMac);
    }
    let request: Request = serde_json::from_value(body).map_err(RequestError::Fields)?;
    Ok(Request { proof: Some(proof), ..request })
}

/// Whom a request that [`open_request`] refused claims to come from, as far as it can be read: enough to say
/// so in a log or an answer, proof of nothing.
pub fn claimed_sender(bytes: &[u8]) -> (Option<ClientId>, Option<Nonce>) {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let client_id = text(&value["client_id"]).and_then(|id| ClientId::try_from(id).ok());
    (client_id, text(&value["proof"]["nonce"]).and_then(|nonce| Nonce::try_from(nonce).ok()))
}

/// A reply that proves knowledge of `psk` and answers `client_id`'s request with `nonce`.
pub fn open_reply(psk: &Psk, client_id: &ClientId, nonce: &Nonce, bytes: &[u8]) -> Result<Reply, ReplyError> {
    let mut body = object(bytes)?;
    let mac = body.remove("mac").ok_or(ReplyError::MissingMac)?;
    let mac = mac.as_str().unwrap_or_default();
    let echoed = body.get("nonce").and_then(Value::as_str).unwrap_or_default().to_owned();
    let body = Value::Object(body);
    // Over the nonce it claims, so that an authentic answer to an earlier request is told from a forgery.
    if !proof::verify_reply(psk, client_id.as_str(), &echoed, &body, mac) {
        return Err(ReplyError::BadMac);
    }
    if echoed != nonce.as_str() {
        return Err(ReplyError::WrongNonce);
    }
    decode_reply(body)
}

/// The reply to a request with `proof: plain`, which nothing protects.
pub fn open_plain_reply(bytes: &[u8]) -> Result<Reply, ReplyError> {
    decode_reply(Value::Object(object(bytes)?))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, ReplyError> {
    match serde_json::from_slice(bytes).map_err(ReplyError::Malformed)? {
        Value::Object(map) => Ok(map),
        _ => Err(ReplyError::NotAnObject),
    }
}

fn decode_reply(mut body: Value) -> Result<Reply, ReplyError> {
    let device_id = match body["device_id"].take() {
        Value::Null => None,
        Value::String(id) => Some(DeviceId::try_from(id).map_err(ReplyError::InvalidId)?),
        _ => return Err(ReplyError::IdNotText),
    };
    let reply: Reply = serde_json::from_value(body).map_err(ReplyError::Malformed)?;
    if device_id.is_none() && reply.error.is_none() {
        return Err(ReplyError::Empty);
    }
    Ok(Reply { device_id, ..reply })
}
